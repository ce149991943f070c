"""Which tokens hold no longer, though they have not expired: kept in Valkey until they would have, known to every process."""

from __future__ import annotations

import time

from ..rules.identity import Grant, Identity
from ..store.history import History

__all__ = ["Revocations"]

MOST = 100_000


class Revocations:
    """A user's tokens that were issued before a time, or one token by its id. Times are unix seconds."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._key = f"{history.layout.prefix}:revoked"
        self._users: dict[str, tuple[float, float]] = {}  # user → issued before, until
        self._tokens: dict[str, float] = {}  # id → until

    def covers(self, token: Identity | Grant) -> bool:
        """Whether it was revoked. A token that does not say when it was issued was issued before."""
        if not self._users and not self._tokens:
            return False
        before, until = self._users.get(token.user, (0.0, 0.0)) if token.user else (0.0, 0.0)
        now = time.time()
        return (now < until and token.issued_at < before) or (bool(token.token_id) and now < self._tokens.get(token.token_id, 0.0))

    def add(self, user: str, token_id: str, before: float, until: float) -> None:
        if user:
            older = self._users.get(user, (0.0, 0.0))
            self._users[user] = (max(before, older[0]), max(until, older[1]))
        if token_id:
            self._tokens[token_id] = max(until, self._tokens.get(token_id, 0.0))

    async def keep(self, user: str, token_id: str, before: float, until: float) -> None:
        """Writes it down for processes that start later. Raises StoreError."""
        commands, now = self._history.commands, time.time()
        # `until` is the score, so what is over goes by itself at the next change.
        member = f"user {before:.3f} {user}" if user else f"token {token_id}"
        await commands.call(b"ZADD", self._key, b"GT", until, member)
        await commands.call(b"ZREMRANGEBYSCORE", self._key, b"-inf", now)
        await commands.call(b"ZREMRANGEBYRANK", self._key, 0, -(MOST + 1))

    async def load(self) -> None:
        """What was revoked before this process was there, or while its link was away. Raises StoreError."""
        found = await self._history.commands.call(b"ZRANGEBYSCORE", self._key, time.time(), b"+inf", b"WITHSCORES")
        for member, until in zip(found[::2], found[1::2], strict=True):
            kind, _, rest = member.decode().partition(" ")
            if kind == "user":
                before, _, user = rest.partition(" ")
                self.add(user, "", float(before), float(until))
            else:
                self.add("", rest, 0.0, float(until))
        self._forget()

    def _forget(self) -> None:
        now = time.time()
        self._users = {user: kept for user, kept in self._users.items() if kept[1] > now}
        self._tokens = {id: until for id, until in self._tokens.items() if until > now}
