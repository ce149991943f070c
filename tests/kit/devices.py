"""A user's devices, which end with the same count of unread notifications however often each is cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

from websockets.asyncio.client import ClientConnection

from .clients import LOST, opened
from .gateways import RunningGateway
from .inboxes import Box
from .waiting import until

__all__ = ["Device", "running", "settled"]


class Device:
    """A user's device, by the rule of gateway.js: a state is taken unless it is of the same epoch and its change not newer; it
    asks for the state whenever its subscription begins. It comes back by itself, and with its position, while it is ``wanted``.

    ``hold`` keeps answers waiting, as a gateway may that announces what is newer meanwhile; ``release`` takes them.
    """

    def __init__(self, gateway: RunningGateway, user: str) -> None:
        self.gateway = gateway
        self.channel = f"notifications:{user}"
        self.wanted = asyncio.Event()
        self.unread: int | None = None
        self.change = -1
        self.connections = 0
        self._token = gateway.token(user)
        self._epoch = ""
        self._position: dict[str, Any] = {}
        self._connection: ClientConnection | None = None
        self._held: list[dict[str, Any]] | None = None
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._begun = asyncio.Event()
        self._id = 1

    async def run(self) -> None:
        while True:
            await self.wanted.wait()
            with contextlib.suppress(*LOST):
                async with opened(self.gateway) as wire:
                    self._connection = wire.connection
                    await self._live(wire.connection)
            self._begun.clear()
            self._connection = None
            for waiting in self._asked.values():
                waiting.cancel()
            self._asked.clear()

    async def _live(self, connection: ClientConnection) -> None:
        if not self.wanted.is_set():
            return
        await connection.send(json.dumps({"id": 1, "connect": {"token": self._token, "subs": {self.channel: self._position}}}))
        async for frame in connection:
            for line in str(frame).split("\n"):
                await self._receive(json.loads(line), connection)

    async def _receive(self, message: dict[str, Any], connection: ClientConnection) -> None:
        if message == {}:
            await connection.send("{}")
        elif "connect" in message:
            await self._begin(message["connect"]["subs"][self.channel], connection)
        elif "pub" in message.get("push", {}):
            self._take_publication(message["push"]["pub"])
        elif message.get("id") in self._asked:
            self._answered(self._asked.pop(message["id"]), message)
        else:
            raise AssertionError(f"not expected: {message}")

    async def _begin(self, result: dict[str, Any], connection: ClientConnection) -> None:
        self.connections += 1
        self._position = {"recover": True, "epoch": result["epoch"], "offset": result.get("offset", 0)}
        for publication in result.get("publications", []):
            self._take_publication(publication)
        self._begun.set()
        await self._send(connection, "inbox.list", {"limit": 0})

    async def _send(self, connection: ClientConnection, method: str, data: Any) -> asyncio.Future[dict[str, Any]]:
        self._id += 1
        answer = self._asked[self._id] = asyncio.get_running_loop().create_future()
        await connection.send(json.dumps({"id": self._id, "rpc": {"method": method, "data": data}}))
        return answer

    def _take_publication(self, publication: dict[str, Any]) -> None:
        if "offset" in publication:
            self._position["offset"] = publication["offset"]
        elif "inbox" in publication["data"]:
            self._take(publication["data"]["inbox"])

    def _answered(self, waiting: asyncio.Future[dict[str, Any]], message: dict[str, Any]) -> None:
        state = message["rpc"]["data"]
        if self._held is None:
            self._take(state)
        else:
            self._held.append(state)
        waiting.set_result(state)

    def _take(self, state: dict[str, Any]) -> None:
        if state["epoch"] == self._epoch and state["change"] <= self.change:
            return
        self._epoch, self.change, self.unread = state["epoch"], state["change"], state["unread"]

    def hold(self) -> None:
        self._held = [] if self._held is None else self._held

    def release(self) -> None:
        held, self._held = self._held or [], None
        for state in held:
            self._take(state)

    def cut(self) -> None:
        """Without a closing frame."""
        self.wanted.clear()
        if self._connection is not None:
            self._connection.transport.abort()

    async def read(self, **request: Any) -> bool:
        """False if it is not connected. A connection that the gateway ends meanwhile makes it ask again: reading twice changes nothing."""
        while self.wanted.is_set():
            await self._begun.wait()
            if self._connection is None:
                continue
            try:
                await (await self._send(self._connection, "inbox.read", request))
                return True
            except (asyncio.CancelledError, *LOST):
                if asyncio.current_task().cancelling():
                    raise
                await asyncio.sleep(0)
        return False

    @property
    def is_answered(self) -> bool:
        return self._begun.is_set() and not self._asked

    def is_settled(self, epoch: str, change: int) -> bool:
        """It is connected, waits for no answer, and has taken this state."""
        return self.is_answered and (self._epoch, self.change) == (epoch, change)

    def __repr__(self) -> str:
        return f"<{self.unread} unread, change {self.change}, {self.connections} connections, {len(self._asked)} answers awaited>"


@contextlib.asynccontextmanager
async def running(*devices: Device) -> AsyncIterator[None]:
    """They connect, and reconnect, while the block lasts."""
    tasks = [asyncio.create_task(device.run()) for device in devices]
    try:
        for device in devices:
            device.wanted.set()
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def settled(box: Box, devices: Iterable[Device], seconds: float = 10) -> None:
    """Every device has the state that Valkey has."""
    epoch, change = (word.decode() for word in box.own.client.hmget(box.meta, "epoch", "inbox"))
    try:
        await until(lambda: all(device.is_settled(epoch, int(change)) for device in devices), "", seconds)
    except TimeoutError:
        raise AssertionError(f"valkey has {len(box.unread())} unread, change {change}: {devices}") from None
    assert [device.unread for device in devices] == [len(box.unread())] * len(list(devices))
