"""Tokens: who a client says it is, and how that is verified.

tokens   verifying and minting JSON Web Tokens
keys     the keys that verify them, from secrets, a file or a key server
"""
