"""The command line. Exit status 0 on success, 2 for wrong use, 1 otherwise; errors are one line on standard error.

Modules that bring the web server or the token library are imported inside the commands that need them: they would double the
time that ``gateway publish`` takes to start.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import stat
import sys
import time
from collections.abc import AsyncIterator

import click

from .. import __version__
from ..auth.keys import Keys
from ..config import Config, load, parse_duration
from ..errors import ConfigurationError, GatewayError
from ..publication import Position, channel_fault
from ..runtime.logs import printable
from ..serve.first_run import with_secrets
from ..store.connect import Address
from ..store.connection import Commands
from ..store.embedded import configured_url
from ..store.history import History
from ..store.layout import Layout, PublishOptions
from ..store.library import Library
from .options import config_option, data_dir_option, line_of, open_publisher, run_async, settings_options, since_option
from .programs import demo, relay, serve

__all__ = ["main"]

PIPELINED = 512  # publishes of `publish CHANNEL -` under way at once
PAGE = 500
LINE_BYTES = 64 * 1024 * 1024
FILE_BYTES = 64 * 1024  # of whole lines read from a file at a time


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="gateway")
def app() -> None:
    """A real-time notification gateway, native to Valkey."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `gateway history … | head` ends in silence


for command in (serve, demo, relay):
    app.add_command(command)


@app.command()
@click.argument("channel")
@click.argument("data")
@click.option("--key", metavar="K", help="Idempotency key: a repeat publishes nothing.")
@click.option("--ephemeral", is_flag=True, help="Only to clients that are live now; history does not remember it.")
@settings_options
def publish(
    channel: str, data: str, key: str | None, ephemeral: bool, config: str | None, valkey_url: str | None, data_dir: str | None
) -> None:
    """Publish to a channel; prints the position.

    DATA is JSON, or - for one JSON document a line from standard input.
    """
    _check_channels([channel])
    settings = load(config, valkey_url=valkey_url, data_dir=data_dir)
    options: PublishOptions = {"idempotency_key": key, "ttl": 0 if ephemeral else None}
    if data != "-":
        document = _document(data, "DATA")
        run_async(_publish_one(settings, channel, document, options))
    else:
        if key is not None:
            raise click.UsageError("--key is of one document; it cannot be used with -")
        run_async(_publish_lines(settings, channel, options))


async def _publish_one(config: Config, channel: str, document: bytes, options: PublishOptions) -> None:
    async with open_publisher(config) as publisher:
        position = await publisher.publish(channel, document, raw=True, **options)
        print(position if position is not None else "announced")


async def _publish_lines(config: Config, channel: str, options: PublishOptions) -> None:
    """Reads lines as they come, and publishes up to PIPELINED of them at once, in their order."""
    published = refused = 0
    last: Position | None = None
    async with open_publisher(config) as publisher:
        under_way: asyncio.Queue[asyncio.Task[Position | None]] = asyncio.Queue(PIPELINED)

        async def acknowledge() -> None:
            nonlocal published, last
            while True:
                task = await under_way.get()
                last = await task
                published += 1
                under_way.task_done()

        acknowledging = asyncio.create_task(acknowledge())
        number = 0
        async for line in _lines_of_stdin():
            number += 1
            if not line.strip():
                continue
            try:
                document = _document(line.decode(errors="surrogateescape"), f"line {number}")
            except click.UsageError as error:
                refused += 1
                print(f"gateway: {error.message}; it was not published", file=sys.stderr)
                continue
            put = asyncio.ensure_future(under_way.put(asyncio.create_task(publisher.publish(channel, document, raw=True, **options))))
            await asyncio.wait((put, acknowledging), return_when=asyncio.FIRST_COMPLETED)
            if acknowledging.done():
                acknowledging.result()
        joined = asyncio.ensure_future(under_way.join())
        await asyncio.wait((joined, acknowledging), return_when=asyncio.FIRST_COMPLETED)
        if acknowledging.done():
            acknowledging.result()
        acknowledging.cancel()
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


@app.command()
@click.argument("channels", nargs=-1, required=True)
@since_option
@click.option("--last", type=click.IntRange(min=0), default=0, metavar="N", help="Start N publications back.")
@settings_options
def subscribe(
    channels: tuple[str, ...], since: str | None, last: int, config: str | None, valkey_url: str | None, data_dir: str | None
) -> None:
    """Follow channels: one JSON line a publication. It resumes by itself, and prints what it missed meanwhile."""
    _check_channels(list(channels))
    position = _position(since)
    if position is not None and len(channels) > 1:
        raise click.UsageError("--since is a position in one channel; name one channel")
    from .follow import follow

    settings = load(config, valkey_url=valkey_url, data_dir=data_dir)
    with contextlib.suppress(KeyboardInterrupt):  # the ordinary end
        run_async(follow(settings, configured_url(settings), list(dict.fromkeys(channels)), position, last))


@app.command()
@click.argument("channel")
@since_option
@click.option("--limit", type=click.IntRange(min=0), default=0, metavar="N", help="At most so many; 0: all.")
@click.option("--reverse", is_flag=True, help="Newest first.")
@settings_options
def history(
    channel: str, since: str | None, limit: int, reverse: bool, config: str | None, valkey_url: str | None, data_dir: str | None
) -> None:
    """Print a channel's history: one JSON line a publication."""
    _check_channels([channel])
    position = _position(since)
    settings = load(config, valkey_url=valkey_url, data_dir=data_dir)
    run_async(_print_history(settings, channel, position, limit, reverse))


