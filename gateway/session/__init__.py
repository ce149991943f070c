"""One client: who it is, what it may do, what it is subscribed to, and by when it must have answered.

node                  what all clients of a process share
session               one connection's state
methods               a function for each method of the protocol
client_subscription   a channel of a session
deadlines             what a session must have done by when
orders                what backends ask of the clients of this process
"""
