"""Channels: which are followed most, and what one of them is and holds."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ..channel_rules import ChannelRules
from ..control.questions import ROWS_MOST, ChannelRows, ChannelSearch
from ..edges.api.requests import Channel, ChannelRequest, Shape
from ..errors import StoreError
from ..publication import MAX_CHANNEL_LENGTH, Position
from ..rules.json_text import encode
from ..rules.protocol import BEGINNING
from ..session.node import Node
from .caller import Caller, answers_of, read_method
from .clients import Limit

__all__ = ["METHODS", "Channel"]


class ChannelsRequest(Shape):
    """Channels whose names match ``pattern``, with shell wildcards; "" matches any."""

    pattern: Annotated[str, Meta(max_length=MAX_CHANNEL_LENGTH)] = ""
    limit: Limit = ROWS_MOST


class Followed(msgspec.Struct):
    """``clients`` is how many subscriptions the channel ``name`` has, in the processes that were counted."""

    name: str
    clients: int


class ChannelsResult(msgspec.Struct):
    """The busiest first. ``total`` counts a channel once for each process in which it has subscribers."""

    channels: list[Followed]
    total: int


class Held(msgspec.Struct, omit_defaults=True):
    """What history holds: ``size`` publications, from the unix ms ``oldest_ms`` to ``newest_ms``; ``bytes`` is what Valkey needs for them, None
    where its user may not ask."""

    size: int
    bytes: int | None = None
    oldest_ms: int = 0
    newest_ms: int = 0


class Present(msgspec.Struct):
    """How many clients are in the channel, and how many users they are of."""

    clients: int
    users: int


class ChannelResult(msgspec.Struct):
    """``namespace`` is "" for a name without one. ``position`` and ``history`` are None where the rules give the channel no history,
    ``presence`` where they give it none."""

    channel: str
    namespace: str
    rules: dict[str, Any]
    clients: int
    position: Position | None
    history: Held | None
    presence: Present | None


async def channels_busy(caller: Caller, request: ChannelsRequest) -> bytes:
    """The channels with most subscriptions. Where there are several processes, those among the busiest of any are counted in all."""
    answers = await answers_of(caller, "busiest", ChannelRows, ChannelSearch(request.pattern, request.limit))
    found: Counter[str] = Counter()
    for answer in answers:
        found.update(answer.channels)
    if len(answers) > 1:
        names = [name for name, _ in found.most_common(ROWS_MOST)]
        found = await _count(caller, names)
    ordered = sorted(found.items(), key=lambda each: (-each[1], each[0]))[: request.limit]
    rows = [Followed(name, count) for name, count in ordered]
    return encode(ChannelsResult(rows, sum(answer.total for answer in answers)))


async def _count(caller: Caller, names: list[str]) -> Counter[str]:
    """How many subscriptions these channels have, of all processes."""
    found: Counter[str] = Counter()
    for answer in await answers_of(caller, "subscribers", dict[str, int], names):
        found.update(answer)
    return found


async def channel(caller: Caller, request: ChannelRequest) -> bytes:
    """One channel: its rules, and what there is of it in Valkey now. Raises UnknownChannel."""
    node, name = caller.node, request.channel
    rules = node.rules(name)
    clients = (await _count(caller, [name]))[name]
    namespace, colon, _ = name.partition(":")
    position, history = await _history(node, name) if rules.has_history else (None, None)
    presence = await _presence(node, name, rules)
    result = ChannelResult(name, namespace if colon else "", rules.model_dump(), clients, position, history, presence)
    return encode({**msgspec.structs.asdict(result), "position": None if position is None else position._asdict()})


async def _history(node: Node, name: str) -> tuple[Position, Held]:
    page = await node.history.after(name, BEGINNING, 1)
    if not page.publications:
        return page.top, Held(0)
    oldest = page.publications[0]
    size = page.top.offset - oldest.offset + 1  # offsets have no holes
    return page.top, Held(size, await _bytes(node, name), oldest.ms, page.ms)


async def _bytes(node: Node, name: str) -> int | None:
    _, stream, _ = node.history.layout.keys(name)
    try:
        return int(await node.history.commands.call(b"MEMORY", b"USAGE", stream, repeatable=True) or 0)
    except StoreError:  # a right that the gateway needs for nothing else
        return None


async def _presence(node: Node, name: str, rules: ChannelRules) -> Present | None:
    if not rules.presence:
        return None
    counted = msgspec.json.decode(await node.presence.counts(name), type=dict[str, int])
    return Present(counted["num_clients"], counted["num_users"])


METHODS = {
    "channels_busy": read_method(channels_busy, ChannelsRequest),
    "channel": read_method(channel, ChannelRequest),
}
