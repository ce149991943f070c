"""Retrying, with and without an end, for asyncio and for threads."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from functools import partial

import pytest

from gateway.errors import StoreError, Unavailable, is_general
from gateway.runtime.backoff import retrying, retrying_blocking

from ..kit.waiting import PATIENCE

log = logging.getLogger("tests.backoff")
SOON = {"base": 1e-6, "ceiling": 1e-6}


def failing(times: int) -> Callable[[], int]:
    """Fails so many times, then returns how often it was called."""
    calls = itertools.count(1)

    def work() -> int:
        if (call := next(calls)) <= times:
            raise Unavailable(f"failure {call}")
        return call

    return work


def awaited(work: Callable[[], int]) -> Callable[[], object]:
    async def waits() -> int:
        return work()

    return waits


async def test_the_result_is_the_first_success_and_one_failure_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert await retrying(awaited(failing(3)), "nothing was read", log, on=Unavailable, **SOON) == 4
    assert [record.message for record in caplog.records] == ["nothing was read (failure 1); trying again"]


async def test_the_cause_in_the_log_is_the_callers_to_word(caplog: pytest.LogCaptureFixture) -> None:
    await retrying(awaited(failing(1)), "it waits", log, on=Unavailable, reason=lambda error: str(error).upper(), **SOON)
    assert caplog.records[0].message == "it waits (FAILURE 1); trying again"


async def test_errors_whose_cause_is_logged_elsewhere_are_quiet(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        await retrying(awaited(failing(3)), "it waits", log, on=Unavailable, quiet=is_general, **SOON)
    assert not caplog.records
    assert is_general(StoreError("MISCONF the disk is full")) and not is_general(StoreError("WRONGTYPE of this key alone"))


async def test_when_the_seconds_are_over_the_last_error_is_raised() -> None:
    with pytest.raises(Unavailable, match="failure 1"):
        await retrying(awaited(failing(3)), "it waits", log, on=Unavailable, seconds=0)
    with pytest.raises(Unavailable, match="failure 1"):
        retrying_blocking(failing(3), on=Unavailable, seconds=0)


def test_the_last_attempt_comes_when_the_seconds_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.runtime.backoff.backoff", lambda *_: 60.0)
    with pytest.raises(Unavailable, match="failure 2"):
        retrying_blocking(failing(3), on=Unavailable, seconds=0.05)


async def test_another_error_is_raised_at_once() -> None:
    attempt = partial(retrying, awaited(failing(1)), "it waits", log, on=ValueError)
    with pytest.raises(Unavailable):
        await attempt()
    with pytest.raises(Unavailable):
        retrying_blocking(failing(1), on=ValueError, seconds=60)


def test_a_thread_gets_the_first_success_too() -> None:
    assert retrying_blocking(failing(3), on=Unavailable, seconds=60, **SOON) == 4


async def test_a_cancellation_that_becomes_an_error_ends_it() -> None:
    """A relay that was ended as its database went away ran on for ever: SQLAlchemy drops a cancellation where a connection is lost."""

    async def lose_cancellation() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise Unavailable("the connection was lost") from None

    waiting = asyncio.create_task(retrying(lose_cancellation, "it waits", log, on=Unavailable))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting], timeout=PATIENCE)
    assert waiting.cancelled()
