"""Client views: what one process answers to operators' questions about its clients (``control.questions``).

There may be tens of thousands of clients and channels. A question looks at LOOKED_AT_MOST of them in one turn of the loop, or at fewer if
that takes TURN_SECONDS, as a pattern may on long names, and goes on in the next; several questions share the turns.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections.abc import AsyncIterator, Callable, Iterable
from fnmatch import translate
from re import compile as compile_pattern
from typing import Annotated, Any, TypeVar

import msgspec

from ..config import Config
from ..control.events import LifecycleEvents
from ..control.messages import Question
from ..control.questions import (
    ROWS_MOST,
    ChannelRows,
    ChannelSearch,
    ClientDetail,
    ClientRow,
    ClientRows,
    ClientSearch,
    ConnectionReport,
    DeliveryReport,
    DeliverySearch,
    Recovered,
    SubscriptionRow,
)
from ..live.hub import Hub
from ..live.subscription import State, Subscription
from ..live.wire_formats import FilteredWire
from ..publication import Publication
from ..rules.filters import tags_of
from ..rules.json_text import encode
from ..runtime.turns import Turns
from .admission import Admission, Client

__all__ = ["ClientViews"]

EVENTS_SECONDS = 0.5  # that an answer waits for events of what has ended: the caller waits a second for it
LOOKED_AT_ONCE = 100  # clients or channels, after which the clock is looked at: a hostile pattern takes 60 µs for each
LOOKED_AT_MOST = 1000  # about 2 ms
TURN_SECONDS = 0.004

Item = TypeVar("Item")
_ClientId = Annotated[str, msgspec.Meta(min_length=1)]
Begun = tuple[str, str, Client]  # user, client id: the order of clients, in which no two are equal


class ClientViews:
    """Answers of the process ``process``, which people know as ``name``, and whose clients are in ``admission``."""

    def __init__(self, config: Config, process: str, name: str, hub: Hub, admission: Admission, events: LifecycleEvents) -> None:
        self._config = config
        self._process = process
        self._name = name
        self._hub = hub
        self._admission = admission
        self._events = events
        self._turns = Turns(1)
        self._since_ms = int(time.time() * 1000)
        self._answers: dict[str, Callable[[Question], Any]] = {
            "channels": self._channels,
            "clients": self._clients,
            "client": self._client,
            "busiest": self._busiest,
            "subscribers": self._subscribers,
            "delivery": self._delivery,
        }

    async def answer(self, question: Question) -> bytes:
        """The answer as JSON; null for a question that it does not know. Raises what ``UNREADABLE`` lists."""
        answer = self._answers.get(question.what)
        return b"null" if answer is None else encode(await answer(question))

    async def _in_turns(self, items: Iterable[Item]) -> AsyncIterator[list[Item]]:
        """The items of now, some in each turn of the loop."""
        listed = list(items)
        until = 0.0
        for first in range(0, len(listed), LOOKED_AT_ONCE):
            if not first % LOOKED_AT_MOST or time.monotonic() >= until:
                await self._turns.wait()
                until = time.monotonic() + TURN_SECONDS
            yield listed[first : first + LOOKED_AT_ONCE]

    # Clients.

    async def _clients(self, question: Question) -> ClientRows:
        search = msgspec.json.decode(question.pattern, type=ClientSearch)
        found: list[Begun] = []
        total = after = 0
        async for some in self._in_turns(self._admission.clients.items()):
            matching = [(each.identity.user, each.client, each) for each, address in some if _matches(search, each, address)]
            total += len(matching)
            if search.after is not None:
                matching = [each for each in matching if each[:2] > search.after]
            after += len(matching)
            found = heapq.nsmallest(search.limit, found + matching)
        return ClientRows([self._row(client) for _, _, client in found], total, after > len(found))

    async def _client(self, question: Question) -> ClientDetail | None:
        asked = msgspec.json.decode(question.pattern, type=_ClientId)
        async for some in self._in_turns(self._admission.clients):
            for client in some:
                if client.client == asked:
                    return await self._detail(client)
        return None

    async def _detail(self, client: Client) -> ClientDetail:
        followed = heapq.nsmallest(ROWS_MOST, client.followed(), key=lambda each: each.channel.name)
        rows = await asyncio.gather(*map(self._subscription, followed))
        row = msgspec.structs.asdict(self._row(client))
        there = [each for each in rows if each.state != State.ENDED.value]
        return ClientDetail(**row, expires_at=client.identity.expires_at, subscriptions=there)

    def _row(self, client: Client) -> ClientRow:
        return ClientRow(
            client=client.client,
            user=client.identity.user,
            address=self._admission.address_of(client),
            node=self._process,
            transport=client.transport,
            since_ms=client.since_ms,
            channels=sum(1 for _ in client.followed()),
            waiting_bytes=client.waiting_bytes,
            paused=client.paused,
            operator=client.identity.operator,
        )

    async def _subscription(self, subscription: Subscription) -> SubscriptionRow:
        """Where it is. While a round writes to the channel's subscriptions one by one, that is not known, so its end is awaited."""
        channel = subscription.channel
        await channel.between_rounds()
        row = SubscriptionRow(
            channel=channel.name,
            state=subscription.state.value,
            side="server" if subscription.is_server_side else "client",
            since_ms=subscription.since_ms,
            filtered=isinstance(subscription.wire, FilteredWire),
        )
        if channel.has_history:
            row.epoch, row.offset = subscription.position
            row.after = subscription.unbroken if subscription.begun else row.offset
            row.top = max(channel.offset, row.offset)
            row.lag = row.top - row.offset
            if subscription.begun and subscription.recovered:
                row.recovered = Recovered(row.after, row.since_ms)
            row.gap = subscription.begun and subscription.recovered is False
        return row

    # Channels.

    async def _channels(self, question: Question) -> dict[str, int]:
        """The pattern is no JSON, but of shell wildcards itself."""
        matches = _matcher(question.pattern)
        found: dict[str, int] = {}
        async for some in self._in_turns(self._hub.subscribers().items()):
            found.update([(name, count) for name, count in some if matches is None or matches(name)])
        return found

    async def _busiest(self, question: Question) -> ChannelRows:
        search = msgspec.json.decode(question.pattern, type=ChannelSearch)
        matches = _matcher(search.pattern)
        found: list[tuple[int, str]] = []
        total = 0
        async for some in self._in_turns(self._hub.subscribers().items()):
            matching = [(-count, name) for name, count in some if matches is None or matches(name)]
            total += len(matching)
            found = heapq.nsmallest(search.limit, found + matching)
        return ChannelRows({name: -count for count, name in found}, total)

    async def _subscribers(self, question: Question) -> dict[str, int]:
        names = set(msgspec.json.decode(question.pattern, type=list[str]))
        found: dict[str, int] = {}
        async for some in self._in_turns(self._hub.subscribers().items()):
            found |= {name: count for name, count in some if name in names}
        return found

    # One publication.

    async def _delivery(self, question: Question) -> DeliveryReport:
        asked = msgspec.json.decode(question.pattern, type=DeliverySearch)
        theirs = [client for client in self._admission.users.get(asked.user, ()) if client.since_ms]
        pairs: list[tuple[Client, Subscription | None]] = []
        async for some in self._in_turns(theirs):
            pairs += [(client, _followed(client, asked.channel)) for client in some]
        pairs.sort(key=lambda pair: (pair[1] is None, pair[0].client))
        listed = [await self._connection_report(asked, client, subscription) for client, subscription in pairs[:ROWS_MOST]]
        unwritten = await self._events.written(
            EVENTS_SECONDS
        )  # what has ended before is recorded, and what ends from here on is in the answer
        return DeliveryReport(
            node=self._process,
            name=self._name,
            since_ms=self._since_ms,
            connections=listed,
            total=len(theirs),
            events=self._config.events,
            dropped=self._events.dropped + unwritten,
            most=self._config.limits.connections_per_user,
        )

    async def _connection_report(self, asked: DeliverySearch, client: Client, subscription: Subscription | None) -> ConnectionReport:
        row = None if subscription is None else await self._subscription(subscription)
        return ConnectionReport(
            client=client.client,
            transport=client.transport,
            since_ms=client.since_ms,
            unconfirmed_bytes=client.unconfirmed_bytes,
            paused=client.paused,
            subscription=None if row is None or row.state == State.ENDED.value else row,
            admitted=None if subscription is None else _admits(subscription, asked),
        )


def _matches(search: ClientSearch, client: Client, address: str) -> bool:
    """Whether it is connected, and one of those that are looked for. An address that is "" is shown as "-"."""
    if not client.since_ms:
        return False
    if search.user and not client.identity.user.startswith(search.user):
        return False
    if search.client and not client.client.startswith(search.client):
        return False
    if search.address and not (address or "-").startswith(search.address):
        return False
    return not search.channel or _followed(client, search.channel) is not None


def _matcher(pattern: str) -> Callable[[str], object] | None:
    """What compares a name with shell wildcards; None for a pattern that any name matches."""
    return compile_pattern(translate(pattern)).match if pattern not in ("", "*") else None


def _followed(client: Client, channel: str) -> Subscription | None:
    return next((each for each in client.followed() if each.channel.name == channel), None)


def _admits(subscription: Subscription, asked: DeliverySearch) -> bool | None:
    """Whether its client is to be given the publication, by its filter."""
    if not isinstance(subscription.wire, FilteredWire):
        return True
    if not asked.known:
        return None
    tags = None if bytes(asked.tags) == b"null" else bytes(asked.tags)
    return subscription.wire.admits(tags_of(Publication(asked.offset, b"null", tags=tags)))
