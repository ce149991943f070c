"""Everything that goes wrong, and whose fault it is.

    GatewayError
    ├── ConfigurationError    the operator's: says which key, and what it should be
    ├── StoreError            Valkey answered with an error
    │   └── Unavailable       Valkey cannot be reached, or did not answer in time; trying again may help
    ├── TokenInvalid          a token that is not one of ours
    │   └── KeyUnknown        signed with a key that is not known yet: once keys were fetched, it may be one of ours
    ├── TokenStale            a token of ours whose time is over
    ├── ClientError           the client's, or ours towards it: an `error` in a reply, the connection stays
    │   ├── Internal … UnrecoverablePosition       one class per code of PROTOCOL.md 1.5
    │   └── Failure           a backend service's, with a code and a message of its own
    └── Disconnect            ends the connection with a close code of PROTOCOL.md 1.6

A ``ClientError`` carries the protocol's code and text; ``hint`` goes to HTTP callers and to the log, where a
person reads it, and never changes ``message``, which SDKs show and compare.
"""

from __future__ import annotations

__all__ = [
    "AlreadySubscribed",
    "BadRequest",
    "ClientError",
    "ConfigurationError",
    "Disconnect",
    "Failure",
    "GatewayError",
    "Internal",
    "KeyUnknown",
    "LimitExceeded",
    "MethodNotFound",
    "NotAvailable",
    "PermissionDenied",
    "StoreError",
    "TokenExpired",
    "TokenInvalid",
    "TokenStale",
    "TooManyRequests",
    "Unauthorized",
    "Unavailable",
    "UnknownChannel",
    "UnrecoverablePosition",
]


class GatewayError(Exception):
    """The root of all errors raised on purpose."""


class ConfigurationError(GatewayError):
    """A configuration that cannot work. The message names the key and the remedy."""


class StoreError(GatewayError):
    """Valkey refused a command; the message is Valkey's."""


class Unavailable(StoreError):
    """Valkey cannot be reached, or the connection went before it answered: whether a write happened is not known."""


class TokenInvalid(GatewayError):
    """The message is for the log: it says which check failed, and shows nothing of the token."""


class KeyUnknown(TokenInvalid):
    """Ask for keys, and check it again."""


class TokenStale(GatewayError):
    """The token was good once; a new one will do."""


class ClientError(GatewayError):
    """An error reply. ``code`` and ``message`` go over the wire, ``hint`` is for people.

    ``closes_with`` ends the connection where nothing waits for a reply that could say it. Source: PROTOCOL.md 1.7, 1.13.
    """

    code = 100
    message = "internal server error"
    temporary = False
    closes_with = 3004

    def __init__(self, hint: str = "") -> None:
        super().__init__(hint or self.message)
        self.hint = hint


class Internal(ClientError):
    temporary = True


class Unauthorized(ClientError):
    code, message = 101, "unauthorized"


class UnknownChannel(ClientError):
    code, message = 102, "unknown channel"


class PermissionDenied(ClientError):
    code, message, closes_with = 103, "permission denied", 3507


class MethodNotFound(ClientError):
    code, message, closes_with = 104, "method not found", 3508


class AlreadySubscribed(ClientError):
    code, message = 105, "already subscribed"


class LimitExceeded(ClientError):
    code, message, closes_with = 106, "limit exceeded", 3501


class BadRequest(ClientError):
    code, message, closes_with = 107, "bad request", 3501


class NotAvailable(ClientError):
    code, message = 108, "not available"


class TokenExpired(ClientError):
    code, message = 109, "token expired"


class TooManyRequests(ClientError):
    code, message, temporary, closes_with = 111, "too many requests", True, 3013


class UnrecoverablePosition(ClientError):
    code, message = 112, "unrecoverable position"


class Failure(ClientError):
    """What a service refuses. Codes 400 to 1999 reach the client, with the message; all others become 100."""

    def __init__(self, code: int, message: str, *, temporary: bool = False) -> None:
        super().__init__(message)
        self.code, self.message, self.temporary = code, message, temporary


class Disconnect(GatewayError):
    """Ends a connection. SDKs come back after 3000–3499 and stay away after 3500–3999.

    ``reason`` defaults to the protocol's text, where it has one; ``hint`` is for the log alone.
    """

    REASONS = {
        3000: "connection closed",
        3001: "shutdown",
        3004: "internal server error",
        3005: "connection expired",
        3006: "subscription expired",
        3008: "slow",
        3009: "write error",
        3010: "insufficient state",
        3011: "force reconnect",
        3012: "no pong",
        3013: "too many requests",
        3014: "state invalidated",
        3500: "invalid token",
        3501: "bad request",
        3502: "stale",
        3503: "force disconnect",
        3504: "connection limit",
        3505: "channel limit",
        3506: "inappropriate protocol",
        3507: "permission denied",
        3508: "not available",
        3509: "too many errors",
    }

    def __init__(self, code: int, hint: str = "", *, reason: str = "") -> None:
        self.code = code
        self.reason = reason or self.REASONS.get(code, "disconnected")
        self.hint = hint
        super().__init__(f"{code} {self.reason}" + (f": {hint}" if hint else ""))
