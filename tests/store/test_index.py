"""What a process remembers of the index: it writes each name once, and asks again where the rules may have changed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.store import index
from gateway.store.history import History
from gateway.store.index import ChannelIndex
from gateway.store.layout import Layout

from ..kit.clock import FrozenClock

WRITE = (b"FCALL", b"gateway_index", 1, b"gw:index:{named}")


def test_a_name_is_written_once_and_again_where_its_history_began_anew() -> None:
    known = ChannelIndex(Layout("gw"))
    assert known.command("named:a") == (*WRITE, "named:a")
    known.answered("named:a", 1)
    assert known.command("named:a") is None and known.command("named:b") is not None
    known.began("named:a")
    assert known.command("named:a") == (*WRITE, "named:a")


def test_a_name_is_written_again_after_a_minute_since_valkey_may_have_lost_it() -> None:
    clock = FrozenClock()
    known = ChannelIndex(Layout("gw"), clock)
    for _ in range(2):
        known.answered("named:a", 1)
        clock.pass_time(index.AGAIN_SECONDS - 1)
        assert known.command("named:a") is None
        clock.pass_time(1)
        assert known.command("named:a") is not None


def test_names_that_were_written_before_do_not_wait_for_an_index_that_is_away() -> None:
    clock = FrozenClock()
    known = ChannelIndex(Layout("gw"), clock)
    for channel in ("named:a", "named:b", "named:anew"):
        known.answered(channel, 1)
    clock.pass_time(index.AGAIN_SECONDS)
    assert known.command("named:a") is not None
    known.unreachable("named:a")
    known.began("named:anew")
    assert [known.command(f"named:{name}") is None for name in ("a", "b", "anew", "new")] == [True, True, False, False]
    clock.pass_time(index.AWAY_SECONDS)
    assert known.command("named:a") is not None and known.command("named:b") is not None


@pytest.mark.parametrize("channel", ["alone", ":a", ""])
def test_a_channel_without_a_namespace_is_in_no_index(channel: str) -> None:
    assert ChannelIndex(Layout("gw")).command(channel) is None


def test_a_namespace_without_an_index_is_asked_for_again_after_a_minute() -> None:
    clock = FrozenClock()
    known = ChannelIndex(Layout("gw"), clock)
    known.answered("named:a", 0)
    assert known.command("named:b") is None and known.command("other:b") is not None
    clock.pass_time(index.AGAIN_SECONDS)
    assert known.command("named:b") is not None


def test_what_a_process_remembers_is_bounded_and_a_full_index_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "NAMES_MOST", 3)
    layout = Layout("gw")
    known = ChannelIndex(layout)
    for number in range(10):
        known.answered(f"named:{number}", 1)
        known.answered(f"n{number}:a", 0)
    assert len(known._written) <= 3 and len(known._without) <= 3
    known.answered("named:full", -1)
    assert layout.faults.counts["index"] == 1


async def test_on_a_cluster_nothing_is_published_at_once_whose_name_may_still_have_to_be_written() -> None:
    commands = _Cluster(has_index={"named"})
    history = History(cast(Any, commands), Layout("gw"))
    names = ["alone", "named:a", "named:b", "free:a"]
    assert [history.begins_at_once(name) for name in names] == [True, False, False, False]
    writing = [asyncio.create_task(history.publish(name, [b"1"])) for name in ("named:a", "free:a")]
    await asyncio.sleep(0)
    assert not history.begins_at_once("named:a")  # the name is on its way, and a publication waits for it
    commands.index_answers.set()
    await asyncio.gather(*writing)
    assert [history.begins_at_once(name) for name in names] == [True, True, False, True]


class _Cluster:
    """Commands of a cluster, of which some namespaces have an index that takes its time."""

    sharded = True

    def __init__(self, has_index: set[str]) -> None:
        self._has_index = has_index
        self.index_answers = asyncio.Event()

    async def call(self, *words: Any, **_: Any) -> Any:
        if words[1] == b"gateway_has_index":
            return int(words[3].decode()[4:].partition(":")[0] in self._has_index)
        return [2, b"e"]

    def begin(self, *words: Any, **_: Any) -> asyncio.Future[int]:
        return asyncio.ensure_future(self._write())

    async def _write(self) -> int:
        await self.index_answers.wait()
        return 1

    def shard(self, key: bytes) -> Any:
        return SimpleNamespace(connected=True)
