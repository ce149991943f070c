"""What processes tell each other, through Valkey.

bus           messages to every process, questions, and leases
presence      which clients are in a channel
revocations   tokens that are not valid any more
events        who connected, subscribed and left, for backends
"""
