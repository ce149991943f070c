"""The places for sockets in one process, which ``limits.connections`` and ``limits.connections_per_address`` bound.

Every socket is counted once, from its first byte to its end, whatever it carries: plain HTTP, a stream, a WebSocket. One for
which there is no place is not closed at once, because a full process still answers its operators, its clients' commands, and
every other client with the reason: it may send one request. OVER_LIMIT sockets at most are without a place; if there are more,
the oldest of them is cut off that is not being served.

The addresses of an IPv6 network /64 count as one: a client that has one of them can choose any of them.

A trusted proxy sends the requests of many clients through one socket. So its sockets count for no address, except while they
carry a request or a stream, and then for the address that the proxy reports.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol

from ..config import Limits
from ..rules.addresses import block_of

__all__ = ["UNLIMITED", "Place", "Places", "Socket"]

log = logging.getLogger("gateway.connections")

OVER_LIMIT = 64  # sockets without a place, at some 10 KiB each
NOTICE_SECONDS = 60.0  # between log lines about refused sockets


class Socket(Protocol):
    """What is known of a socket here."""

    def abort(self) -> None:
        """Ends it at once."""


class Place:
    """What one socket takes of ``limits.connections``, or why it may not.

    ``refusal`` is why there is no place for it, "" if it has one. ``address`` is the client's address that it counts for, "" for none, and ``block`` the
    addresses that count as one with that, "" where addresses are not limited. ``counted``: it has a place. ``lost``: its socket is closed.
    """

    __slots__ = ("_places", "address", "block", "counted", "lost", "refusal", "served", "socket")

    def __init__(self, places: Places | None = None, socket: Socket | None = None) -> None:
        self._places = places
        self.socket = socket
        self.address = self.block = self.refusal = ""
        self.counted = self.lost = False
        self.served = False  # an operator's request is being answered, so it is not cut off

    def release(self) -> None:
        """Its socket is lost: it counts for nothing any more, even if a request of that socket claims it later. Releasing it twice changes nothing."""
        if self._places is not None:
            self.lost = True
            self._places.release(self)


UNLIMITED = Place()  # of every socket where nothing is limited


class Places:
    """The places of one process. ``now`` is the clock, in seconds."""

    def __init__(self, limits: Limits, now: Callable[[], float]) -> None:
        self._limits = limits
        self._now = now
        self._counted = 0
        self._blocks: dict[str, int] = {}  # sockets of each block of addresses
        self._over: dict[Place, None] = {}  # those without a place, the oldest first
        self._notice_at = 0.0
        self.limited = bool(limits.connections or limits.connections_per_address)

    def open(self, socket: Socket, address: str) -> Place:
        """A socket was accepted. ``release`` its place when it is lost."""
        if not self.limited:
            return UNLIMITED
        place = Place(self, socket)
        self.claim(place, address)
        return place

    def claim(self, place: Place, address: str) -> str:
        """Counts the socket for this address from now on. Returns why that is not possible, "" if it is."""
        if place is UNLIMITED or place.lost or (place.counted and place.address == address):
            return ""
        self.release(place)
        self._judge(place, address)
        if place.refusal:
            self._wait(place)
        else:
            self._count(place)
        return place.refusal

    def enter(self, address: str) -> Place:
        """A place for a client whose socket is another server's; its ``refusal`` says if there is none."""
        place = Place(self)
        self._judge(place, address)
        if place.refusal:
            self._notice(place.refusal)
        else:
            self._count(place)
        return place

    def release(self, place: Place) -> None:
        """Counts the socket no more. Releasing a place twice changes nothing."""
        self._over.pop(place, None)
        if place.counted:
            place.counted = False
            self._counted -= 1
            if place.block:
                self._blocks[place.block] -= 1
                if not self._blocks[place.block]:
                    del self._blocks[place.block]

    def _judge(self, place: Place, address: str) -> None:
        """Sets the address that the socket is to count for, and why it may not."""
        place.address = address
        place.block = block_of(address) if address and self._limits.connections_per_address else ""
        place.refusal = self._full(place.block)

    def _full(self, block: str) -> str:
        limits = self._limits
        if limits.connections and self._counted >= limits.connections:
            return f"limits.connections is {limits.connections}"
        if block and self._blocks.get(block, 0) >= limits.connections_per_address:
            return f"limits.connections_per_address is {limits.connections_per_address}, and {block} has as many"
        return ""

    def _count(self, place: Place) -> None:
        place.counted = True
        self._counted += 1
        if place.block:
            self._blocks[place.block] = self._blocks.get(place.block, 0) + 1

    def _wait(self, place: Place) -> None:
        self._over[place] = None
        self._notice(place.refusal)
        if len(self._over) > OVER_LIMIT:
            oldest = next((each for each in self._over if not each.served), place)
            del self._over[oldest]
            if oldest.socket is not None:
                oldest.socket.abort()

    def _notice(self, refusal: str) -> None:
        """Logs the refusal: one line a minute at most, however many sockets are refused."""
        now = self._now()
        if now >= self._notice_at:
            log.warning("sockets are refused: %s", refusal)
            self._notice_at = now + NOTICE_SECONDS
