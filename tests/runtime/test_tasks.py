"""Tasks that no code awaits are ended in order, at any moment."""

from __future__ import annotations

import asyncio
import gc
from typing import Any
from unittest.mock import AsyncMock

import pytest

from gateway.app import Gateway
from gateway.config import Config
from gateway.control.presence import Presence
from gateway.errors import Unavailable
from gateway.runtime.tasks import Tasks, run_endlessly, to_its_end
from gateway.store.connect import Address
from gateway.store.layout import Layout

from ..kit.waiting import until


class SlowValkey:
    """A history whose first call is never answered; ``asked`` has all calls."""

    sharded = False

    def __init__(self) -> None:
        self.layout = Layout("t")
        self.commands = self
        self.asked: list[tuple[Any, ...]] = []

    async def call(self, *words: Any) -> list[Any]:
        return await self.begin(*words)

    def begin(self, *words: Any) -> asyncio.Future[list[Any]]:
        answer: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        self.asked.append(words)
        if len(self.asked) > 1:
            answer.set_result([])
        return answer


async def test_presence_writes_at_its_end_what_was_being_written() -> None:
    """A client that left in the last moment would be present for ever: its process ended in order, so no other process removes its clients."""
    valkey = SlowValkey()
    presence = Presence(Config(), valkey, "p1")  # type: ignore[arg-type]
    presence.enter("chat:1", "client", b"{}", False)
    presence.leave("chat:1", "client", False)
    keeping = asyncio.create_task(presence.run())
    await until(lambda: valkey.asked, "it is being written")
    keeping.cancel()
    await asyncio.wait([keeping])
    await presence.close()
    assert any(b"gateway_presence" in words and "client" in words for words in valkey.asked[1:]), valkey.asked


async def test_a_task_begun_while_another_is_cancelled_is_cancelled_too() -> None:
    tasks, ended = Tasks(), []

    async def work(number: int) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(number)
            if number < 3:
                tasks.spawn(work(number + 1))

    tasks.spawn(work(1))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await tasks.cancel()
    assert not len(tasks) and ended[0] == 1


async def test_a_part_of_the_gateway_that_ends_is_named(caplog: pytest.LogCaptureFixture) -> None:
    """It was Task-17."""

    async def upkeep() -> None:
        raise Unavailable("it is lost")

    await asyncio.wait([run_endlessly(upkeep(), "the gateway")])
    (line,) = [record.message for record in caplog.records]
    assert line.startswith("a part of the gateway ended that must not: ") and line.endswith("upkeep")


async def test_an_error_of_work_whose_caller_was_cancelled_is_not_logged_as_one_that_nobody_saw(caplog: pytest.LogCaptureFixture) -> None:
    """As where a connection cannot be closed any more, 60 lines each time."""
    goes_on = asyncio.Event()

    async def fail() -> None:
        await goes_on.wait()
        raise Unavailable("it is lost")

    caller = asyncio.create_task(to_its_end(fail()))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.sleep(0)
    goes_on.set()
    await asyncio.wait([caller])
    assert caller.cancelled()
    del caller
    gc.collect()
    assert caplog.records == []


async def test_a_process_that_could_not_record_its_leaves_leaves_its_lease_for_others_to_see(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is over then, and they see it at their next beat."""
    stopped = []
    for fault in (None, Unavailable("Valkey is away")):
        gateway = Gateway(Config(prefix=prefix), valkey_url)
        await gateway.start()
        await until(lambda gateway=gateway: gateway.link.proven, "the link is up")
        with Address(valkey_url).sync_client() as store:
            await until(lambda store=store, gateway=gateway: store.zscore(f"{prefix}:nodes", gateway.node.uid), "it is known")
            if fault is not None:
                gateway.node.presence.enter("posts:1", "client", b"{}", False)
                monkeypatch.setattr(gateway.node.presence, "_write", AsyncMock(side_effect=fault))
            await gateway.stop()
            stopped.append(store.zscore(f"{prefix}:nodes", gateway.node.uid))
    assert stopped[0] is None and stopped[1] is not None
