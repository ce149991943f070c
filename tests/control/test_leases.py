"""Whose lease is over: not that of a process that lives, whatever Valkey's clock does."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.control import leases
from gateway.control.leases import Leases

from ..kit.waiting import until


class Valkey:
    """Its clock is ``ahead`` of the true time, in seconds; ``dead`` are the processes whose leases are over by it. It is its own commands, too."""

    def __init__(self) -> None:
        self.ahead = 0.0
        self.dead: list[bytes] = []
        self.beats = 0
        self.layout = SimpleNamespace(prefix="gw")
        self.commands = self
        self.shards: list[Any] = []

    def shard(self, key: bytes) -> Valkey:
        return self

    async def call(self, *words: Any, **_: Any) -> Any:
        if words[0] == b"TIME":
            return int(1e9 + self.ahead + asyncio.get_running_loop().time()), 0
        self.beats += 1
        return [0, *self.dead]


class Cleaner:
    def __init__(self) -> None:
        self.cleaned: list[str] = []

    async def write_anew(self) -> None: ...

    async def reconcile(self) -> None: ...

    async def clean_up(self, process: str) -> None:
        self.cleaned.append(process)


@pytest.mark.parametrize("jump", [0, 3600, -3600])
async def test_a_clock_that_is_set_makes_no_process_look_dead(jump: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after the sleep of a machine. Its clients would leave presence, and enter it again two seconds later."""
    monkeypatch.setattr(leases, "BEAT_SECONDS", 0.005)
    monkeypatch.setattr(leases, "TRUST_SECONDS", 0.05)
    monkeypatch.setattr(leases, "JUMP_SECONDS", 2.0)
    valkey, cleaner = Valkey(), Cleaner()
    running = asyncio.create_task(Leases(valkey, "one", cleaner).run())  # type: ignore[arg-type]  # it uses no more of them
    await until(lambda: valkey.beats > 30, "the others' leases are trusted")
    valkey.ahead, valkey.dead, beats = jump, [b"two"], valkey.beats
    await until(lambda: valkey.beats > beats + 3, "some beats, by when the other has renewed its lease")
    valkey.dead = []
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    assert bool(cleaner.cleaned) == (not jump)
