"""``gateway restored``: every channel begins a new epoch, after Valkey came back from a backup.

With a backup positions go back, and offsets are given a second time. A gateway that saw the newer publications notices that, and one that
was stopped meanwhile cannot: a client that returns once there are as many publications again would be given only those that follow its
offset, as if it had all others. In a new epoch its position is of another life of the history, so it is notified of a gap.
"""

from __future__ import annotations

import asyncio
import sys

import click

from ..config import Config, load
from ..errors import StoreError
from ..publication import Position
from ..rules.protocol import BEGINNING
from ..store.access import make_commands
from ..store.connect import Address
from ..store.embedded import configured_url
from ..store.history import History
from ..store.layout import Layout
from ..store.library import Library
from .options import run_async, settings_options

__all__ = ["restored"]

PAGE = 500  # keys that are looked at at a time


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@settings_options
def restored(yes: bool, config: str | None, valkey_url: str | None, data_dir: str | None) -> None:
    """After Valkey came back from a backup: begin a new epoch in every channel. Clients are notified of a gap. It asks first."""
    settings = load(config, valkey_url=valkey_url, data_dir=data_dir)
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("restored has all clients load their state anew; where it cannot ask, give --yes")
    if not yes:
        click.confirm(f"Begin a new epoch in every channel of prefix {settings.prefix}?", abort=True, err=True)
    run_async(_restored(settings))


async def _restored(config: Config) -> None:
    address, layout = Address(configured_url(config)), Layout(config.prefix)
    commands = make_commands(address, functions=Library(None, layout.prefix))
    await commands.start()
    try:
        count = await _renew_all(History(commands, layout))
        print(f"{count} channel{'s' * (count != 1)} of prefix {layout.prefix} began a new epoch in Valkey at {address}")
    finally:
        await commands.close()


async def _renew_all(history: History) -> int:
    head, tail = f"{history.layout.prefix}:{{", "}:meta"
    channels: set[str] = set()
    for shard in history.commands.shards:
        cursor = b""
        while cursor != b"0":
            cursor, keys = await shard.call(b"SCAN", cursor or b"0", b"MATCH", f"{head}*{tail}", b"COUNT", PAGE)
            found = {key.decode(errors="replace").removeprefix(head).removesuffix(tail) for key in keys}
            renewed = await asyncio.gather(*[_renew(history, channel) for channel in found - channels])
            channels |= {channel for channel, done in zip(found - channels, renewed, strict=True) if done}
    return len(channels)


async def _renew(history: History, channel: str) -> bool:
    """Asks as a gateway would that has seen one publication more than there is. False where the key holds no position."""
    try:
        top = (await history.after(channel, BEGINNING, 0)).top
        if top.epoch:
            await history.read(channel, seen=(Position(top.epoch, top.offset + 1), 1))
    except StoreError as error:
        if not error.is_wrong_type:
            raise
        return False
    return bool(top.epoch)
