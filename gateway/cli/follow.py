"""``gateway subscribe``: a hub of its own in the terminal's process. It resumes like every other client, because it is one."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from ..app import Gateway
from ..config import Config
from ..errors import StoreError, UnknownChannel
from ..live.channel import Channel
from ..live.fanout import Write
from ..live.subscription import Subscription
from ..live.wire_formats import ChannelView
from ..publication import Position, Publication
from ..runtime.logs import printable
from .options import line_of
from .standard_output import write_output

__all__ = ["follow"]


class TerminalWire:
    """A wire format for terminals: publications stay what they are, together with their channel, until they are printed."""

    def join(self, channel: ChannelView, publications: list[Publication]) -> tuple[ChannelView, list[Publication]]:
        return channel, publications


_WIRE = TerminalWire()


class TerminalSubscription(Subscription):
    """A subscription whose publications are printed, a line each; messages about its position go to standard error."""

    __slots__ = ("_reaches_back",)

    takes_first_page = False

    paused = False

    def __init__(self, channel: Channel, write: Write, since: Position | None, *, reaches_back: bool) -> None:
        super().__init__(channel, _WIRE, write, since)
        self._reaches_back = reaches_back

    @property
    def reaches_back(self) -> bool:
        return self._reaches_back

    def begin(self, recovered: bool, publications: list[Publication]) -> None:
        if self.recovered is False:
            self.gap()
        elif not recovered:
            _report(f"{self.channel.name}: following from {self.position}")

    def gap(self) -> None:
        _report(f"{self.channel.name}: a gap; history does not hold what was missed, going on from {self.channel.position}")

    def fail(self, error: StoreError) -> None:
        _report(f"{self.channel.name}: its history cannot be read: {error}")
        super().fail(error)


def _report(text: str) -> None:
    print(f"gateway: {printable(text)}", file=sys.stderr, flush=True)


class _StandardOutput:
    """``write`` prints publications. ``failed`` gets the error where standard output takes nothing more, as a file on a disk that is full."""

    def __init__(self) -> None:
        self.failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def write(self, joined: tuple[ChannelView, list[Publication]]) -> None:
        channel, publications = joined
        if self.failed.done():
            return
        try:
            write_output("".join([f"{line_of(channel.name, channel.epoch, publication)}\n" for publication in publications]))
        except OSError as error:
            self.failed.set_exception(error)


async def follow(config: Config, url: str, names: list[str], since: Position | None, last: int) -> None:
    """Prints what is published in the channels ``names`` until it is cancelled, from ``since`` or ``last`` publications back.

    ``url`` is Valkey's. Raises UnknownChannel for a namespace that ``config`` does not have, Unavailable if Valkey cannot be reached, OSError if
    a publication could not be printed.
    """
    gateway, output = Gateway(config, url, install=False), _StandardOutput()
    await gateway.start()
    try:
        for name in names:
            start: Position | None = since
            if last and since is None:
                start = await gateway.node.history.back(name, last)
            try:
                channel = gateway.node.hub.channel(name)
            except UnknownChannel as error:
                raise UnknownChannel(f"{name}: {error}; name the configuration with --config") from None
            subscription: Any = TerminalSubscription(channel, output.write, start, reaches_back=since is None)
            gateway.node.hub.follow(subscription)
        await output.failed
    finally:
        await gateway.stop()
