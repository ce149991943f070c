"""What operators ask all processes about their clients, and what each answers, both as JSON: the question is the ``pattern``.

Each process answers about the clients that it has itself, with at most ROWS_MOST rows; the caller puts the answers together.

| what        | asks                                                  | answer                                                 |
|-------------|-------------------------------------------------------|--------------------------------------------------------|
| clients     | ``ClientSearch``: which clients match                 | ``ClientRows``: the first ones, and how many           |
| client      | a client's id                                         | ``ClientDetail``, null from all other processes        |
| busiest     | ``ChannelSearch``: the channels with most subscribers | ``ChannelRows``: the first ones, and how many          |
| subscribers | a list of channels                                    | channel → how many subscriptions                       |
| delivery    | ``DeliverySearch`` of one publication                 | ``DeliveryReport``: what its user's clients were given |
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from ..publication import MAX_OFFSET

__all__ = [
    "ROWS_MOST",
    "ChannelRows",
    "ChannelSearch",
    "ClientDetail",
    "ClientRow",
    "ClientRows",
    "ClientSearch",
    "ConnectionReport",
    "DeliveryReport",
    "DeliverySearch",
    "Recovered",
    "SubscriptionRow",
]

ROWS_MOST = 100  # clients, channels or subscriptions in one answer

Offset = Annotated[int, Meta(ge=0, le=MAX_OFFSET)]
Rows = Annotated[int, Meta(ge=0, le=ROWS_MOST)]


class ClientSearch(msgspec.Struct, omit_defaults=True):
    """The connected clients whose user, address and id begin so, and that are subscribed to ``channel``; "" matches any.

    They come ordered by user and id: the first ``limit`` of them after ``after``, a user and an id.
    """

    user: str = ""
    address: str = ""
    client: str = ""
    channel: str = ""
    after: tuple[str, str] | None = None
    limit: Rows = ROWS_MOST


class ClientRow(msgspec.Struct, kw_only=True):
    """A connected client. ``since_ms`` is unix ms, ``channels`` how many it is subscribed to. ``waiting_bytes`` are written for it and not
    taken by its socket yet; ``paused``: its socket is full. ``operator``: it is a page of the console."""

    client: str
    user: str
    address: str
    node: str
    transport: str
    since_ms: int
    channels: int
    waiting_bytes: int
    paused: bool
    operator: bool = False


class ClientRows(msgspec.Struct):
    """``total`` counts all that match, whatever page is asked for; ``more``: there are some after these."""

    clients: list[ClientRow]
    total: int
    more: bool


class Recovered(msgspec.Struct, rename={"from_": "from"}):
    """A subscription came back with the offset ``from`` at the unix ms ``at``, and recovered what followed it."""

    from_: Offset
    at: int


class SubscriptionRow(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A subscription at ``epoch`` and ``offset``, ``lag`` publications before the channel's ``top``. ``state`` is catching up, live or behind.

    ``after``: its client was written each publication after this offset. ``gap``: it had missed what was before, history did not hold that any
    more, and the client was notified. ``since_ms`` is unix ms. ``side`` "server": it was not the client that subscribed. ``filtered``: by tags.
    Epoch is "" and the numbers 0 where the channel has no history.
    """

    channel: str
    state: str
    side: str
    epoch: str = ""
    offset: int = 0
    top: int = 0
    lag: int = 0
    after: int = 0
    since_ms: int = 0
    recovered: Recovered | None = None
    gap: bool = False
    filtered: bool = False


class ClientDetail(ClientRow, kw_only=True):
    """``subscriptions`` are the first ROWS_MOST by channel. ``expires_at`` is when its token ends, in unix seconds, 0 for never."""

    expires_at: float
    subscriptions: list[SubscriptionRow]


class ChannelSearch(msgspec.Struct, omit_defaults=True):
    """Channels whose names match ``pattern``, with shell wildcards; "" matches any."""

    pattern: str = ""
    limit: Rows = ROWS_MOST


class ChannelRows(msgspec.Struct):
    """Channel → its subscriptions here, of those that have most; ``total`` counts all channels that match and have any."""

    channels: dict[str, int]
    total: int


class DeliverySearch(msgspec.Struct, omit_defaults=True):
    """The publication at ``offset`` of ``channel``, with these ``tags``, as far as it concerns ``user``. ``tags`` are JSON or null; without
    ``known`` the publication cannot be read any more, so its tags are not known."""

    user: str
    channel: str
    offset: Offset
    known: bool = False
    tags: msgspec.Raw = msgspec.Raw(b"null")


class ConnectionReport(msgspec.Struct, kw_only=True):
    """One connection of the user. ``unconfirmed_bytes`` are written for it and not confirmed by its machine. ``subscription`` is None if it is not
    subscribed to the channel. ``admitted``: the subscription's filter admits the publication; None if that is not known."""

    client: str
    transport: str
    since_ms: int
    unconfirmed_bytes: int
    paused: bool
    subscription: SubscriptionRow | None
    admitted: bool | None


class DeliveryReport(msgspec.Struct, kw_only=True):
    """What the process ``node``, called ``name``, knows. ``total`` counts the user's connections here, of which ROWS_MOST are listed, the
    subscribed ones first.

    ``events``: it records lifecycle events, of which ``dropped`` are not in Valkey. ``most`` is ``limits.connections_per_user``.
    """

    node: str
    name: str
    since_ms: int
    connections: list[ConnectionReport]
    total: int
    events: bool
    dropped: int
    most: int
