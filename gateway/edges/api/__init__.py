"""The server API: ``POST /api/<method>``.

endpoint   the HTTP side
methods    the table of methods, those that ask what there is, and the batch
publishing  those that bring something in
client_orders  those about clients, wherever they are
outcomes   the results and errors of several calls
requests   what the methods take
unknown_fields  fields of a request that mean nothing, named in its answer
results    what they answer
openapi    the schema of all HTTP paths
direct     publishing without the application
command_lines  several commands at one path, as older libraries send them
plans      what requests that do nothing but publish have Valkey do
known_heads  heads of requests that a connection repeats
"""
