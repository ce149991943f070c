"""Backend services of the tests: in this process, in a process of its own, and made of plain Valkey commands.

running    runs ``Service`` objects while a block lasts
serving    what a service in a process of its own does; begun by ``ServiceProcess``
ByHand     a service in another language: it pops requests and publishes replies itself
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
from collections.abc import AsyncIterator, Iterator
from multiprocessing.connection import Connection
from typing import Any

import valkey

from gateway.rpc import Caller, Service

from . import forks
from .gateways import RunningGateway
from .waiting import until

__all__ = ["ByHand", "ServiceProcess", "lease_of_all", "lists", "running", "service_process", "serving"]

SHORT_WAITS = {"gateway.rpc.service.BLOCK_SECONDS": 0.1}


def lists(gateway: RunningGateway, method: str) -> tuple[str, str]:
    """The keys of a method: its requests, and the lease of those that serve it."""
    queue = f"{gateway.prefix}:rpc:{{{method}}}"
    return queue, f"{queue}:service"


def lease_of_all(gateway: RunningGateway) -> str:
    """The key that exists while any service serves anything."""
    return f"{gateway.prefix}:rpc:services"


@contextlib.asynccontextmanager
async def running(*services: Service) -> AsyncIterator[list[asyncio.Task[None]]]:
    """Each has its lease when the block begins: ``run`` takes it before it waits for anything else."""
    tasks = [asyncio.create_task(service.run()) for service in services]
    await until(lambda: all(service._ahead for service in services), "the services run")
    yield tasks
    for task in tasks:
        task.cancel()
    for result in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(result, asyncio.CancelledError), result


def serving(url: str, prefix: str, method: str, orders: Connection, constants: dict[str, Any]) -> None:
    """Sends the data of each call to ``orders``, answers "done" when something comes back, and sends "ended" at its end."""
    forks.replace(constants)
    service = Service(url, prefix=prefix)

    @service.method(method)
    async def answer(caller: Caller, data: Any) -> str:
        orders.send(data)
        await asyncio.to_thread(orders.recv)
        return "done"

    service.serve()
    orders.send("ended")


class ServiceProcess:
    """``serving`` in a process of its own; ``allow`` lets it answer one call."""

    def __init__(self, gateway: RunningGateway, url: str, method: str, constants: dict[str, Any]) -> None:
        self._ours, theirs = multiprocessing.Pipe()
        self.process = forks.start(serving, url, gateway.prefix, method, theirs, constants)

    def allow(self) -> None:
        self._ours.send(None)

    async def received(self) -> Any:
        """The next object that it sent."""
        return await asyncio.to_thread(self._ours.recv)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()


@contextlib.contextmanager
def service_process(gateway: RunningGateway, store: valkey.Valkey, method: str) -> Iterator[ServiceProcess]:
    """It notices within a tenth of a second that it is to end."""
    url = "unix://" + store.get_connection_kwargs()["path"]
    process = ServiceProcess(gateway, url, method, SHORT_WAITS)
    yield process
    process.kill()


class ByHand:
    """A service that needs nothing but a Valkey client; its lease holds for 30 seconds."""

    def __init__(self, store: valkey.Valkey, gateway: RunningGateway, method: str) -> None:
        self.store = store
        self.queue, self.lease = lists(gateway, method)
        store.set(self.lease, "by hand", ex=30)

    async def request(self) -> dict[str, Any]:
        popped = await asyncio.to_thread(self.store.brpop, [self.queue], 10)
        assert popped is not None
        return json.loads(popped[1])

    def reply(self, request: dict[str, Any], **reply: Any) -> int:
        """Publishes it; returns how many received it."""
        return self.store.publish(request["reply_to"], json.dumps({"id": request["id"], **reply}, indent=1))
