"""One client: its identity, its rights, its subscriptions, and by when it must have answered.

node                  what all clients of a process share
admission             the registry of clients, and whether one more may connect
authentication        from tokens to identities and grants
session               one connection's state
methods               a function for each method of the protocol
client_subscription   a channel of a session
deadlines             what a session must have done by when
orders                what backends ask of the clients of this process
"""
