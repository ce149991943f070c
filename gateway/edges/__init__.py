"""The edges: what the outside world connects to.

application which edge answers which request
server      uvicorn's HTTP protocol, with the handshake to WebSocket and direct writing for event streams
websocket   a WebSocket connection as an outlet of a session
asgi        the same on any ASGI server
sse         server-sent events: who may open which stream, and where it starts
stream      one event stream as the end of the hub's subscriptions
emulation   WebSocket in two halves, a stream and POSTs, as an outlet of a session
output      where the bytes of a stream go: to the transport, or through ASGI
api         the server API over HTTP
methods     what it can do, a function each
shapes      what the methods take
results     what they answer, for the schema
openapi     the schema of it all
clients     history and the inbox over HTTP, for clients with a token
health      whether this process lives, and takes clients
pages       the landing page and static files
requests    what all of them read from a request: token, API key, origin, body
answers     what their answers have in common
headers     what every answer says to browsers
"""
