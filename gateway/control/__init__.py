"""What processes send each other, and store for each other, in Valkey.

messages      the structs of control messages, as JSON
questions     what operators ask all processes about their clients
leases        which processes are alive
bus           messages to every process, surveys, and commands for one process
presence      which clients are in a channel
revocations   tokens that are not valid any more
events        which client connected, subscribed and left, for backends
rules_check   whether the channels' rules in Valkey are this gateway's
secrets_check whether all gateways check tokens with the same keys
"""
