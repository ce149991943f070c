"""Parts of tests that wait for seconds to pass: they begin when their module does, and run beside its other tests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from .gateways import RunningGateway

__all__ = ["Waits", "beside"]


class Waits:
    """``await waits["_name"]`` waits for the part of that name, and raises what it raised."""

    def __init__(
        self, pool: ThreadPoolExecutor, gateway: RunningGateway, parts: tuple[Callable[..., Coroutine[Any, Any, None]], ...]
    ) -> None:
        self._futures = {part.__name__: pool.submit(asyncio.run, part(gateway)) for part in parts}

    def __getitem__(self, name: str) -> Awaitable[None]:
        return asyncio.wrap_future(self._futures[name])


def beside(*parts: Callable[[RunningGateway], Coroutine[Any, Any, None]], gateway: str = "gateway") -> Any:
    """The fixture ``waits`` of a module: runs the parts at the module's gateway, each in a thread of its own."""

    @pytest.fixture(scope="module", autouse=True)
    def waits(request: pytest.FixtureRequest) -> Iterator[Waits]:
        with ThreadPoolExecutor() as pool:
            yield Waits(pool, request.getfixturevalue(gateway), parts)

    return waits
