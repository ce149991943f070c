"""Commands of programs without asyncio, for a cluster: each goes to the shard of its slot, over valkey-py's connections to that node.

valkey-py's own cluster client is not used: it sends a command again whose answer was lost, which may publish twice. Here a command is
sent again only where a node said that it carried nothing out.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import StoreError, Unavailable
from ..runtime.backoff import backoff
from .connect import Address
from .plain_commands import Load, Redirected, SyncCommands
from .topology import SLOTS, NodeAddress, View, key_of, redirected_to, slot_of, view_of

__all__ = ["SyncClusterCommands"]

PAUSE_SECONDS = 0.01  # before a refused command is sent again; it doubles up to PAUSE_MOST
PAUSE_MOST = 0.2
ELSEWHERE = ("MOVED", "ASK")  # refusals that name the node to ask
AT_ONCE = 2  # redirections that are followed without a pause
VIEWS = 2  # nodes that are asked which of them hold which slots: one that was cut off from the others answers what was true before


class SyncClusterCommands:
    """``PlainCommands`` describes it. ``seconds`` bound each wait for a node, and how long a slot is followed that moves or has no owner.

    ``load`` is that of ``SyncCommands``: functions are loaded into the shard that lacks them.
    """

    sharded = True

    def __init__(self, address: Address, seconds: float, load: Load | None = None) -> None:
        self._address = address
        self._seconds = seconds
        self._load = load
        self._lock = threading.RLock()
        self._nodes: dict[NodeAddress, SyncCommands] = {}
        self._owners: list[NodeAddress | None] = []
        self._others: Sequence[NodeAddress] = ()
        self._stale = True  # which nodes hold which slots is asked for before the next command
        self._failed: set[NodeAddress] = set()  # nodes that could not be reached lately: they are asked last

    def call(self, *words: Any) -> Any:
        until, attempt = time.monotonic() + self._seconds, 0
        address, asking = self._address_of(words), False
        while True:
            node = self._node(address)
            try:
                return node.call_asking(*words) if asking else node.call(*words)
            except Redirected as error:
                attempt += 1
                if time.monotonic() > until:
                    raise Unavailable(f"{self._address}: {error}") from None
                if attempt > AT_ONCE or not str(error).startswith(ELSEWHERE):
                    time.sleep(backoff(attempt, PAUSE_SECONDS, PAUSE_MOST))
                address, asking = self._redirected(words, address, str(error))
            except Unavailable:
                self._suspect(address)
                raise

    def _redirected(self, words: Sequence[Any], asked: NodeAddress, refusal: str) -> tuple[NodeAddress, bool]:
        """Where the command goes next, and whether it is to be sent as one that was asked for."""
        self._stale = True
        address = redirected_to(refusal, asked) if refusal.startswith(ELSEWHERE) else None
        return (address, refusal.startswith("ASK")) if address is not None else (self._address_of(words), False)

    @contextmanager
    def listening(self, channel: bytes) -> Iterator[Callable[[float], bytes | None]]:
        address = self._address_of((b"SPUBLISH", channel))
        try:
            with self._node(address).listening_sharded(channel) as announced:
                yield announced
        except Redirected as error:
            self._stale = True
            raise Unavailable(f"{self._address}: {error}") from None
        except Unavailable:
            self._suspect(address)
            raise

    def close(self) -> None:
        with self._lock:
            nodes, self._nodes, self._stale = self._nodes, {}, True
        for node in nodes.values():
            node.close()

    # Which nodes hold which slots.

    def _address_of(self, words: Sequence[Any]) -> NodeAddress:
        """The primary that holds the slot of a command; any for one without a key. Raises Unavailable where none does."""
        with self._lock:
            if self._stale:
                self._look()
            key = key_of(words)
            if key is None:
                return min(filter(None, set(self._owners)), key=lambda address: address in self._failed)
            address = self._owners[slot_of(key)]
        if address is None:
            self._stale = True
            raise Unavailable(f"no shard of the cluster at {self._address} holds the slot of this command")
        return address

    def _suspect(self, address: NodeAddress) -> None:
        with self._lock:
            self._failed.add(address)
            self._stale = True

    def _node(self, address: NodeAddress) -> SyncCommands:
        with self._lock:
            if address not in self._nodes:
                client = self._address.node(*address).sync_client(self._seconds)
                self._nodes[address] = SyncCommands(client, self._load, self.call)
            return self._nodes[address]

    def _look(self) -> None:
        """Asks some nodes, and believes the newest answer. Raises Unavailable if none answers and nothing is known from before."""
        addresses = list({*filter(None, self._owners), *self._others, *(seed.host_and_port for seed in self._address.seeds)})
        random.shuffle(addresses)
        views: list[View] = []
        fault = StoreError(f"no node of the cluster at {self._address} knows of a slot that is held")
        for address in sorted(addresses, key=lambda address: address in self._failed):
            try:
                view = self._view(address)
            except StoreError as error:
                fault = error
                self._failed.add(address)
                continue
            self._failed.discard(address)
            views += [view] if view.ranges else []
            if len(views) == VIEWS:
                break
        if views:
            self._apply(max(views, key=lambda view: (view.whole, view.epoch)))
        elif not self._owners:
            raise fault

    def _view(self, address: NodeAddress) -> View:
        node = self._node(address)
        return view_of(node.call(b"CLUSTER", b"INFO"), node.call(b"CLUSTER", b"SLOTS"), address)

    def _apply(self, view: View) -> None:
        owners: list[NodeAddress | None] = [None] * SLOTS
        for first, last, address in view.ranges:
            owners[first : last + 1] = [address] * (last + 1 - first)
        self._owners, self._others, self._stale = owners, view.replicas, False
        known = {*filter(None, owners), *view.replicas}
        for address in [address for address in self._nodes if address not in known]:
            self._nodes.pop(address).close()
