"""What the tests of the published SDKs share: the rules of their gateway, tokens with any claims, a service to call.

RULES       namespaces in which everything that an SDK can ask for is on somewhere
answering   a real backend service, in a thread of its own
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from gateway.rpc import Caller, Failure, Service

from .gateways import RunningGateway
from .topologies import plain_client
from .waiting import wait_until

__all__ = ["RULES", "answering", "forget"]

RULES = """
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
    with closing(plain_client(valkey_url)) as store:
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
    with closing(plain_client(valkey_url)) as store:
        wait_until(lambda: store.exists(f"{gateway.prefix}:rpc:{{shop.order}}:service"), "the service's lease")
    yield
    loop.call_soon_threadsafe(running.cancel)
    thread.join(10)
    loop.close()


def _run_until_cancelled(loop: asyncio.AbstractEventLoop, running: asyncio.Task[None]) -> None:
    try:
        loop.run_until_complete(running)
    except asyncio.CancelledError:
        pass
