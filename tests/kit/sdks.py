"""What the tests of the published SDKs share: the rules of their gateway, tokens with any claims, a service to call.

RULES       namespaces in which everything that an SDK can ask for is on somewhere; a ping every 2 s
answering   a real backend service, in a thread of its own
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import valkey
from centrifuge import Client

from gateway.rpc import Caller, Failure, Service

from .gateways import RunningGateway
from .waiting import until, wait_until

__all__ = ["RULES", "Client", "Open", "Told", "answering", "connect", "forget", "giving", "subscribed", "until_clients"]

RULES = """
ping_seconds = 2
[namespaces.chat]
publish = "subscriber"
history_size = 10000
join_leave = "asked"
[namespaces.ticket]
subscribe = "token"
[namespaces.news]
tags_filter = true
[namespaces.room]
subscribe = "nobody"
join_leave = "all"
[namespaces.short]
history_size = 5
"""


def forget(valkey_url: str, gateway: RunningGateway, channel: str) -> None:
    """The channel's history and counter are lost, as with a Valkey that comes back empty."""
    with valkey.from_url(valkey_url) as store:
        tagged = f"{gateway.prefix}:{{{channel}}}"
        assert store.delete(f"{tagged}:meta", f"{tagged}:stream")


@contextmanager
def answering(valkey_url: str, gateway: RunningGateway) -> Iterator[None]:
    """``shop.order`` answers with who asked for what; ``shop.refuse`` fails as its data says; ``shop.break`` is broken."""
    service = Service(valkey_url, prefix=gateway.prefix)

    @service.method("shop.order")
    async def order(caller: Caller, data: Any) -> Any:
        return {"user": caller.user, "info": caller.info, "data": data}

    @service.method("shop.refuse")
    async def refuse(caller: Caller, data: Any) -> None:
        raise Failure(data["code"], "not today", temporary=data.get("temporary", False))

    @service.method("shop.break")
    async def fail(caller: Caller, data: Any) -> None:
        raise Failure(3, "a code that is not an application's")

    loop = asyncio.new_event_loop()
    running = loop.create_task(service.run())
    thread = threading.Thread(target=_run_until_cancelled, args=(loop, running))
    thread.start()
    with valkey.from_url(valkey_url) as store:
        wait_until(lambda: store.keys(f"{gateway.prefix}:rpc:*shop.order*"), "the service's lease")
    yield
    loop.call_soon_threadsafe(running.cancel)
    thread.join(10)
    loop.close()


def _run_until_cancelled(loop: asyncio.AbstractEventLoop, running: asyncio.Task[None]) -> None:
    try:
        loop.run_until_complete(running)
    except asyncio.CancelledError:
        pass


# centrifuge-python.


class Told:
    """Every event of a client or of a subscription, in order: ``all`` with its kind, ``of`` one kind."""

    def __init__(self) -> None:
        self.all: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        async def record(ctx: Any) -> None:
            self.all.append((name.removeprefix("on_"), ctx))

        if not name.startswith("on_"):
            raise AttributeError(name)
        return record

    def of(self, kind: str) -> list[Any]:
        return [ctx for told, ctx in self.all if told == kind]

    async def until(self, kind: str, count: int = 1) -> list[Any]:
        await until(lambda: len(self.of(kind)) >= count, f"{count} × {kind}")
        return self.of(kind)

    def codes(self, kind: str) -> list[int]:
        return [ctx.code for ctx in self.of(kind)]

    @property
    def data(self) -> list[Any]:
        return [ctx.pub.data for ctx in self.of("publication")]


def giving(*tokens: Any) -> tuple[Any, list[Any]]:
    """A callback of the SDK's that gives one after the other, the last one for ever; and what it was asked."""
    asked: list[Any] = []

    async def give(*question: Any) -> Any:
        asked.append(question)
        given = tokens[min(len(asked), len(tokens)) - 1]
        return given() if callable(given) else given

    return give, asked


async def subscribed(client: Client, channel: str, **options: Any) -> tuple[Any, Told]:
    told = Told()
    subscription = client.new_subscription(channel, told, **options)  # type: ignore[arg-type]
    await subscription.subscribe()
    await subscription.ready(5)
    return subscription, told


async def until_clients(subscription: Any, count: int) -> dict[str, Any]:
    """Presence, once so many are there: it is written to Valkey a moment later."""
    async with asyncio.timeout(5):
        while len(clients := (await subscription.presence()).clients) != count:
            await asyncio.sleep(0.01)
    return clients


Open = Callable[..., Any]


@pytest.fixture
async def connect(request: pytest.FixtureRequest, user: str) -> AsyncIterator[Open]:
    """``await connect(token=…)``: a connected client of centrifuge-python and its events; ``ready=False`` does not wait for that."""
    opened: list[Client] = []

    async def open_client(ready: bool = True, at: RunningGateway | None = None, **options: Any) -> tuple[Client, Told]:
        at, told = at or request.getfixturevalue("gateway"), Told()
        if "get_token" not in options:
            options.setdefault("token", at.token(user))
        client = Client(at.websocket_url, events=told, max_reconnect_delay=0.3, proxy=None, **options)  # type: ignore[arg-type]
        opened.append(client)
        await client.connect()
        if ready:
            await client.ready(5)
        return client, told

    yield open_client
    for client in opened:
        await client.disconnect()
    # The SDK closes its transports in tasks of its own.
    if closing := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(closing, timeout=5)
