"""Which tokens were revoked before they expired: stored in Valkey until they would have expired, and known to every process."""

from __future__ import annotations

import re
import time

from ..rules.identity import Grant, Identity
from ..store.history import History

__all__ = ["Revocations"]

STORED_MOST = 100_000  # in Valkey; beyond that, those that end first are forgotten
HELD_LEAST = 1024  # in a process, before it looks which of them are over, and again when there are twice as many as are in force

_SECONDS = re.compile(r"[0-9]{1,310}(\.[0-9]+)?").fullmatch


class Revocations:
    """A user's tokens that were issued before a time, or one token by its id. Times are unix seconds.

    A revocation is stored first (``persist``), then announced to every process, which calls ``add``. ``len()`` is how many this process
    holds: those that are in force, and at most as many or HELD_LEAST again.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._key = f"{history.layout.prefix}:revoked"
        self._users: dict[str, tuple[float, float]] = {}  # user → issued before, until
        self._tokens: dict[str, float] = {}  # id → until
        self._most = HELD_LEAST

    def __len__(self) -> int:
        return len(self._users) + len(self._tokens)

    def covers(self, token: Identity | Grant) -> bool:
        """Whether the token was revoked. One without the time of its issue counts as issued before any time."""
        if not self._users and not self._tokens:
            return False
        before, until = self._users.get(token.user, (0.0, 0.0)) if token.user else (0.0, 0.0)
        now = time.time()
        return (now < until and token.issued_at < before) or (bool(token.token_id) and now < self._tokens.get(token.token_id, 0.0))

    def of_user(self, user: str) -> tuple[float, float]:
        """The time before which the user's tokens were issued that are revoked, and until when they are: (0, 0) for none."""
        return self._users.get(user, (0.0, 0.0)) if user else (0.0, 0.0)

    def add(self, user: str, token_id: str, before: float, until: float) -> None:
        """In this process: the user's tokens issued before ``before``, and the token ``token_id``, are revoked until ``until``."""
        if user:
            older = self._users.get(user, (0.0, 0.0))
            self._users[user] = (max(before, older[0]), max(until, older[1]))
        if token_id:
            self._tokens[token_id] = max(until, self._tokens.get(token_id, 0.0))
        if len(self) > self._most:
            self._forget_expired()

    async def persist(self, user: str, token_id: str, before: float, until: float) -> None:
        """Stores a revocation for processes that start later. Raises StoreError."""
        commands, now = self._history.commands, time.time()
        # `until` is the score, so that what is over can be removed with the next change.
        member = f"user {before:.3f} {user}" if user else f"token {token_id}"
        await commands.call(b"ZADD", self._key, b"GT", until, member)
        await commands.call(b"ZREMRANGEBYSCORE", self._key, b"-inf", now)
        await commands.call(b"ZREMRANGEBYRANK", self._key, 0, -(STORED_MOST + 1))

    async def load(self) -> None:
        """Takes over what was revoked before this process started, or while its link was lost. Raises StoreError."""
        found = await self._history.commands.call(b"ZRANGEBYSCORE", self._key, time.time(), b"+inf", b"WITHSCORES", repeatable=True)
        for member, until in zip(found[::2], found[1::2], strict=True):
            try:
                self.add(*_read_member(member), float(until))
            except ValueError as error:
                self._history.layout.faults.found("revocation", self._key, f"{member[:60]!r}: {error}")
        self._forget_expired()

    def _forget_expired(self) -> None:
        now = time.time()
        self._users = {user: times for user, times in self._users.items() if times[1] > now}
        self._tokens = {id: until for id, until in self._tokens.items() if until > now}
        self._most = max(HELD_LEAST, 2 * len(self))


def _read_member(member: bytes) -> tuple[str, str, float]:
    """User, token id and issued before, as ``persist`` stores them; either of the first two is "". Raises ValueError."""
    kind, _, rest = member.decode().partition(" ")
    if kind == "token":
        return "", rest, 0.0
    before, _, user = rest.partition(" ")
    if kind != "user" or not _SECONDS(before):  # NaN would be less than no other time, and so revoke nothing
        raise ValueError("it names neither a user with a time nor a token")
    return user, "", float(before)
