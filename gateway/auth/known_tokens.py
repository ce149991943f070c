"""What verified tokens grant, for clients that come back with the same token: after a deployment all of them do, within seconds."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from itertools import islice

from ..rules.identity import Grant, Identity

__all__ = ["KNOWN_MOST", "KnownTokens", "token_digest"]

KNOWN_MOST = 10_000  # tokens, at some 0.3 KiB each
LONGEST = 1024  # characters of a token that is remembered; a longer one may bring much with it
DIGEST_BYTES = 16
NOT_KNOWN: tuple[float, float, None] = (0.0, 0.0, None)


class KnownTokens:
    """The newest KNOWN_MOST tokens that were verified, until they end. ``now`` is the time of day, in unix seconds.

    It is safe to skip a signature that was verified, because only the same bytes find the entry: it is under a digest of the whole token,
    without any part of the token itself. So nobody finds an entry who does not have a token that is good already, and how long the search takes
    depends on no secret and on no part of a guess. What may change is looked at each time: here the token's time, since a clock may go back too,
    by the caller whether it was revoked. ``clear`` it when the keys change. Tokens that are refused are not stored.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._found: dict[bytes, tuple[float, float, Identity | Grant]] = {}  # the oldest first

    def __len__(self) -> int:
        return len(self._found)

    def find(self, digest: bytes, leeway: float) -> Identity | Grant | None:
        """What the token of this ``token_digest`` grants; None if it is not known, ended ``leeway`` seconds ago, or begins more than ``leeway`` seconds from now."""
        since, until, found = self._found.get(digest, NOT_KNOWN)
        if found is None:
            return None
        now = self._now()
        if until <= now - leeway:
            del self._found[digest]
            return None
        return found if since <= now + leeway else None

    def add(self, digest: bytes, since: float, until: float, found: Identity | Grant) -> None:
        """The token was verified just now, and may be presented from ``since`` ``until`` these unix times."""
        if not digest:
            return
        if len(self._found) >= KNOWN_MOST:  # half of them together, for a dict finds its first key ever later as it turns
            self._found = dict(islice(self._found.items(), KNOWN_MOST // 2, None))
        self._found[digest] = since, until, found

    def clear(self) -> None:
        self._found.clear()


def token_digest(token: str) -> bytes:
    """What a token is remembered by; b"" for one that is too long to be remembered."""
    return blake2b(token.encode(errors="surrogatepass"), digest_size=DIGEST_BYTES).digest() if len(token) <= LONGEST else b""
