"""The edges: what the outside world connects to.

application         which edge answers which request
first_read          an accepted socket until its first bytes, which are a WebSocket handshake or HTTP
lost_upgrade        an ordinary request at the address for WebSockets, as a handshake whose header Upgrade a proxy removed
http_protocol       uvicorn's HTTP protocol, with the handshake to WebSocket, direct answers, and direct writing for streams
http_bounds         its bounds: what a client may have it hold, and for how long
time_limits         how long a connection waits, and for what
closing             sockets whose clients are gone, closed a few in each turn of the loop
uvicorn_internals   everything undocumented of uvicorn that is used, and why
websocket           a WebSocket connection as an outlet of a session
websocket_handshake the answer to a handshake
websocket_frames    the frames that nearly all clients send
websocket_asgi      the same on any ASGI server
emulation           WebSocket in two halves, a stream and POSTs, as an outlet of a session
session_outlet      what these three outlets have in common: the answers to one message leave in one write
sse                 server-sent events
outlets             where the bytes of sockets and streams go: to the transport, or through ASGI
api                 the server API over HTTP
pull                history and the inbox over HTTP, for clients with a token
health              whether this process lives, and takes clients
doctor_view         what this process sees of a request, for ``gateway doctor``
pages               the landing page and static files
request             what all of them read from a request: token, API key, origin, address, body
responses           what their responses have in common
security_headers    the headers for browsers that every response carries
"""
