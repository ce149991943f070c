"""``gateway serve``: uvicorn with our protocols around the application.

server      one process: port, start, end
tls         TLS handshakes, bounded in number and time
systemd     what systemd passes to a service, and what it is sent
descriptors a process without file descriptors for connections logs it
certificate what is wrong with the certificate and its key
upkeep      of the embedded Valkey
workers     several processes that share the port
first_run   the secrets that a first run makes and stores
"""
