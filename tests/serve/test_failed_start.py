"""A gateway that cannot start ends: it holds no connection and runs no task that its process would wait for."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from gateway.app import Gateway
from gateway.config import Config
from gateway.control.revocations import Revocations
from gateway.errors import StoreError, Unavailable
from gateway.serve.server import serve
from gateway.store import link as link_module
from gateway.store.connect import Address
from gateway.store.embedded import EmbeddedServer
from gateway.store.library import Library
from gateway.store.link import Link

from ..kit import forks


@pytest.mark.parametrize("part", [(Library, "install"), (Link, "start")], ids=["the functions are refused", "nothing is announced"])
async def test_a_start_that_fails_leaves_no_task(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch, part: tuple[Any, str]
) -> None:
    async def refuse(*_: Any) -> None:
        raise StoreError("not now")

    monkeypatch.setattr(*part, refuse)
    before = asyncio.all_tasks()
    with pytest.raises(StoreError, match="not now"):
        await Gateway(Config(prefix=prefix), valkey_url).start()
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("refusal, named", [("OOM command not allowed", False), ("ERR unknown command 'FUNCTION'", True)])
async def test_the_version_is_named_where_it_may_be_the_reason(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch, refusal: str, named: bool
) -> None:
    async def refuse(*_: Any) -> None:
        raise StoreError(refusal)

    monkeypatch.setattr(Library, "install", refuse)
    with pytest.raises(StoreError, match=f": {refusal}") as found:
        await Gateway(Config(prefix=prefix), valkey_url).start()
    assert ("7.2 or newer" in str(found.value)) is named


async def test_a_start_without_valkey_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    with pytest.raises(StoreError):
        await Gateway(Config(), "valkey://127.0.0.1:1").start()
    assert asyncio.all_tasks() == before


async def test_a_start_that_waits_for_a_heartbeat_in_vain_names_what_valkey_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of an embedded Valkey whose disk is full."""
    monkeypatch.setattr(link_module, "START_SECONDS", 0.01)
    link = Link(Address("valkey://localhost"), Mock(sharded=False), b"own")
    shard = Mock(doubt="Valkey refuses what a gateway writes: MISCONF No space left on device", refusal=None, first_beat=AsyncMock())
    monkeypatch.setattr(link, "_on_shards_changed", lambda: link._connections.update({Mock(): shard}))
    with pytest.raises(StoreError, match="publishes nothing to its subscribers: Valkey refuses what a gateway writes: MISCONF No space"):
        await link.start()


async def test_a_start_that_cannot_read_which_tokens_were_revoked_says_so(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where that shard of a cluster is away: the address alone would not tell why one shard of many keeps it from starting."""

    async def away(*_: Any) -> None:
        raise Unavailable("no connection to Valkey at valkey://10.0.0.7:6379 for 10 s")

    monkeypatch.setattr(Revocations, "load", away)
    with pytest.raises(Unavailable, match="which tokens were revoked cannot be read: no connection to Valkey at"):
        await Gateway(Config(prefix=prefix), valkey_url).start()


def _ended_while_it_starts(data_dir: Path) -> None:
    EmbeddedServer._wait_until_ready = lambda self: os.kill(os.getpid(), signal.SIGTERM)  # type: ignore[method-assign]  # right after it was begun
    serve(Config(data_dir=str(data_dir), port=0), lambda url, embedded: None)


def _ended_as_it_is_begun(data_dir: Path) -> None:
    begin = subprocess.Popen

    def begin_and_end(*words: Any, **options: Any) -> Any:
        begin(*words, **options)
        os.kill(os.getpid(), signal.SIGTERM)

    subprocess.Popen = begin_and_end  # type: ignore[assignment,misc]
    serve(Config(data_dir=str(data_dir), port=0), lambda url, embedded: None)


@pytest.mark.parametrize("program", [_ended_while_it_starts, _ended_as_it_is_begun])
def test_an_order_to_end_while_the_embedded_valkey_starts_leaves_none_running(tmp_path: Path, program: Callable[[Path], None]) -> None:
    gateway = forks.start(program, tmp_path)
    gateway.join(20)
    assert gateway.exitcode == 0
    assert (tmp_path / "valkey.log").exists() and not EmbeddedServer(tmp_path).alive()
