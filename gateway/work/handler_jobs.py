"""A job as its handler has it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec

__all__ = ["Facts", "PlainJob", "Progress", "RunningJob"]

Progress = Callable[[float, str], Awaitable[None]]


class Facts(msgspec.Struct, frozen=True):
    """What a handler knows of its job: the attributes of ``RunningJob``, which describes them."""

    id: str
    key: str
    name: str
    queue: str
    attempt: int
    deadline: float
    channel: str | None


class _Job:
    """The attributes of ``Facts``, for a handler."""

    def __init__(self, facts: Facts) -> None:
        self.id = facts.id
        self.key = facts.key
        self.name = facts.name
        self.queue = facts.queue
        self.attempt = facts.attempt
        self.deadline = facts.deadline
        self.channel = facts.channel


class RunningJob(_Job):
    """The job, as an asynchronous handler has it: ``id``, ``name`` and ``queue``.

    ``key`` is the idempotency key: the same in every attempt, the id where the producer gave none. ``attempt`` counts from 1. ``deadline`` is the unix
    time in seconds at which the attempt is cancelled. ``channel`` is where progress is published, None where the producer named none.
    """

    def __init__(self, facts: Facts, progress: Progress) -> None:
        super().__init__(facts)
        self._progress = progress

    async def progress(self, done: float, text: str = "") -> None:
        """Publishes ``{"job", "progress", "text"}`` in the job's channel, if its producer named one; ``done`` is from 0 to 1.

        ``text`` is cut after 1,000 characters. A publication that Valkey does not take is logged, and harms the job no further.
        """
        await self._progress(done, text)


class PlainJob(_Job):
    """``RunningJob`` for a plain handler, in a thread or a process: ``progress`` returns when it is published."""

    def __init__(self, facts: Facts, progress: Callable[[float, str], Any]) -> None:
        super().__init__(facts)
        self._progress = progress

    def progress(self, done: float, text: str = "") -> None:
        """As ``RunningJob.progress``."""
        return cast(None, self._progress(done, text))  # awaitable for a coroutine in a plain wrapper, which takes the job for a RunningJob
