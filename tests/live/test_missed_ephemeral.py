"""Where ephemeral publications may have been lost, the inbox announces its state once more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

import gateway.live.inbox
import gateway.runtime.backoff
from gateway.config import Config
from gateway.errors import Unavailable
from gateway.live.inbox import Inbox
from gateway.publication import Publication
from gateway.store.layout import Announcement, Layout

from ..kit.waiting import until


class StateReader:
    """A history of which nothing but the state of an inbox is asked. The first ``failures`` reads fail."""

    layout = Layout("t")

    def __init__(self, failures: int = 0, change: int = 7) -> None:
        self.failures = failures
        self.change = change
        self.reads = 0

    async def call(self, function: bytes, keys: tuple[bytes, ...], *words: Any) -> list[Any]:
        self.reads += 1
        if self.reads <= self.failures:
            raise Unavailable("the connection to Valkey was lost")
        return [b"e", 12, 3, self.change, [], 0]


class Recorded:
    """A channel that records what is announced in it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.publications: list[Publication] = []

    def announced(self, items: list[Announcement]) -> None:
        self.publications += [item.publication for item in items]


Miss = Callable[[StateReader, str], Recorded]


@pytest.fixture
async def miss(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Miss]:
    """Makes an inbox on a history, and lets it learn that ephemeral publications of a channel may have been lost."""
    monkeypatch.setattr(gateway.runtime.backoff, "backoff", lambda *delays: 0.0)
    inboxes: list[Inbox] = []

    def miss(history: StateReader, name: str) -> Recorded:
        inbox, channel = Inbox(Config(), history), Recorded(name)  # type: ignore[arg-type]  # they have what is used of them
        inboxes.append(inbox)
        inbox.on_missed_ephemeral(channel)  # type: ignore[arg-type]
        return channel

    yield miss
    for inbox in inboxes:
        await inbox.close()


async def test_the_state_is_announced_as_one_ephemeral_publication(miss: Miss) -> None:
    channel = miss(StateReader(), "notifications:u")
    await until(lambda: channel.publications, "it is announced")
    (publication,) = channel.publications
    assert publication.offset == 0
    assert json.loads(publication.data) == {"inbox": {"unread": 3, "change": 7, "epoch": "e", "offset": 12}}


async def test_a_channel_of_another_namespace_is_no_inbox(miss: Miss) -> None:
    history = StateReader()
    miss(history, "notificationsx:u")
    await asyncio.sleep(0)
    assert history.reads == 0


async def test_a_read_that_fails_is_tried_again(miss: Miss) -> None:
    history = StateReader(failures=3)
    channel = miss(history, "notifications:u")
    await until(lambda: channel.publications, "it is announced")
    assert history.reads == 4


async def test_an_inbox_that_never_changed_announces_nothing(miss: Miss) -> None:
    history = StateReader(change=0)
    channel = miss(history, "notifications:u")
    await until(lambda: history.reads, "the state was read")
    await asyncio.sleep(0)
    assert not channel.publications


async def test_a_state_that_cannot_be_read_in_time_is_given_up_with_a_warning(
    miss: Miss, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(gateway.live.inbox, "ANNOUNCE_SECONDS", 0.01)
    channel = miss(StateReader(failures=10**9), "notifications:u")
    await until(lambda: "was not announced again" in caplog.text, "it is given up")
    assert not channel.publications
    assert caplog.text.count("could not be read (the connection to Valkey was lost); trying again") == 1, "it is logged once"
