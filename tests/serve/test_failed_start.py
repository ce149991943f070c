"""A gateway that cannot start ends: it holds no connection and runs no task that its process would wait for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.config import Config
from gateway.errors import StoreError
from gateway.store.library import Library
from gateway.store.link import Link


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


async def test_a_start_without_valkey_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    with pytest.raises(StoreError):
        await Gateway(Config(), "valkey://127.0.0.1:1").start()
    assert asyncio.all_tasks() == before
