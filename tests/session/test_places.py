"""The places for sockets: never more than the limits, none lost, and the oldest socket without one goes first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Limits
from gateway.session.places import OVER_LIMIT, UNLIMITED, Place, Places

from ..kit.clients import client, opened
from ..kit.gateways import RULES, Start
from ..kit.waiting import eventually


class Cut:
    """A socket; ``aborted`` once its place was needed."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True


def places(connections: int = 0, per_address: int = 0) -> Places:
    return Places(Limits(connections=connections, connections_per_address=per_address), lambda: 0.0)


def test_without_limits_no_socket_is_counted() -> None:
    assert places().open(Cut(), "a") is UNLIMITED


@given(st.lists(st.tuples(st.sampled_from(["open", "claim", "release"]), st.integers(0, 9), st.sampled_from(["", "a", "b"]))))
def test_places_are_never_more_than_the_limits_and_none_is_lost(steps: list[tuple[str, int, str]]) -> None:
    ours, limited = [], places(connections=4, per_address=2)
    for step, number, address in steps:
        if step == "open":
            ours.append(limited.open(Cut(), address))
        elif ours and step == "claim":
            limited.claim(ours[number % len(ours)], address)
        elif ours:
            ours.pop(number % len(ours)).release()
        counted = [place for place in ours if place.counted]
        assert len(counted) <= 4 and all(bool(place.refusal) != place.counted for place in ours)
        assert all(sum(place.address == address for place in counted) <= 2 for address in "ab")
    for place in ours:
        place.release()
        place.release()
    assert all(limited.open(Cut(), address).counted for address in "aabb")


def test_a_socket_without_a_place_gets_one_when_it_asks_again() -> None:
    limited = places(connections=1)
    first, second = limited.open(Cut(), "a"), limited.open(Cut(), "b")
    assert limited.claim(second, "b") == "limits.connections is 1"
    first.release()
    assert limited.claim(second, "b") == "" and second.counted


def test_a_request_that_outlives_its_socket_takes_no_place() -> None:
    limited = places(connections=1)
    place = limited.open(Cut(), "a")
    place.release()
    limited.claim(place, "b")
    assert limited.open(Cut(), "b").counted, "nobody would ever release the place"


def test_the_addresses_of_an_ipv6_network_count_as_one() -> None:
    limited = places(per_address=1)
    assert limited.open(Cut(), "2001:db8::1").counted
    assert limited.open(Cut(), "2001:db8::2:1").refusal == "limits.connections_per_address is 1, and 2001:db8::/64 has as many"
    assert limited.open(Cut(), "2001:db8:0:1::1").counted


def over(limited: Places, count: int) -> list[tuple[Place, Cut]]:
    sockets = [Cut() for _ in range(count)]
    return [(limited.open(socket, "a"), socket) for socket in sockets]


def test_of_the_sockets_without_a_place_the_oldest_that_is_not_served_is_cut_off() -> None:
    limited = places(connections=1)
    _, *waiting = over(limited, OVER_LIMIT + 1)
    waiting[0][0].served = True
    (_, newest), (_, other) = over(limited, 2)
    assert [socket.aborted for _, socket in waiting] == [False, True, True] + [False] * (OVER_LIMIT - 3)
    for place, _ in waiting:
        place.served = True
    for place in list(limited._over):
        place.served = True
    ((_, late),) = over(limited, 1)
    assert (newest.aborted, other.aborted, late.aborted) == (False, False, True), "all others are being served"


@pytest.mark.asyncio
async def test_a_client_of_another_server_has_a_place_until_it_leaves(start_gateway: Start) -> None:
    gateway = start_gateway(RULES + "[limits]\nconnections = 1\n", edge="asgi")
    async with client(gateway), opened(gateway) as wire:
        assert await wire.ended() == (3504, "connection limit")

    async def admitted() -> bool:
        async with opened(gateway) as wire:
            await wire.send({"id": 1, "connect": {"token": gateway.token()}})
            return "connect" in await wire.next()

    await eventually(admitted, "there is a place again")