async def _print_history(config: Config, channel: str, since: Position | None, limit: int, reverse: bool) -> None:
    layout = Layout(config.prefix)
    commands = Commands(Address(configured_url(config)), functions=Library(None, layout.prefix))
    await commands.start()
    try:
        store = History(commands, layout)
        offset, left, epoch = since.offset if since else 0, limit or sys.maxsize, since.epoch if since else ""
        while left > 0:
            page = await store.read(channel, offset, min(PAGE, left), reverse=reverse)
            if epoch and page.top.epoch != epoch:
                raise GatewayError(f"the history of {channel} began anew: it is at {page.top}, and {since} is of another life")
            epoch = page.top.epoch
            for publication in page.publications:
                print(line_of(channel, epoch, publication))
            if not page.publications:
                return
            offset = page.publications[-1].offset
            left -= len(page.publications)
            if reverse and offset == 1:
                return
    finally:
        await commands.close()


@app.command()
@click.option("--user", required=True, metavar="U", help="The user's id; empty for an anonymous client.")
@click.option("--expires", default="1h", show_default=True, metavar="DURATION", help='As in 90s, 30m, 1h, 30d; "" never.')
@click.option("--channel", metavar="C", help="A subscription token for this channel.")
@click.option("--info", metavar="JSON", help="What others see of the user.")
@config_option
@data_dir_option
def token(user: str, expires: str, channel: str | None, info: str | None, config: str | None, data_dir: str | None) -> None:
    """Make a token and print it."""
    from ..auth.tokens import mint

    try:
        seconds = parse_duration(expires)
    except ValueError as error:
        raise click.UsageError(f"--expires: {error}") from None
    document = None if info is None else json.loads(_document(info, "--info"))
    if channel is not None:
        _check_channels([channel])
    settings = with_secrets(load(config, data_dir=data_dir), make=False)
    if not settings.tokens.hmac_secret:
        raise ConfigurationError(
            f'no tokens.hmac_secret is configured, and none is stored in {settings.data_path}; run "gateway serve" once, or set it'
        )
    print(
        mint(
            settings.tokens.hmac_secret,
            user=user,
            seconds=seconds,
            channel=channel or "",
            info=document,
            audience=settings.tokens.audience,
            issuer=settings.tokens.issuer,
        )
    )


@app.command()
@settings_options
def check(config: str | None, valkey_url: str | None, data_dir: str | None) -> None:
    """Check the configuration and the link to Valkey."""
    settings = load(config, valkey_url=valkey_url, data_dir=data_dir)
    print(f"configuration   fine ({config or 'defaults and environment'}), {len(settings.namespaces)} namespaces")
    for warning in _doubts(settings):
        print(f"                {warning}")
    url = configured_url(settings)
    run_async(_check_link(settings, url))


def _doubts(config: Config) -> list[str]:
    """Settings that work and are risky, a sentence each. Raises ConfigurationError for keys that cannot be used."""
    doubts = []
    Keys(config.tokens)
    if config.insecure.clients:
        doubts.append("insecure.clients is on: anybody may connect and do anything")
    if config.insecure.api:
        doubts.append("insecure.api is on: anybody may call the server API")
    if 0 < len(config.tokens.hmac_secret.encode()) < 32:
        doubts.append("tokens.hmac_secret is short; 32 bytes or more are safe")
    if "*" in config.allowed_origins:
        doubts.append("allowed_origins holds *: pages of any site may connect with a token of theirs, and as anonymous clients")
    return doubts


async def _check_link(config: Config, url: str) -> None:
    from ..store.link import Link

    address = Address(url)
    commands = Commands(address)
    await commands.start()
    link = Link(address, commands, Layout(config.prefix).heartbeat("check"))
    try:
        info = (await commands.call("INFO", "server")).decode()
        version = re.search(r"valkey_version:(\S+)", info) or re.search(r"redis_version:(\S+)", info)
        began = time.perf_counter()
        await link.start()
        took = (time.perf_counter() - began) * 1000
        print(f"valkey          fine ({address}, version {version[1] if version else 'unknown'})")
        print(f"live link       fine (a heartbeat came through in {took:.1f} ms)")
    finally:
        await link.close()
        await commands.close()


# How the commands read their arguments.


def _document(text: str, where: str) -> bytes:
    from ..rules.json_text import clean, is_json

    data = text.encode(errors="surrogateescape")
    if not is_json(data):
        raise click.UsageError(
            f"{where} is not JSON: {text.strip()[:60]!r}" + (" (a text is written in quotes: '\"hello\"')" if where == "DATA" else "")
        )
    return clean(data)


def _position(text: str | None) -> Position | None:
    if text is None:
        return None
    try:
        return Position.parse(text)
    except ValueError as error:
        raise click.UsageError(f"--since: {error}") from None


def _check_channels(names: list[str]) -> None:
    for name in names:
        if fault := channel_fault(name):
            raise click.UsageError(f"{fault}: {name[:60]!r}")


def main() -> None:
    """The program ``gateway``."""
    try:
        status = app(standalone_mode=False)
    except click.UsageError as error:
        _fail(f"{error.format_message()} (see gateway --help)", 2)
    except click.ClickException as error:
        _fail(error.format_message(), 2)
    except (click.Abort, KeyboardInterrupt):
        _fail("interrupted", 1)
    except (GatewayError, OSError) as error:
        _fail(str(error), 1)
    else:
        sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int) -> None:
    print(f"gateway: {printable(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(status)
