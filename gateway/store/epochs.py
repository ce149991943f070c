"""A new epoch in every channel, where Valkey came back older than it was, and no gateway that saw the newer state is left to notice.

Positions went back, and offsets are given a second time. A client that returns once there are as many publications again would be given only those
that follow its offset, as if it had all others. In a new epoch its position is of another life of the history, so it is notified of a gap.
"""

from __future__ import annotations

import asyncio

from ..errors import StoreError
from ..publication import Position, channel_fault
from ..rules.protocol import BEGINNING
from .access import make_commands
from .connect import Address
from .history import History
from .layout import Layout
from .library import Library

__all__ = ["renew_epochs"]

PAGE = 500  # keys that are looked at at a time


async def renew_epochs(url: str, prefix: str) -> int:
    """Returns how many channels there are. Raises StoreError, Unavailable, ConfigurationError for an address that is none."""
    commands, layout = make_commands(Address(url), functions=Library(None, prefix)), Layout(prefix)
    await commands.start()
    try:
        return await _renew_all(History(commands, layout))
    finally:
        await commands.close()


async def _renew_all(history: History) -> int:
    head, tail = f"{history.layout.prefix}:{{", "}:meta"
    seen: set[str] = set()
    count = 0
    for shard in history.commands.shards:
        cursor = b""
        while cursor != b"0":
            cursor, keys = await shard.call(b"SCAN", cursor or b"0", b"MATCH", f"{head}*{tail}", b"COUNT", PAGE)
            names = {key.decode(errors="replace").removeprefix(head).removesuffix(tail) for key in keys} - seen
            channels = [name for name in names if not channel_fault(name)]  # else another program's key, which the functions refuse
            count += sum(await asyncio.gather(*[_renew(history, channel) for channel in channels]))
            seen |= names
    return count


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
