"""``gateway publish``: one document, or one a line from standard input, pipelined."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import click

from ..config import Config, load
from ..errors import GatewayError
from ..publication import Position
from ..store.layout import PublishOptions
from ..store.library import Library
from .arguments import check_channels, document_of
from .options import json_option, open_publisher, run_async, settings_options

if TYPE_CHECKING:
    from publishers import Publisher

__all__ = ["publish"]

PIPELINED = 512  # publishes of `publish CHANNEL -` under way at once
LINE_BYTES = 64 * 1024 * 1024
FILE_BYTES = 64 * 1024  # of whole lines read from a file at a time
PROGRESS_SECONDS = 0.2


@click.command()
@click.argument("channel")
@click.argument("data")
@click.option("--key", metavar="K", help="Idempotency key: a repeat publishes nothing.")
@click.option("--ephemeral", is_flag=True, help="Only to clients that are live now; history does not remember it.")
@json_option
@settings_options
def publish(
    channel: str,
    data: str,
    key: str | None,
    ephemeral: bool,
    as_json: bool,
    config: str | None,
    valkey_url: str | None,
    data_dir: str | None,
) -> None:
    """Publish to a channel; prints the position.

    DATA is JSON, or - for one JSON document a line from standard input.
    """
    check_channels([channel])
    settings = load(config, valkey_url=valkey_url, data_dir=data_dir)
    options: PublishOptions = {"idempotency_key": key, "ttl": 0 if ephemeral else None}
    if data != "-":
        document = document_of(data, "DATA")
        run_async(_publish_one(settings, channel, document, options, as_json))
    else:
        if key is not None:
            raise click.UsageError("--key is of one document; it cannot be used with -")
        run_async(_publish_lines(settings, channel, options, as_json))


async def _publish_one(config: Config, channel: str, document: bytes, options: PublishOptions, as_json: bool) -> None:
    async with open_publisher(config) as publisher:
        await _warn_of_an_audience_of_none(config, publisher, channel)
        position = await publisher.publish(channel, document, raw=True, **options)
    if as_json:
        _print_json(channel, position)
    else:
        print(position if position is not None else "announced")


def _print_json(channel: str, position: Position | None, **more: int) -> None:
    """``position`` is what ``--since`` takes, null where the channel remembers nothing."""
    print(json.dumps({"channel": channel, "position": str(position) if position is not None else None, **more}, ensure_ascii=False))


async def _warn_of_an_audience_of_none(config: Config, publisher: Publisher, channel: str) -> None:
    """A misspelled namespace publishes well, and nobody ever sees it."""
    namespace, colon, _ = channel.partition(":")
    rules = config.namespaces.get(namespace) if colon else config.channels
    doubt = ""
    if rules is not None and rules.subscribe == "nobody":
        doubt = f'the rules of {channel} let no client subscribe (subscribe = "nobody"); only the server API can subscribe them'
    elif colon:
        known = await Library(None, config.prefix).stored_rules(publisher.history.commands.call)
        if known is not None and namespace not in known:
            doubt = f"no gateway has a namespace {namespace!r}, so no client can follow {channel}; the namespaces are {_listed(known)}"
    if doubt:
        print(f"gateway: warning: {doubt}", file=sys.stderr)


def _listed(namespaces: dict[str, Any]) -> str:
    return ", ".join(name for name in namespaces if name)


class _Progress:
    """How far a long input has got: one line of the terminal that is written over. It shows nothing where people do not see it."""

    def __init__(self) -> None:
        # Where the lines are typed at the terminal, what is typed would be overwritten.
        self._visible = sys.stderr.isatty() and not sys.stdin.isatty()
        self._began = time.monotonic()
        self._shown = self._began
        self._is_written = False

    def show(self, published: int) -> None:
        now = time.monotonic()
        if self._visible and now - self._shown >= PROGRESS_SECONDS:
            self._shown, self._is_written = now, True
            rate = published / (now - self._began)
            print(f"\r{published:,} published, {rate:,.0f} a second\x1b[K", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Other lines may be printed."""
        if self._is_written:
            self._is_written = False
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


async def _publish_lines(config: Config, channel: str, options: PublishOptions, as_json: bool) -> None:
    """Reads lines as they come, and publishes up to PIPELINED of them at once, in their order."""
    published = refused = 0
    last: Position | None = None
    progress = _Progress()
    async with open_publisher(config) as publisher:
        await _warn_of_an_audience_of_none(config, publisher, channel)
        under_way: asyncio.Queue[asyncio.Task[Position | None]] = asyncio.Queue(PIPELINED)

        async def acknowledge() -> None:
            nonlocal published, last
            while True:
                task = await under_way.get()
                last = await task
                published += 1
                progress.show(published)
                under_way.task_done()

        acknowledging = asyncio.create_task(acknowledge())
        number = 0
        async for line in _lines_of_stdin():
            number += 1
            if not line.strip():
                continue
            try:
                document = document_of(line.decode(errors="surrogateescape"), f"line {number}")
            except click.UsageError as error:
                refused += 1
                progress.clear()
                print(f"gateway: {error.message}; it was not published", file=sys.stderr)
                continue
            put = asyncio.ensure_future(under_way.put(asyncio.create_task(publisher.publish(channel, document, raw=True, **options))))
            await asyncio.wait((put, acknowledging), return_when=asyncio.FIRST_COMPLETED)
            if acknowledging.done():
                acknowledging.result()
        joined = asyncio.ensure_future(under_way.join())
        await asyncio.wait((joined, acknowledging), return_when=asyncio.FIRST_COMPLETED)
        progress.clear()
        if acknowledging.done():
            acknowledging.result()
        acknowledging.cancel()
    if as_json:
        _print_json(channel, last, published=published, refused=refused)
    else:
        print(f"published {published}" + (f", up to {last}" if last is not None else ""))
    if refused:
        raise GatewayError(f"{refused} of {refused + published} lines were not JSON")


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
