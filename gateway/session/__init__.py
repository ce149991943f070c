"""One client: its identity, its rights, its subscriptions, and by when it must have answered.

node                  what all clients of a process share
admission             the registry of clients, and whether one more may connect
places                the places for sockets, which the limits of connections bound
authentication        from tokens to identities and grants
states                the states of a client's connection, and which may follow which
deadlines             by when a client of any edge must have done what; pings; the full socket
dispatch              the commands of a client: decoded, queued, handed on in order
refusals              which refused commands are logged, and when there are too many
session               one client of the protocol, from its connection's first byte to its end
methods               a handler for each method of the protocol
client_subscription   a channel of a session
outlet                the way from a session to its client, which an edge implements
drain                 how clients are sent elsewhere, one after the other
control_orders        what backends ask of the clients of this process
client_views          what operators ask about them
client_counts         what clients and backends did, in numbers
"""
