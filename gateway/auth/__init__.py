"""Tokens: which user a client claims to be, and how that is verified.

keys         the keys that verify tokens, from secrets, a file or a key server
key_server   reading a key server's answer within one deadline
tokens       verifying and minting JSON Web Tokens
"""
