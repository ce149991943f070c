"""``gateway serve``: uvicorn with our protocols around the application.

server      one process: port, start, drain
tls         TLS handshakes, bounded in number and time
workers     several processes that share the port
first_run   the secrets that a first run makes and stores
"""
