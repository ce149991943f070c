"""What the tests of work share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any

import pytest

from gateway.work import Queue, Worker


@pytest.fixture
async def queue(valkey_url: str, prefix: str) -> AsyncIterator[Queue]:
    """A producer with a prefix of the test's own."""
    async with Queue(valkey_url, prefix=prefix) as queue:
        yield queue


@pytest.fixture
def new_worker(valkey_url: str, prefix: str) -> Callable[..., Any]:
    """Makes workers on the same prefix."""
    return partial(Worker, url=valkey_url, prefix=prefix)
