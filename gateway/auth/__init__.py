"""Tokens: which user a client claims to be, and how that is verified.

keys     the keys that verify tokens, from secrets, a file or a key server
tokens   verifying and minting JSON Web Tokens
"""
