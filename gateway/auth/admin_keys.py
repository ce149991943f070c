"""The console's keys: who may use it with which role, and what is signed for a session of it.

A session is in no memory and no store. All that there is of it is a text that its browser holds:

    v1.ROLE.ID.UNTIL.KEY.SIGNATURE

KEY names the admin key that the operator logged in with, and the signature is made with a secret derived from that key. So every process with
the same keys accepts the text, also while Valkey is away, and a key that is removed from the configuration ends its sessions. The text
of each purpose (the cookie, a token for live connections, the value against forged requests) is signed differently.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from typing import Literal, NamedTuple

__all__ = ["LIVE_PREFIX", "READ", "WRITE", "AdminKeys", "AdminSession", "Role"]

Role = Literal["read", "write"]
READ: Role = "read"
WRITE: Role = "write"
LIVE_PREFIX = "console."  # of tokens for live connections: no JSON Web Token begins so

# Some 30 ms for each key when a process starts, and for each guess of one who has stolen a cookie and looks for the key.
ITERATIONS = 100_000
KEY_DIGITS = 16
ID_BYTES = 16

_TEXT = re.compile(r"v1\.(read|write)\.([0-9a-f]{32})\.([0-9]{1,12})\.([0-9a-f]{16})\.([0-9a-f]{64})").fullmatch


class AdminSession(NamedTuple):
    """One log-in: ``until`` is unix time in seconds, ``key`` names the admin key, of which it shows nothing."""

    role: Role
    id: str
    until: int
    key: str

    @property
    def body(self) -> str:
        """What is signed of it."""
        return f"v1.{self.role}.{self.id}.{self.until}.{self.key}"


class _AdminKey(NamedTuple):
    """``digest`` is of the key as it is given, ``secret`` what signs for it."""

    role: Role
    name: str
    digest: bytes
    secret: bytes


class AdminKeys:
    """The keys of ``admin_keys`` (``write``) and ``admin_read_keys`` (``read``); false where there are none."""

    def __init__(self, write: Iterable[str] = (), read: Iterable[str] = ()) -> None:
        given = [(WRITE, key) for key in write] + [(READ, key) for key in read]
        self._keys = [_prepared(role, key) for role, key in given]
        self._by_name = {key.name: key for key in self._keys}

    def __bool__(self) -> bool:
        return bool(self._keys)

    def log_in(self, given: str, until: int) -> AdminSession | None:
        """A new session for one who has this key; None for a wrong key. Compares with every key, each in constant time."""
        digest = _digest(given)
        fitting = [key for key in self._keys if hmac.compare_digest(digest, key.digest)]
        return AdminSession(fitting[0].role, secrets.token_hex(ID_BYTES), until, fitting[0].name) if fitting else None

    def cookie(self, session: AdminSession) -> str:
        """The text that identifies the session, for the browser's cookie."""
        return self._signed("cookie", session)

    def session_of(self, cookie: str, now: float) -> AdminSession | None:
        """The session of a cookie; None if it is no good, or over."""
        return self._read("cookie", cookie, now)

    def against_forgery(self, session: AdminSession) -> str:
        """What requests of the session carry in a header, which no page of another site can know."""
        return self._signature("csrf", session)

    def live_token(self, session: AdminSession, until: int) -> str:
        """A token for live connections of the session, until this unix time or the session's end. It has three parts, for clients look
        whether a token may be a JSON Web Token."""
        shorter = session._replace(until=min(until, session.until))
        return f"{LIVE_PREFIX}{shorter.body.replace('.', '-')}.{self._signature('live', shorter)}"

    def session_of_live(self, token: str) -> AdminSession | None:
        """The session of a token that ``live_token`` made, with the end of the token, which may be over; None if it is no good."""
        return self._read("live", token.removeprefix(LIVE_PREFIX).replace("-", "."), 0)

    def _signed(self, purpose: str, session: AdminSession) -> str:
        return f"{session.body}.{self._signature(purpose, session)}"

    def _signature(self, purpose: str, session: AdminSession) -> str:
        return hmac.new(self._by_name[session.key].secret, f"{purpose} {session.body}".encode(), hashlib.sha256).hexdigest()

    def _read(self, purpose: str, text: str, now: float) -> AdminSession | None:
        parts = _TEXT(text)
        key = self._by_name.get(parts[4]) if parts else None
        if parts is None or key is None:
            return None
        session = AdminSession(key.role, parts[2], int(parts[3]), key.name)  # with the role that the key has now
        is_good = hmac.compare_digest(self._signature(purpose, session), parts[5]) and parts[1] == key.role
        return session if is_good and session.until > now else None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode(errors="surrogatepass")).digest()


def _prepared(role: Role, key: str) -> _AdminKey:
    secret = hashlib.pbkdf2_hmac("sha256", key.encode(), b"gateway console", ITERATIONS)
    name = hmac.new(secret, b"name", hashlib.sha256).hexdigest()[:KEY_DIGITS]
    return _AdminKey(role, name, _digest(key), secret)
