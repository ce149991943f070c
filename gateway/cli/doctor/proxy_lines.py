"""The lines by which proxies pass on what the gateway needs. ``gateway recipe`` prints whole files."""

from __future__ import annotations

__all__ = ["line_for"]

OTHER = ""  # a proxy that does not name itself: HAProxy, a load balancer

LINES: dict[str, dict[str, str]] = {
    "upgrade": {
        "nginx": 'proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";',
        "caddy": "reverse_proxy HOST:PORT    (it passes WebSockets on; another directive answers this path first)",
        OTHER: "pass the headers Upgrade and Connection on, and speak HTTP/1.1 to the gateway (HAProxy does: mode http)",
    },
    "buffering": {
        "nginx": "proxy_buffering off; gzip off;    (or take text/event-stream out of gzip_types)",
        # "flush_interval -1" changes nothing for streams, and would have Caddy go on with those that their client has left.
        "caddy": "no buffer_responses, and no response_buffers    (in reverse_proxy: Caddy passes streams on at once by itself)",
        OTHER: "do not buffer responses, and do not compress text/event-stream",
    },
    "idle": {
        "nginx": "proxy_read_timeout {seconds}s; proxy_send_timeout {seconds}s;",
        "caddy": "read_timeout {seconds}s    (in the transport http of reverse_proxy; from Caddy 2.7 on, in reverse_proxy: stream_timeout 0)",
        OTHER: "HAProxy: timeout client {seconds}s, timeout server {seconds}s, timeout tunnel 1h; a load balancer: idle timeout {seconds} s",
    },
    "forwarded": {
        "nginx": "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
        "caddy": "no header_up that names X-Forwarded-For    (in reverse_proxy: Caddy reports the client's address by itself)",
        OTHER: "HAProxy: option forwardfor, without if-none; others: append the client's address to X-Forwarded-For",
    },
    "host": {
        "nginx": "proxy_set_header Host $http_host;",
        "caddy": "header_up Host {{hostport}}    (in reverse_proxy)",
        OTHER: "pass Host on as the browser sent it",
    },
    "version": {
        "nginx": 'proxy_http_version 1.1; proxy_set_header Connection "";',
        OTHER: "speak HTTP/1.1 to the gateway",
    },
    "headers": {
        "nginx": "proxy_pass_request_headers on;    (and no proxy_set_header that empties one of them)",
        OTHER: "pass these headers on as they come",
    },
    "size": {
        "nginx": "client_max_body_size {size}k;",
        "caddy": "max_size {size}KB    (in request_body)",
        OTHER: "let request bodies have {size} KiB",
    },
}


def line_for(server: str, what: str, **values: object) -> str:
    """The line for the proxy that calls itself ``server`` in its answers, "" for one that does not; ``what`` is a key of LINES."""
    lines = LINES[what]
    name = next((name for name in lines if name and name in server.lower()), OTHER)
    return lines[name].format(**values)
