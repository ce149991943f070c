"""Tokens: which user a client claims to be, and how that is verified.

keys         the keys that verify tokens, from secrets, a file or a key server
key_server   reading a key server's answer within one deadline
signatures   the form and the signature of any token
plain_tokens verifying nearly all tokens quickly
token_faults what is wrong with a token, in sentences
known_tokens what verified tokens grant, while they are in force
fingerprint  which keys there are, so that gateways can compare theirs
admin_keys   the console's keys, and what is signed for its sessions
tokens       verifying and minting JSON Web Tokens
"""
