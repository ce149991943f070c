"""Threads of plain handlers. Nothing can end a thread: one whose job is over may go on, so such threads are counted, and bounded by the engine."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["Threads", "from_thread"]


class Threads:
    """``abandoned`` is how many threads still run though their callers were cancelled. ``on_change`` is called after each change of it."""

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.abandoned = 0
        self._on_change = on_change

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Calls ``function`` in a thread of its own, which the program does not wait for when it ends: it may never return."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        context = contextvars.copy_context()

        def run() -> None:
            try:
                result, error = context.run(function, *arguments), None
            except BaseException as raised:
                result, error = None, raised
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._settle, future, result, error)

        threading.Thread(target=run, daemon=True, name="gateway job").start()
        try:
            return await future
        finally:
            if future.cancelled():
                self._change(1)

    def _settle(self, future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        if future.cancelled():
            self._change(-1)
        elif error is None:
            future.set_result(result)
        else:
            future.set_exception(error if not isinstance(error, StopIteration) else RuntimeError("the handler raised StopIteration"))

    def _change(self, by: int) -> None:
        self.abandoned += by
        self._on_change()


def from_thread(progress: Callable[[float, str], Awaitable[None]]) -> Callable[[float, str], Any]:
    """Publishes from a thread, and waits until it is done. In the loop, where a coroutine runs that a plain function made, it is to be awaited."""
    loop, its_thread = asyncio.get_running_loop(), threading.get_ident()

    async def publish(done: float, text: str) -> None:
        await progress(done, text)

    def published(done: float, text: str) -> Any:
        if threading.get_ident() == its_thread:
            return publish(done, text)
        return asyncio.run_coroutine_threadsafe(publish(done, text), loop).result()

    return published
