"""The server API: ``POST /api/<method>``.

endpoint   the HTTP side
methods    a function for each method
requests   what the methods take
results    what they answer
openapi    the schema of all HTTP paths
direct     publishing without the application
plans      what requests that do nothing but publish have Valkey do
known_heads  heads of requests that a connection repeats
"""
