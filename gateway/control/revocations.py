"""Which tokens were revoked before they expired: stored in Valkey until they would have expired, and known to every process."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator, Sequence

from ..errors import StoreError
from ..rules.identity import Grant, Identity
from ..store.history import History
from ..store.layout import Word

__all__ = ["Revocations"]

log = logging.getLogger("gateway.control")

STORED_AT_ONCE = 500
STORED_MOST = 100_000  # in Valkey; beyond that, those that end first are forgotten
HELD_LEAST = 1024  # in a process, before it looks which of them are over, and again when there are twice as many as are in force

_SECONDS = re.compile(r"[0-9]{1,310}(\.[0-9]+)?").fullmatch


class Revocations:
    """A user's tokens that were issued before a time, or one token by its id. Times are unix seconds.

    A revocation is stored first (``persist``), then announced to every process, which calls ``add``. ``len()`` is how many this process
    holds: those that are in force, and others, at most as many again or HELD_LEAST.
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
        # `until` is the score, so that what is over can be removed with the next change.
        await self._store([until, _member(user, token_id, before)])

    async def _store(self, words: Sequence[Word]) -> None:
        """``words`` are scores and members by turns."""
        call = self._history.commands.call
        await call(b"ZADD", self._key, b"GT", *words)
        await call(b"ZREMRANGEBYSCORE", self._key, b"-inf", time.time())
        await call(b"ZREMRANGEBYRANK", self._key, 0, -(STORED_MOST + 1))

    async def load(self) -> None:
        """Takes over what was revoked before this process started, or while its link was lost. Raises StoreError.

        What this process holds and Valkey does not, as where it came back older than it was, is stored again: a process that starts
        later would let those tokens in.
        """
        call, now = self._history.commands.call, time.time()
        found = await call(b"ZRANGEBYSCORE", self._key, now, b"+inf", b"WITHSCORES", repeatable=True)
        stored = {member: float(until) for member, until in zip(found[::2], found[1::2], strict=True)}
        lost = [(member, until) for member, until in self._held() if until > now and until > stored.get(member, 0.0)]
        for member, until in stored.items():
            try:
                self.add(*_read_member(member), until)
            except ValueError as error:
                self._history.layout.faults.found("revocation", self._key, f"{member[:60]!r}: {error}")
        self._forget_expired()
        if len(stored) < STORED_MOST:
            await self._store_again(lost)

    def _held(self) -> Iterator[tuple[bytes, float]]:
        """The revocations of this process, as ``persist`` stores them: member and score."""
        for user, (before, until) in self._users.items():
            yield _member(user, "", before), until
        for id, until in self._tokens.items():
            yield _member("", id, 0.0), until

    async def _store_again(self, lost: list[tuple[bytes, float]]) -> None:
        for start in range(0, len(lost), STORED_AT_ONCE):
            try:
                await self._store([word for member, until in lost[start : start + STORED_AT_ONCE] for word in (until, member)])
            except StoreError as error:
                log.warning("%d revocations that valkey has lost could not be stored again: %s", len(lost), error)
                return
        if lost:
            log.warning("valkey had lost %d revocations of tokens: they are stored again", len(lost))

    def _forget_expired(self) -> None:
        now = time.time()
        self._users = {user: times for user, times in self._users.items() if times[1] > now}
        self._tokens = {id: until for id, until in self._tokens.items() if until > now}
        self._most = max(HELD_LEAST, 2 * len(self))


def _member(user: str, token_id: str, before: float) -> bytes:
    return (f"user {before:.3f} {user}" if user else f"token {token_id}").encode()


def _read_member(member: bytes) -> tuple[str, str, float]:
    """User, token id and issued before, as ``persist`` stores them; either of the first two is "". Raises ValueError."""
    kind, _, rest = member.decode().partition(" ")
    if kind == "token":
        return "", rest, 0.0
    before, _, user = rest.partition(" ")
    if kind != "user" or not _SECONDS(before):  # NaN would be less than no other time, and so revoke nothing
        raise ValueError("it names neither a user with a time nor a token")
    return user, "", float(before)
