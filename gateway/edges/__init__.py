"""The edges: what the outside world connects to.

    server      uvicorn's HTTP protocol, with the handshake to WebSocket and direct writing for event streams
    websocket   a WebSocket connection as an outlet of a session
    sse         server-sent events: who may open which stream, and where it starts
    stream      one event stream as the end of the hub's subscriptions
    emulation   WebSocket in two halves, a stream and POSTs, as an outlet of a session
    output      where the bytes of a stream go: to the transport, or through ASGI
    api         the server API, history and health over HTTP
    pages       the landing page and static files
    headers     what every answer says to browsers
    requests    what all of them read from a request: token, API key, origin
"""
