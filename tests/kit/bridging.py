"""Bridges of the tests: in this process, and in processes of their own, some of which die by SIGKILL at the step they are given."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import valkey

from gateway.config import Config
from gateway.store.connect import Address
from gateway.store.history import History
from gateway.work.bridges import Bridges

from . import forks
from .valkeys import opened_history

__all__ = ["Dying", "bridged", "bridging", "bridging_program", "configured", "published"]

SHORT_LEASE = {"gateway.work.exclusive.LEASE_SECONDS": 0.15, "gateway.work.exclusive.RENEW_SECONDS": 0.05}
Rules = Mapping[str, Any]


def configured(prefix: str, *rules: Rules) -> Config:
    """A configuration with these bridges, and a namespace "endless" that forgets nothing."""
    endless = {"history_size": -1, "history_ttl": ""}
    return Config(prefix=prefix, namespaces={"endless": endless}, bridges=list(rules))  # type: ignore[arg-type]  # pydantic reads plain objects


@contextlib.asynccontextmanager
async def bridged(url: str, prefix: str, *rules: Rules, process: str = "one") -> AsyncIterator[Bridges]:
    """Runs bridges in this process while the block lasts."""
    config = configured(prefix, *rules)
    async with opened_history(url, prefix, config) as history:
        bridges = Bridges(config, Address(url), history, process)
        try:
            await bridges.start()
            yield bridges
        finally:
            await bridges.close()


def published(store: valkey.Valkey, prefix: str, channel: str) -> list[Any]:
    """The data of all that history holds, in order."""
    entries: Any = store.xrange(f"{prefix}:{{{channel}}}:stream")
    return [json.loads(fields[b"data"]) for _, fields in entries]


class Dying(History):
    """Ends its process by SIGKILL before (``step`` 1, 3, …) or after (2, 4, …) its first, second, … call for a bridge."""

    step = 0

    async def call(self, function: bytes, keys: Sequence[bytes], *words: Any) -> Any:
        if not function.startswith(b"gateway_bridge"):
            return await super().call(function, keys, *words)
        self._die_at(1)
        result = await super().call(function, keys, *words)
        self._die_at(2)
        self.step -= 2
        return result

    def _die_at(self, step: int) -> None:
        if self.step == step:
            os.kill(os.getpid(), signal.SIGKILL)


async def bridging_program(url: str, prefix: str, rules: Sequence[Rules], step: int) -> None:
    """Bridges until it is killed, or kills itself at ``step`` (0: never)."""
    forks.replace(SHORT_LEASE)
    config = configured(prefix, *rules)
    async with opened_history(url, prefix, config) as history:
        dying = Dying(history.commands, history.layout)
        dying.step = step
        await Bridges(config, Address(url), dying, str(os.getpid())).start()
        await asyncio.Event().wait()


@contextlib.contextmanager
def bridging(url: str, prefix: str, rules: Sequence[Rules], step: int = 0) -> Any:
    """A process of its own; it is killed at the block's end."""
    process = forks.start(bridging_program, url, prefix, list(rules), step)
    try:
        yield process
    finally:
        process.kill()
        process.join()
