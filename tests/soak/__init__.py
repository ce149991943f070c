"""The soak: a million connects to one gateway, and what is left of them. ``python -m tests.soak --connects 1000000``

__main__    the run: its arguments, its pace, its verdict
visitors    what one connect does, over WebSocket or an event stream, until it goes
backend     what the application's servers do meanwhile: publish, notify, revoke, disconnect
wires       the bytes: handshakes, frames, tokens, and a connection that reads up to a text
samples     what is measured: memory, descriptors and objects of the gateway, memory and keys of Valkey
observed    the gateway's program with a counter of its objects
"""
