"""What the tests of work share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gateway.work import Queue, Worker

from ..kit.servers import ValkeyServer


@pytest.fixture
async def queue(valkey_url: str, prefix: str) -> AsyncIterator[Queue]:
    """A producer with a prefix of the test's own."""
    async with Queue(valkey_url, prefix=prefix) as queue:
        yield queue


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[ValkeyServer]:
    """A server whose disk the test may fill."""
    server = ValkeyServer(tmp_path / "server", "enable-protected-configs yes")
    yield server
    server.stop()


@pytest.fixture
def new_worker(valkey_url: str, prefix: str) -> Callable[..., Any]:
    """Makes workers on the same prefix."""
    return partial(Worker, url=valkey_url, prefix=prefix)
