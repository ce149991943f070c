"""Everything private or undocumented of uvicorn that the gateway uses, and why: the one list.

``edges/http_protocol.py``, ``edges/http_bounds.py`` and ``serve/server.py`` extend uvicorn's classes; ``edges/first_read.py`` and ``serve/tls.py`` are
made in place of one, ``edges/api/direct.py`` stands for another, and ``edges/outlets.py`` borrows the connection. The documented side (``Config``,
``Server.run``, ASGI) may be relied on; what is listed here may move with any minor version. So ``pyproject.toml`` bounds uvicorn at the
minor that was tested, and ``tests/serve/test_uvicorn.py`` names what a new version moved, and what the gateway uses without listing it.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["INTERNALS", "Internal"]


class Internal(NamedTuple):
    """``owner`` is the dotted path of a class, or of a module, that has ``name``.

    ``parameters`` are those of a call, without ``self``; None for an attribute that the class assigns.
    """

    owner: str
    name: str
    parameters: tuple[str, ...] | None
    why: str


_HTTP = "uvicorn.protocols.http.httptools_impl.HttpToolsProtocol"
_CYCLE = "uvicorn.protocols.http.httptools_impl.RequestResponseCycle"
_FLOW = "uvicorn.protocols.http.flow_control.FlowControl"
_STATE = "uvicorn.server.ServerState"
_SERVER = "uvicorn.server.Server"

INTERNALS = (
    # A connection. HttpProtocol sets up itself what uvicorn's connection_made sets up, without asking the socket for its addresses.
    Internal(
        _HTTP,
        "__init__",
        ("config", "server_state", "app_state", "_loop"),
        "FirstRead and TlsHandshake are made with these, and make an HttpProtocol with them",
    ),
    Internal(_HTTP, "transport", None, "the socket, which streams and WebSockets are given"),
    Internal(_HTTP, "flow", None, "made in connection_made; reading goes on when the connection is handed over"),
    Internal(_HTTP, "server", None, "the scope's address of this server, set in connection_made"),
    Internal(_HTTP, "client", None, "the scope's address of the client, set in connection_made"),
    Internal(_HTTP, "scheme", None, "the scope's scheme, set in connection_made"),
    Internal(_HTTP, "connections", None, "the server ends when it is empty: a stream that is still being read is in it"),
    Internal(_HTTP, "loop", None, "the clock of the time limits"),
    Internal(_HTTP, "config", None, "given to a WebSocket connection"),
    Internal(_HTTP, "server_state", None, "given to a WebSocket connection"),
    Internal(_HTTP, "app_state", None, "the lifespan's state: it holds the node"),
    Internal(_HTTP, "shutdown", (), "called as the server ends; over TLS an idle client is not waited for"),
    Internal("uvicorn.protocols.utils", "is_ssl", ("transport",), "the scheme of a connection"),
    Internal(_FLOW, "__init__", ("transport",), "made in connection_made"),
    Internal(_FLOW, "pause_reading", (), "nothing is read while bytes wait to be parsed"),
    Internal(_FLOW, "resume_reading", (), "not while bytes wait to be parsed; a request that came in after a stream's had paused reading"),
    Internal(_FLOW, "write_paused", None, "a connection whose answers are not read becomes no stream"),
    # A request.
    Internal(_HTTP, "on_message_begin", (), "lends the connection to streams, and starts the clock of a request's head"),
    Internal(_HTTP, "on_url", ("url",), "counts the fields of the query"),
    Internal(_HTTP, "on_header", ("name", "value"), "leaves out the trailers of a body, which it would add to the headers"),
    Internal(_HTTP, "on_headers_complete", (), "ends the clock of a request's head"),
    Internal(_HTTP, "on_body", ("body",), "moves the clock of a request's body on"),
    Internal(_HTTP, "on_message_complete", (), "ends the clock of a request"),
    Internal(
        _HTTP,
        "_start_asgi_task",
        ("cycle", "app"),
        "the request whose coroutine runs, which is not the newest where requests are pipelined",
    ),
    Internal(_HTTP, "on_response_complete", (), "goes on with what was read of the next requests"),
    Internal(_HTTP, "expect_100_continue", None, "a request that waits for 100 Continue is not answered directly"),
    Internal(_STATE, "default_headers", None, "the Date of answers that are written directly"),
    Internal(_CYCLE, "body", None, "given to a request that turns out to need the application"),
    Internal(_CYCLE, "more_body", None, "given to a request that turns out to need the application"),
    Internal(_HTTP, "send_400_response", ("msg",), "a closing connection has a time limit"),
    Internal(_HTTP, "timeout_keep_alive", None, "how long the wait for a request may last after those that were answered directly"),
    Internal(_STATE, "total_requests", None, "counts the requests that were answered directly"),
    Internal(_HTTP, "timeout_keep_alive_handler", (), "a closing connection has a time limit"),
    Internal(_HTTP, "_unset_keepalive_if_required", (), "ends the timer of a connection that was reset, which would hold the connection"),
    Internal(_HTTP, "cycle", None, "the newest request: whether its response has begun, and is complete"),
    Internal(_HTTP, "scope", None, "its extensions lend the connection to streams"),
    Internal(_HTTP, "headers", None, "of the request that becomes a WebSocket"),
    Internal(_HTTP, "url", None, "of the request that becomes a WebSocket"),
    Internal(_HTTP, "pipeline", None, "requests that came in after a stream's are forgotten"),
    Internal(_HTTP, "parser", None, "it and the protocol hold each other: the cycle is cut when a connection is handed over"),
    Internal(_HTTP, "handle_websocket_upgrade", (), "gives the handshake to WebSocketConnection without writing and parsing it again"),
    Internal(
        _CYCLE, "disconnected", None, "set for the request that is being answered, which is not the newest where requests are pipelined"
    ),
    Internal(_CYCLE, "keep_alive", None, "false for a request whose socket has no place: its connection is closed after the answer"),
    Internal(_CYCLE, "scope", None, "whether the newest request is the one whose head is complete"),
    Internal(_CYCLE, "message_event", None, "wakes a request whose client is gone"),
    Internal(_CYCLE, "response_started", None, "whether an answer to a request that took too long may still be written"),
    Internal(_CYCLE, "response_complete", None, "whether the next request may come; set for a request whose connection was handed over"),
    Internal(_STATE, "connections", None, "calls shutdown() of what is in it, and waits for it"),
    Internal(_HTTP, "_should_upgrade", (), "whether a request asks for a WebSocket, and not for another protocol"),
    Internal(
        _HTTP,
        "_unsupported_upgrade_warning",
        (),
        "called where the parser took the head of a request that asks for another protocol for all of it",
    ),
    # The process.
    Internal(_SERVER, "servers", None, "closed before the drain, so that no client comes back to this process"),
    Internal(_SERVER, "started", None, "whether a start failed"),
    Internal(_SERVER, "should_exit", None, "set where the parent process is gone"),
    Internal(_SERVER, "force_exit", None, "a second Ctrl-C ends the drain"),
    Internal(_SERVER, "server_state", None, "whether connections are left on which a last request may come"),
    Internal(_SERVER, "config", None, "loaded early, so that a wrong certificate is an error of the configuration"),
    Internal(_SERVER, "serve", ("sockets",), "learns the loop"),
    Internal(_SERVER, "run", ("sockets",), "a start that failed raises SystemExit, which is not the user's answer"),
    Internal(_SERVER, "startup", ("sockets",), "the gateway is ready after it"),
    Internal(_SERVER, "shutdown", ("sockets",), "the drain comes before it"),
    Internal(_SERVER, "main_loop", (), "waits for the signal, where uvicorn looks ten times a second"),
    Internal(_SERVER, "on_tick", ("counter",), "writes the Date header, and returns whether to end"),
    Internal(_SERVER, "handle_exit", ("sig", "frame"), "wakes main_loop"),
    Internal(_SERVER, "capture_signals", (), "uvicorn raises the signal again after a clean end"),
    Internal(
        "uvicorn.config.Config", "lifespan_class", None, "replaced after load() by a lifespan that logs no traceback of a failed start"
    ),
    Internal("uvicorn.config.Config", "ssl", None, "taken after load(): TLS handshakes are the gateway's, which bounds them"),
    Internal("uvicorn.config.Config", "http_protocol_class", None, "replaced after load() where there is TLS"),
    Internal(_HTTP, "app", None, "what answers the next request, which is a refusal where its socket has no place"),
    Internal("uvicorn.config.Config", "loaded_app", None, "what answers a request whose socket has a place"),
    Internal("uvicorn.config.Config", "load", (), "called early, and fills lifespan_class"),
    Internal("uvicorn.lifespan.on.LifespanOn", "startup", (), "runs with uvicorn's log switched off"),
)
