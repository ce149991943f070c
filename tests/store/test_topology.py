"""What nodes of a cluster answer is believed only where it is a table of slots, and a host where it is one: the login is sent there."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from gateway.errors import Unavailable
from gateway.store.command import Command
from gateway.store.held_slots import HeldSlots
from gateway.store.topology import NodeAddress, redirected_to, view_of

ASKED = ("10.0.0.1", 7000)


@pytest.mark.parametrize(
    "refusal, place",
    [
        ("MOVED 1 10.0.0.2:7001", ("10.0.0.2", 7001)),
        ("ASK 1 ::1:7001", ("::1", 7001)),
        ("MOVED 1 :7001", ("10.0.0.1", 7001)),
        ("MOVED 1 ?:7001", ("10.0.0.1", 7001)),
    ],
)
def test_a_redirection_leads_to_a_node(refusal: str, place: NodeAddress) -> None:
    assert redirected_to(refusal, ASKED) == place


NO_PLACES = ("evil/x:1", "evil?ssl_cert_reqs=none:1", "u:p@evil:1", "a,b:1", "a b:", "[x:1", "h:99999", "h:-1", "h:x", "h", "")


@pytest.mark.parametrize("text", NO_PLACES)
def test_what_is_no_host_and_port_is_followed_nowhere(text: str) -> None:
    assert redirected_to(f"MOVED 1 {text}", ASKED) is None


BAD_SLOTS: list[list[Any]] = [
    [[0, 16384, [b"h", 1]]],
    [[-1, 5, [b"h", 1]]],
    [[7, 5, [b"h", 1]]],
    [[b"x", 5, [b"h", 1]]],
    [[0, 5, [b"h/x", 1]]],
    [[0, 5, [b"\xff", 1]]],
    [[0, 5, []]],
    [[0]],
    [3],
    [[slot, slot, [b"h%d" % slot, 1]] for slot in range(16384)],
]


@pytest.mark.parametrize("slots", BAD_SLOTS)
def test_what_is_no_table_of_slots_is_no_answer(slots: list[Any]) -> None:
    with pytest.raises(Unavailable, match=r"10\.0\.0\.1:7000 does not say in a known form"):
        view_of(b"cluster_state:ok\r\n", slots, ASKED)


def test_a_table_may_have_a_range_for_each_slot() -> None:
    view = view_of(b"cluster_state:ok\r\n", [[slot, slot, [b"h", 1], [None, 2]] for slot in range(16384)], ASKED)
    assert len(view.ranges) == 16384 and view.replicas == [("10.0.0.1", 2)]


class Lost:
    """A node that redirects each command to nowhere, and the cluster that it is all of; as much of both as held slots use."""

    def __init__(self) -> None:
        self.address, self.host_and_port = self, ASKED
        self.held = HeldSlots(cast(Any, self), patience=0.1)
        self.looks = 0

    def owner(self, slot: int) -> Lost:
        return self

    def look_again(self) -> None:
        self.looks += 1

    def take(self, command: Command, *, asking: bool = False) -> None:
        asyncio.get_running_loop().call_soon(self.held.refused, cast(Any, self), command, "MOVED 1 evil/x:y")

    def withdraw(self, stays: object) -> list[Command]:
        return []

    async def settle(self) -> None:
        return


async def test_a_command_that_is_redirected_to_nowhere_fails_when_its_patience_is_over() -> None:
    lost, loop = Lost(), asyncio.get_running_loop()
    command = Command(b"", loop.create_future(), loop.time())
    command.slot = 1
    lost.take(command)
    async with asyncio.timeout(2):
        with pytest.raises(Unavailable):
            await command.future
    assert lost.looks
    await lost.held.close()


INFO = b"cluster_state:ok\r\ncluster_current_epoch:7\r\n"


def test_a_node_without_a_hostname_is_found_by_its_address() -> None:
    view = view_of(INFO, [[0, 5, [b"?", 1, b"id", [b"ip", b"10.0.0.2"]], [b"?", 2, b"id"]], [6, 16383, [None, 3, b"id", []]]], ASKED)
    assert view.ranges == [(0, 5, ("10.0.0.2", 1)), (6, 16383, ("10.0.0.1", 3))]
    assert (view.replicas, view.whole, view.epoch) == ([("10.0.0.1", 2)], True, 7)
