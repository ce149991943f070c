"""JSON documents that come from standard input, one a line: sent as they come, many at once, in their order."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Generic, NamedTuple, TypeVar

import click

from ..errors import GatewayError, Unavailable
from .arguments import document_of

__all__ = ["Sent", "send_lines"]

PIPELINED = 512  # documents under way at once
LINE_BYTES = 64 * 1024 * 1024
FILE_BYTES = 64 * 1024  # of whole lines read from a file at a time
PROGRESS_SECONDS = 0.2

Answer = TypeVar("Answer")


class Sent(NamedTuple, Generic[Answer]):
    """What came of all lines: how many lines were sent, how many were no JSON, and the answer to the last one that was sent."""

    lines: int
    refused: int
    last: Answer | None

    def check(self) -> None:
        """Raises GatewayError if lines were refused."""
        if self.refused:
            raise GatewayError(f"{self.refused} of {self.refused + self.lines} lines were not JSON")


class _Progress:
    """How far a long input has got: one line of the terminal that is written over. It shows nothing where people do not see it."""

    def __init__(self, done: str) -> None:
        self._done = done
        # Where the lines are typed at the terminal, what is typed would be overwritten.
        self._visible = sys.stderr.isatty() and not sys.stdin.isatty()
        self._began = time.monotonic()
        self._shown = self._began
        self._is_written = False

    def show(self, count: int) -> None:
        now = time.monotonic()
        if self._visible and now - self._shown >= PROGRESS_SECONDS:
            self._shown, self._is_written = now, True
            rate = count / (now - self._began)
            print(f"\r{count:,} {self._done}, {rate:,.0f} a second\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Other lines may be printed."""
        if self._is_written:
            self._is_written = False
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


async def send_lines(done: str, send: Callable[[bytes], Coroutine[Any, Any, Answer]]) -> Sent[Answer]:
    """Reads lines as they come, and has up to PIPELINED of them under way at once, begun in their order.

    ``done`` is what was done to a line that was sent: "published". A line that is no JSON is reported and left out. Raises what ``send`` raises
    first, and reports up to which line all was done, so that a person knows where to go on.
    """
    count = refused = number = 0
    last: Answer | None = None
    progress = _Progress(done)
    under_way: asyncio.Queue[tuple[int, asyncio.Task[Answer]]] = asyncio.Queue(PIPELINED)

    async def acknowledge() -> None:
        nonlocal count, last
        while True:
            line, task = await under_way.get()
            try:
                last = await task
            except GatewayError as error:
                progress.clear()
                if count or under_way.qsize():
                    end = "may not have been" if isinstance(error, Unavailable) else "was not"
                    after = f"; some of the {under_way.qsize()} after it may be {done}, too" if under_way.qsize() else ""
                    print(f"gateway: line {line} {end} {done}; all before it were{after}", file=sys.stderr)
                raise
            count += 1
            progress.show(count)
            under_way.task_done()

    acknowledging = asyncio.create_task(acknowledge())
    async for line in _lines_of_stdin():
        number += 1
        if not line.strip():
            continue
        try:
            document = document_of(line.decode(errors="surrogateescape"), f"line {number}")
        except click.UsageError as error:
            refused += 1
            progress.clear()
            print(f"gateway: {error.message}; it was not {done}", file=sys.stderr)
            continue
        sending = asyncio.create_task(send(document))
        sending.add_done_callback(_note_end)
        put = asyncio.ensure_future(under_way.put((number, sending)))
        await asyncio.wait((put, acknowledging), return_when=asyncio.FIRST_COMPLETED)
        if acknowledging.done():
            acknowledging.result()
    joined = asyncio.ensure_future(under_way.join())
    await asyncio.wait((joined, acknowledging), return_when=asyncio.FIRST_COMPLETED)
    progress.clear()
    if acknowledging.done():
        acknowledging.result()
    acknowledging.cancel()
    return Sent(count, refused, last)


def _note_end(task: asyncio.Task[Any]) -> None:
    """Marks its error as seen: after the first one, which ends the program, there may be hundreds."""
    if not task.cancelled():
        task.exception()


async def _lines_of_stdin() -> AsyncIterator[bytes]:
    """Lines as they come: the loop reads a pipe, a thread reads a file or a terminal, which a loop cannot wait for."""
    mode = os.fstat(sys.stdin.fileno()).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        while lines := await asyncio.to_thread(sys.stdin.buffer.readlines, 1 if sys.stdin.isatty() else FILE_BYTES):
            for line in lines:
                yield line
        return
    reader = asyncio.StreamReader(limit=LINE_BYTES)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while line := await reader.readline():
            yield line
    except ValueError:
        raise GatewayError(f"a line is longer than {LINE_BYTES} bytes") from None
