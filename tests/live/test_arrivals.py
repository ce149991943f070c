"""A batch of the link that holds one publication for each of many channels: it is read first and then written in a row, and nothing changes by that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.live.channel import Channel
from gateway.live.hub import Hub
from gateway.live.subscription import State
from gateway.live.wire_formats import Wire
from gateway.publication import Position, Publication
from gateway.store.layout import Announcement, read_announcement, read_next

from ..kit.model import WIRE, Recorder
from ..kit.quiet_hub import quiet_hub
from ..kit.waiting import until


class Noted(Recorder):
    """Notes in ``order``, which all share, for which channel it got which publication."""

    __slots__ = ("order",)

    def __init__(self, channel: Channel, order: list[tuple[str, Any]], wire: Wire = WIRE) -> None:
        self.order = order
        super().__init__(channel, wire=wire)

    def take(self, joined: tuple[str, list[Publication]]) -> None:
        super().take(joined)
        self.order += [(self.channel.name, publication.offset) for publication in joined[1]]


@pytest.fixture
async def hub() -> AsyncIterator[Hub]:
    hub = quiet_hub()
    yield hub
    await hub.close()


async def followed(hub: Hub, names: str, order: list[tuple[str, Any]]) -> list[Noted]:
    """A live subscription of each channel."""
    subscriptions = [Noted(hub.channel(f"posts:{name}"), order) for name in names]
    for subscription in subscriptions:
        hub.follow(subscription)
        hub.on_subscribed(subscription.channel.key)
    await until(lambda: all(subscription.state is State.LIVE for subscription in subscriptions), "all are live")
    return subscriptions


def announced(*payloads: tuple[Noted, list[bytes]]) -> dict[bytes, list[bytes]]:
    return {subscription.channel.key: each for subscription, each in payloads}


async def test_a_batch_is_written_in_its_order_whatever_is_among_the_publications(hub: Hub) -> None:
    order: list[tuple[str, Any]] = []
    a, b, c, d = await followed(hub, "abcd", order)
    hub.on_announcements(
        announced((a, [b"@1 e1 5\n1"]), (b, [b"@1 e1 5\n1", b"@2 e1 5\n1"]), (c, [b'@1 e1 5 {"size":1}\n1']), (d, [b"@1 e1 5\n1"]))
    )
    assert order == [("posts:a", 1), ("posts:b", 1), ("posts:b", 2), ("posts:c", 1), ("posts:d", 1)]
    assert (c.channel.size, d.channel.size) == (1, 100)
    hub.on_announcements(announced((c, [b"@2 e1 6\n1"])))
    assert c.channel.size == 100, "the rules hold again"


async def test_a_socket_that_fails_or_fills_in_the_middle_costs_no_other_publication(hub: Hub) -> None:
    order: list[tuple[str, Any]] = []
    a, b, c = await followed(hub, "abc", order)

    def fails_and_fills(joined: object) -> None:
        b.fall_behind()  # as where a and b are of one client, whose socket is full now
        raise OSError("the socket was reset")

    b.channel.remove_live(b), a.channel.remove_live(a)
    a.write = fails_and_fills
    a.channel.add_live(a), b.channel.add_live(b)
    hub.on_announcements(announced((a, [b"@1 e1 5\n1"]), (b, [b"@1 e1 5\n1"]), (c, [b"@1 e1 5\n1"])))
    assert order == [("posts:b", 1), ("posts:c", 1)]
    assert b.state is State.BEHIND and b.position == Position("e1", 1), "what was counted as written to it is written"
    hub.on_announcements(announced((b, [b"@2 e1 5\n1"])))
    assert order[2:] == []
    hub.drained(b)
    await until(lambda: b.state is State.LIVE, "it goes on")
    assert order[2:] == [("posts:b", 2)], "neither lost nor twice"


async def test_an_announcement_that_is_not_the_next_one_goes_the_long_way(hub: Hub) -> None:
    order: list[tuple[str, Any]] = []
    (a,) = await followed(hub, "a", order)
    for payload in (b"@1 e1 5\n1", b"@1 e1 5\n1", b"2", b"@2 e1 x\n1", b"@2 e1 6\n1"):
        hub.on_announcements(announced((a, [payload])))
    assert a.events == ["begin", 1, 2, 2], "a repeated one is dropped, what is none is data"
    hub.on_announcements(announced((a, [b"@4 e1 7\n1"])))
    assert not a.channel.is_open, "there is a hole"


NUMBERS = st.sampled_from([b"1", b"17", b"017", b"0", b"1_7", b"+17", b" 17", b"", b"1" * 15, b"1" * 16, "١".encode()])
EPOCHS = st.sampled_from([b"e1", b"e1-_", b"e", b"e2", b"", b"e1 e1"])
REST = st.sampled_from([b"\n1", b'\n{"a":1}', b"\n", b"", b' {"size":3}\n1', b" {}\n1", b"\n\n1", b"\n\xff", b"\r\n1", b"\n{", b"\n1\n"])


@given(st.builds(lambda *parts: b"@%b %b %b%b" % parts, NUMBERS, EPOCHS, NUMBERS, REST) | st.binary(max_size=30))
def test_the_next_publication_is_read_as_any_other(payload: bytes) -> None:
    found = read_next(payload, "e1", 17)
    if found is not None:
        assert read_announcement(payload) == Announcement("e1", found)


def test_a_plain_publication_is_the_next_one() -> None:
    assert read_next(b"@17 e1 5\n1", "e1", 17) == Publication(17, b"1", 5)
    assert read_next(b"@17 e1 5\n1", "e1", 16) is None and read_next(b"@17 e1 5\n1", "e", 17) is None
