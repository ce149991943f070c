"""Commands for a cluster: each goes to the shard that holds its hash slot, over one pipelined connection a shard.

    call ──▶ slot ──▶ held? ──▶ waits in order (``held_slots``)
                  └──▶ its shard's ServerCommands ──MOVED, ASK, TRYAGAIN, CLUSTERDOWN──▶ held

The table of slots is asked for anew when a shard cannot be reached, when a command was sent to the wrong one, and every LOOK_SECONDS.
A slot that turns out to be held elsewhere takes its commands along, those first that were on their way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import count
from typing import Any

from ..errors import StoreError, Unavailable
from ..runtime.backoff import backoff
from ..runtime.tasks import Tasks, end
from .command import GUARD_WORDS, Command, Functions, Waiter, make_command
from .connect import Address
from .connection import ServerCommands
from .held_slots import HeldSlots
from .topology import SLOTS, NodeAddress, View, ask, ask_anew, key_of, newest, slot_of

__all__ = ["ClusterCommands"]

log = logging.getLogger("gateway.store")

LOOK_SECONDS = 10.0  # between two looks at the slots if nothing suggests that they have moved
LOOK_PAUSE_SECONDS = 0.05  # at least, between two looks in a row; it doubles up to LOOK_PAUSE_MOST while nothing changes
LOOK_PAUSE_MOST = 1.0
UNSERVED_SECONDS = 5.0  # in which a replica takes over, as a rule: only then it is logged that hash slots are not served
FIRST_SECONDS = 5.0  # for the shards to be connected at the start


class ClusterCommands:
    """``store.access.Commands`` describes what is called from outside, and ``patience``.

    A shard that cannot be reached costs those commands alone whose slots it holds.
    """

    sharded = True

    def __init__(self, address: Address, *, patience: float, functions: Functions | None = None) -> None:
        self.address = address
        self._patience = patience
        self._functions = functions
        self.guard_words = GUARD_WORDS if functions is not None else 0
        self._servers: dict[NodeAddress, ServerCommands] = {}
        self._leaving: set[ServerCommands] = set()  # nodes without hash slots, which still answer what was on its way to them
        self._owners: list[ServerCommands | None] = [None] * SLOTS
        self._shards: list[ServerCommands] | None = None  # those in the table, once asked for
        self._is_patched = False  # by redirections, since the table was read
        self._replicas: Sequence[NodeAddress] = ()
        self._numbers = count()
        self._held = HeldSlots(self, patience)
        self._changed: list[Callable[[], None]] = []
        self._tasks = Tasks()
        self._doubt = asyncio.Event()
        self._unserved_since: float | None = None  # some hash slots, as a node says
        self._unserved_is_logged = False
        self._watching: asyncio.Task[None] | None = None

    # What it is.

    @property
    def connected(self) -> bool:
        return any(server.connected for server in self._servers.values())

    @property
    def shards(self) -> list[ServerCommands]:
        if self._shards is None:
            self._shards = list(dict.fromkeys(owner for owner in self._owners if owner is not None))
        return self._shards

    def shard(self, key: bytes) -> ServerCommands | None:
        return self._owners[slot_of(key)]

    def owner(self, slot: int) -> ServerCommands | None:
        return self._owners[slot]

    def on_shards_changed(self, changed: Callable[[], None]) -> None:
        self._changed.append(changed)

    def look_again(self) -> None:
        self._doubt.set()

    # Start and end.

    async def start(self) -> None:
        self._apply(await newest([partial(ask_anew, seed) for seed in self.address.seeds]))
        try:
            await self._first_connections()
        except BaseException:
            await self.close()
            raise
        self._watching = asyncio.create_task(self._watch(), name="valkey slots")

    async def _first_connections(self) -> None:
        """Returns when every shard is connected, or those that can be are. Raises StoreError if none can be."""
        loop = asyncio.get_running_loop()
        until = loop.time() + FIRST_SECONDS
        while not all(shard.connected or _is_refused(shard) for shard in self.shards) and loop.time() < until:
            await asyncio.sleep(0.01)
        missing = [str(shard.address) for shard in self.shards if not shard.connected]
        if len(missing) == len(self.shards):
            for shard in self.shards:
                if shard.failure is not None and _is_refused(shard):
                    raise shard.failure
            raise Unavailable(f"no shard of the cluster at {self.address} takes commands: {', '.join(missing)}")
        if missing:
            log.warning("of the shards of the cluster at %s, these take no commands: %s", self.address, ", ".join(missing))

    async def close(self) -> None:
        if self._watching is not None:
            await end(self._watching)
        await self._tasks.cancel()
        await self._held.close()
        await asyncio.gather(*[server.close() for server in (*self._servers.values(), *self._leaving)])

    # Calling.

    async def call(self, *words: Any, repeatable: bool = False, guarded: bool = False) -> Any:
        return await self.begin(*words, repeatable=repeatable, guarded=guarded)

    def begin(self, *words: Any, repeatable: bool = False, guarded: bool = False) -> asyncio.Future[Any]:
        key = key_of(words)
        command = make_command(words, guarded=guarded and self._functions is not None, repeatable=repeatable)
        self._begin(command, -1 if key is None else slot_of(key))
        return command.future

    def begin_for(self, waiter: Waiter, *words: Any, guarded: bool = False) -> None:
        self.begin(*words, guarded=guarded).add_done_callback(partial(_pass_on, waiter))

    def begin_packed(self, waiter: Waiter, key: bytes, text: bytes) -> None:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        future.add_done_callback(partial(_pass_on, waiter))
        self._begin(Command(text, future, loop.time(), self._functions is not None), slot_of(key))

    def send(self, *words: Any) -> asyncio.Future[Any]:
        server = self._server_of(words)
        if server is None or not server.connected:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            future.set_exception(Unavailable(f"no connection to the shard of this command at {self.address}"))
            return future
        return self.begin(*words)

    async def publish(self, channel: bytes | str, payload: bytes | str) -> int:
        return int(await self.call(b"SPUBLISH", channel, payload))

    async def shared_call(self, *words: Any) -> Any:
        server = self._server_of(words)
        if server is None:
            raise Unavailable(f"no shard holds the slot of this command at {self.address}")
        return await server.call_now(*words)

    def _server_of(self, words: Sequence[Any]) -> ServerCommands | None:
        key = key_of(words)
        return self._any_server() if key is None else self.shard(key)

    def _any_server(self) -> ServerCommands | None:
        shards = self.shards
        return next((shard for shard in shards if shard.connected), shards[0] if shards else None)

    def _begin(self, command: Command, slot: int) -> None:
        command.number, command.slot = next(self._numbers), slot
        self.route(command)

    def route(self, command: Command) -> None:
        """Puts a command on its way to the shard of its slot, after all older ones of this slot."""
        slot = command.slot
        owner = self._owners[slot] if slot >= 0 else self._any_server()
        if self._held.takes(command):
            return
        if owner is None:
            if slot < 0:
                command.future.set_exception(Unavailable(f"no shard of the cluster at {self.address} is known"))
            else:
                self._held.hold_unowned(command)
        else:
            owner.take(command)

    # Redirections.

    def redirected(self, server: ServerCommands, command: Command, refusal: str) -> None:
        self._held.refused(server, command, refusal)

    def carried_out(self, command: Command) -> None:
        self._held.carried_out(command)

    def unreachable(self, server: ServerCommands) -> None:
        self.look_again()

    def moved(self, slot: int, node: NodeAddress) -> ServerCommands:
        """A shard says that ``node`` holds the slot, which is newer than the table."""
        self._owners[slot] = server = self.server(node)
        self._is_patched, self._shards = True, None
        self.look_again()
        return server

    def server(self, node: NodeAddress) -> ServerCommands:
        """The commands of a node, connected from now on."""
        server = self._servers.get(node)
        if server is None:
            address = self.address.node(*node)
            server = self._servers[node] = ServerCommands(address, patience=self._patience, functions=self._functions, redirects=self)
            server.begin_connecting()
        return server

    # The table of slots.

    async def _watch(self) -> None:
        attempt = 0
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._doubt.wait()
            except TimeoutError:
                attempt = 0
            self._doubt.clear()
            try:
                view = await self._look()
                self._note_whole(view.whole)
                attempt = 0 if self._apply(view) else attempt + 1
            except (StoreError, TimeoutError) as error:
                attempt += 1
                log.debug("the slots of the cluster could not be asked for: %s", error)
            except Exception:  # an answer of another form
                attempt += 1
                log.exception("the slots of the cluster could not be read")
            await asyncio.sleep(LOOK_PAUSE_SECONDS + backoff(attempt, LOOK_PAUSE_SECONDS, LOOK_PAUSE_MOST))

    def _note_whole(self, whole: bool) -> None:
        """Logs once that hash slots are not served, which no connection shows, and once that all are again."""
        now = asyncio.get_running_loop().time()
        if whole:
            if self._unserved_is_logged:
                log.warning("the cluster at %s serves all hash slots again", self.address)
            self._unserved_since, self._unserved_is_logged = None, False
        elif self._unserved_since is None:
            self._unserved_since = now
        elif not self._unserved_is_logged and now - self._unserved_since > UNSERVED_SECONDS:
            log.warning("the cluster at %s does not serve all hash slots: cluster_state is fail", self.address)
            self._unserved_is_logged = True

    async def _look(self) -> View:
        """What the nodes say: those that are connected, and, where some are not, others that are known."""
        asking: list[Callable[[], Awaitable[View]]] = []
        connected = {node for node, server in self._servers.items() if server.connected}
        for node in connected:
            asking.append(partial(ask, self._servers[node].call_now, node))
        if len(connected) < len(self._servers) or not connected:
            others = {*self._replicas, *self._servers, *(seed.host_and_port for seed in self.address.seeds)} - connected
            asking += [partial(ask_anew, self.address.node(*node)) for node in others]
        return await newest(asking)

    def _apply(self, view: View) -> bool:
        """Takes over what a node knows. True if any slot is held by another shard than before."""
        before = self._owners
        after: list[ServerCommands | None] = [None] * SLOTS
        for first, last, node in view.ranges:
            after[first : last + 1] = [self.server(node)] * (last + 1 - first)
        self._replicas = view.replicas
        if after == before and not self._is_patched:
            return False
        self._owners, self._is_patched, self._shards = after, False, None
        for server in list(self._servers.values()):
            self._held.hold_moved(server, [slot for slot in server.queue.slots() if after[slot] is not server])
        self._retire(set(self.shards))
        for changed in self._changed:
            changed()
        return True

    def _retire(self, needed: set[ServerCommands]) -> None:
        """Closes the connections to nodes that hold no slots any more, once what was on its way there is answered."""
        for node, server in list(self._servers.items()):
            if server not in needed:
                del self._servers[node]
                self._leaving.add(server)
                self._tasks.spawn(self._close(server))

    async def _close(self, server: ServerCommands) -> None:
        await server.settle()
        for command in server.withdraw(lambda slot: False):
            self.route(command)
        await server.retire()
        self._leaving.discard(server)


def _pass_on(waiter: Waiter, future: asyncio.Future[Any]) -> None:
    if future.cancelled():
        waiter.set_exception(Unavailable("the process ends"))
    elif isinstance(error := future.exception(), StoreError):
        waiter.set_exception(error)
    else:
        waiter.set_result(future.result())


def _is_refused(shard: ServerCommands) -> bool:
    """Whether it cannot be connected to for a reason that does not pass by itself."""
    return isinstance(shard.failure, StoreError) and not isinstance(shard.failure, Unavailable)
