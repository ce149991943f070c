"""The server API: ``POST /api/<method>``.

endpoint   the HTTP side
methods    a function for each method
requests   what the methods take
results    what they answer
openapi    the schema of all HTTP paths
"""
