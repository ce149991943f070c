"""Everything that goes wrong, and whose fault it is.

    GatewayError
    ├── ConfigurationError    the operator's fault: says which key is wrong, and what it should be
    ├── StoreError            Valkey answered with an error
    │   ├── Unavailable       Valkey cannot be reached, or did not answer in time; trying again may help
    │   ├── NotPermitted      the user's rights in Valkey (ACL) do not allow it
    │   └── QueueFull         a work queue holds as many jobs as it may; trying again later may help
    ├── JobFailed             a job whose result is awaited ended without one: the message is the handler's error
    ├── TokenInvalid          a token that does not pass the checks
    │   ├── KeyUnknown        it is signed with a key that is not known yet: after keys were fetched, it may pass
    │   └── TokenEarly        its time has not come, by the clock here: the same token, or another one, passes later
    ├── TokenStale            a token that passes every check but that of its time
    ├── ClientError           the client's fault, or ours towards it: an `error` in a reply, the connection stays open
    │   ├── Internal … UnrecoverablePosition       one class per code of docs/reference/errors-and-close-codes.md
    │   └── Failure           a backend service's refusal, with a code and a message of its own
    └── Disconnect            closes the connection with a close code of the same page

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
    "JobFailed",
    "KeyUnknown",
    "LimitExceeded",
    "MethodNotFound",
    "NotAvailable",
    "NotPermitted",
    "PermissionDenied",
    "QueueFull",
    "StoreError",
    "TokenEarly",
    "TokenExpired",
    "TokenInvalid",
    "TokenStale",
    "TooManyRequests",
    "Unavailable",
    "UnknownChannel",
    "UnrecoverablePosition",
    "is_general",
]


class GatewayError(Exception):
    """The root of all errors raised on purpose."""


class ConfigurationError(GatewayError):
    """A configuration that cannot work. The message names the key and the remedy."""


class StoreError(GatewayError):
    """Valkey refused a command; the message is Valkey's."""

    @property
    def is_wrong_type(self) -> bool:
        """Whether the key holds a value of another type than the command's: another program wrote there."""
        return str(self).startswith("WRONGTYPE")

    @property
    def is_general(self) -> bool:
        """Whether Valkey carries out nothing of this kind for anybody. That is logged once: by the leases, and for Unavailable by the connection."""
        return str(self).startswith(("MISCONF", "OOM"))


class Unavailable(StoreError):
    """Valkey cannot be reached, or the connection went before it answered: whether a write happened is not known."""

    is_general = True


class NotPermitted(StoreError):
    """The rights of the program's user in Valkey do not allow a command; the message names the command, the user and the remedy."""


class QueueFull(StoreError):
    """A work queue holds as many jobs as it may, dead letters included: the job was not enqueued."""


class JobFailed(GatewayError):
    """A job whose result is awaited became a dead letter or was cancelled. The message is the reason: what its handler raised last."""


class TokenInvalid(GatewayError):
    """A token that does not pass. The message is for the log: it names the check that failed, and shows nothing of the token."""


class KeyUnknown(TokenInvalid):
    """The token names a key that is not known yet: fetch the keys, and check the token again."""


class TokenEarly(TokenInvalid):
    """The time of the token has not come: of the clock that wrote it and that of the gateway, one is wrong."""


class TokenStale(GatewayError):
    """A valid token whose time is over; the client needs a new one."""


class ClientError(GatewayError):
    """An error reply. ``code`` and ``message`` go over the wire, ``hint`` is for people.

    ``closes_with`` is the close code where the client waits for no reply that could carry the error. Source: docs/reference/errors-and-close-codes.md.
    ``is_general``: it comes from a StoreError that is, so its cause is logged already.
    """

    code = 100
    message = "internal server error"
    temporary = False
    closes_with = 3004
    is_general = False

    def __init__(self, hint: str = "") -> None:
        super().__init__(hint or self.message)
        self.hint = hint


class Internal(ClientError):
    """Something of ours failed; the client may try again."""

    temporary = True

    @classmethod
    def of(cls, error: StoreError) -> Internal:
        """The error reply to a command for which Valkey failed."""
        reply = cls(str(error))
        reply.is_general = error.is_general
        return reply


class UnknownChannel(ClientError):
    """The channel's namespace is not configured, or the name is none that a channel can have."""

    code, message = 102, "unknown channel"


class PermissionDenied(ClientError):
    """The channel's rules do not let this user do that."""

    code, message, closes_with = 103, "permission denied", 3507


class MethodNotFound(ClientError):
    """The rpc method is not one of the gateway's, and no service serves it."""

    code, message, closes_with = 104, "method not found", 3508


class AlreadySubscribed(ClientError):
    """The connection is subscribed to this channel already."""

    code, message = 105, "already subscribed"


class LimitExceeded(ClientError):
    """The request or the reply is larger, or the client has more channels, than the limits allow."""

    code, message, closes_with = 106, "limit exceeded", 3501


class BadRequest(ClientError):
    """The request does not have the form that it should have; the hint names what is wrong."""

    code, message, closes_with = 107, "bad request", 3501


class NotAvailable(ClientError):
    """The channel has no history, or no presence, by its rules; or no service serves any rpc method."""

    code, message, closes_with = 108, "not available", 3508


class TokenExpired(ClientError):
    """The token's time is over; SDKs ask the application for a new one and try again."""

    code, message = 109, "token expired"


class TooManyRequests(ClientError):
    """A rate limit is used up, or too many requests wait for a service; the client may try again later."""

    code, message, temporary, closes_with = 111, "too many requests", True, 3013


class UnrecoverablePosition(ClientError):
    """The position is one of another life of the channel's history, so nothing follows it."""

    code, message = 112, "unrecoverable position"


class Failure(ClientError):
    """A service's refusal. Codes 400 to 1999 reach the client, with the message; any other code becomes 100."""

    def __init__(self, code: int, message: str, *, temporary: bool = False) -> None:
        super().__init__(message)
        self.code, self.message, self.temporary = code, message, temporary


class Disconnect(GatewayError):
    """Closes a connection with ``code``. SDKs connect again after 3000–3499 and 4000–4499, and do not after the others.

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

    @property
    def is_final(self) -> bool:
        """Whether SDKs do not connect again by themselves."""
        return 3500 <= self.code < 4000 or 4500 <= self.code < 5000


def is_general(error: Exception) -> bool:
    """Whether it is an error of Valkey as a whole, whose cause is logged once, and not for each command that failed of it."""
    return isinstance(error, StoreError) and error.is_general
