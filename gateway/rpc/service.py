"""A backend service that answers clients' rpc. Use it as ``gateway.rpc.Service``.

    service = Service("valkey://localhost")             # without a URL: the embedded server of a running `gateway serve`

    @service.method("orders.cancel")
    async def cancel(caller, data):                     # returns what is JSON; raises rpc.Failure(409, "it was shipped")
        return {"cancelled": data["order"]}

    @service.sent                                       # what clients send without waiting for a reply
    async def sent(caller, data):
        ...

    service.serve()                                     # until SIGTERM or Ctrl-C; inside a loop: await service.run()

A method may be a plain function: it runs in a thread, so that it may wait; at most ``threads`` of them run at once, and further ones wait
for a thread. Nothing can stop a thread: at its deadline its caller gets the error of one that did not answer, and it runs on.

Any number of instances share the work: each takes a request when fewer than ``concurrency`` are under way in it. A request whose
deadline is over is dropped, and a method is cancelled at its deadline, since its caller has got an error by then. An instance that
is asked to end takes no more requests and finishes those it has. It does not give its leases back: requests that come while the
last instance is being restarted wait for the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from ..errors import Failure, StoreError, Unavailable
from ..rules.json_text import decode_json, raw_object
from ..runtime import tracing
from ..runtime.backoff import retrying
from ..runtime.failure_log import FailureLog
from ..runtime.tasks import Tasks
from ..store.access import Commands, make_commands
from ..store.blocking import BlockingCommands
from ..store.connect import Address
from ..store.embedded import find_url
from ..store.layout import Layout
from ..store.valkey_clock import valkey_time
from .calls import SENT, UNREADABLE, Caller, Request, ServiceError, method_fault

__all__ = ["Service"]

log = logging.getLogger("gateway.service")

BLOCK_SECONDS = 1  # of one wait for a request: well below the silence after which Commands gives a connection up
BRIEF_SECONDS = 0.05  # of one wait where there are more lists than slots of ``concurrency``, so that the lists take turns
LEASE_SECONDS = 3  # two renewals may be late
RENEW_SECONDS = 1.0
THREADS = 16  # a plain function mostly waits, for a database or another server; each thread costs some 100 KiB

Method = Callable[[Caller, Any], Awaitable[Any]]
Function = TypeVar("Function", bound=Callable[[Caller, Any], Any])
_encode = msgspec.json.Encoder().encode


class Service:
    """``concurrency`` is how many requests one instance works on at once; further ones wait in Valkey for any instance.
    ``threads`` is how many plain functions run at once.

    ``prefix`` and ``data_dir`` are those of the gateway's configuration; without ``url`` its Valkey is found as by
    ``gateway.work.Queue``. Raises ConfigurationError for a URL that is none once it runs.
    """

    def __init__(
        self, url: str = "", *, prefix: str = "gw", data_dir: str | Path = "", concurrency: int = 64, threads: int = THREADS
    ) -> None:
        self._url = url
        self._data_dir = data_dir
        self._layout = Layout(prefix)
        self._concurrency = concurrency
        self._methods: dict[bytes, tuple[str, Method]] = {}  # by the list that requests for it come in
        self._under_way = Tasks()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="gateway.service")  # it starts them when they are needed
        self._running = False
        self._asking = 0  # how many lists wait for a slot
        self._ahead: dict[bytes, float] = {}  # list → seconds that the clock of its shard is ahead of ours

    def method(self, name: str) -> Callable[[Function], Function]:
        """Decorates the function that answers ``name``: it takes a Caller and the decoded data, and returns what is JSON.

        A coroutine function runs in the loop, a plain function in a thread.

        Raises ValueError for a name that no service's method can have, RuntimeError once the service runs.
        """
        if fault := method_fault(name):
            raise ValueError(fault)
        return self._registering(name)

    def sent(self, handler: Function) -> Function:
        """Decorates the function that takes what clients send, of either kind. What it raises is logged. Raises RuntimeError once the service runs."""
        return self._registering(SENT)(handler)

    def _registering(self, name: str) -> Callable[[Function], Function]:
        if self._running:
            raise RuntimeError("methods are registered before the service runs")

        def register(function: Function) -> Function:
            method = function if inspect.iscoroutinefunction(function) else self._in_a_thread(function)
            self._methods[self._layout.rpc(name)[0]] = name, method
            return function

        return register

    def _in_a_thread(self, function: Callable[[Caller, Any], Any]) -> Method:
        """A method that calls ``function`` in a thread; an object that makes a coroutine, as a partial may, has it awaited in the loop."""

        @wraps(function)
        async def method(caller: Caller, data: Any) -> Any:
            context = contextvars.copy_context()
            result = await asyncio.get_running_loop().run_in_executor(self._threads, context.run, function, caller, data)
            return await result if inspect.isawaitable(result) else result

        return method

    def serve(self) -> None:
        """For a program that does nothing else: ``run`` in a loop of its own, until SIGTERM or SIGINT. A second signal ends it at once."""
        with contextlib.suppress(asyncio.CancelledError, KeyboardInterrupt):
            asyncio.run(self._run_until_signalled())

    async def _run_until_signalled(self) -> None:
        running = asyncio.current_task()
        assert running is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, running.cancel)
        await self.run()

    async def run(self) -> None:
        """Serves until cancelled, then finishes what is under way: a call within its deadline, what was sent however long it takes.

        Raises Unavailable if Valkey, or every shard of a cluster, cannot be reached at the start; a connection that is lost later is opened again by itself.
        """
        if not self._methods:
            raise ValueError("the service has no method")
        async with self._connected() as (commands, waits):
            self._running = True
            free = asyncio.Semaphore(self._concurrency)
            renewing = asyncio.create_task(self._renew_leases(commands))
            working = [renewing, *(asyncio.create_task(self._take(queue, lists, commands, free)) for queue, lists in waits)]
            try:
                # wait, unlike gather, does not cancel them when this is cancelled: Valkey may have given us a request already.
                await asyncio.wait(working, return_when=asyncio.FIRST_COMPLETED)
            finally:
                self._running = False
                renewing.cancel()
                await asyncio.wait(working)
                await self._under_way.finish()
            for task in working:
                if not task.cancelled():
                    task.result()  # none ends by itself: it failed

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[Commands, list[tuple[BlockingCommands, list[bytes]]]]]:
        """One connection for commands, and one that waits for requests; in a cluster one of these for each list, which is in a slot of its own."""
        tracing.find()
        address = Address(find_url(self._url, self._data_dir))
        async with contextlib.AsyncExitStack() as stack:
            commands = make_commands(address)
            stack.push_async_callback(commands.close)
            await commands.start()
            lists = list(self._methods)
            waits: list[tuple[BlockingCommands, list[bytes]]] = []
            for some in [[each] for each in lists] if commands.sharded else [lists]:
                queue = BlockingCommands(address, commands, some[0], BLOCK_SECONDS)
                stack.push_async_callback(queue.close)
                waits.append((queue, some))
            try:
                await self._renew(commands)
            except Unavailable as error:
                if not commands.sharded:
                    raise
                log.warning("some methods are not served yet: %s", error)
            yield commands, waits

    # Leases.

    async def _renew_leases(self, commands: Commands) -> None:
        failures = FailureLog(log)
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self._renew(commands)
            except StoreError as error:
                failures.failed("the leases were not renewed: %s; trying again", error)
            else:
                if failures.worked():
                    log.warning("the leases are renewed again")

    async def _renew(self, commands: Commands) -> None:
        """Renews all leases, each for itself: a shard that does not answer costs those alone that it holds. Raises the first error."""
        methods = [self._renew_method(commands, key, name) for key, (name, _) in self._methods.items()]
        renewals = [self._renew_lease(commands, self._layout.services), *methods]
        for error in await asyncio.gather(*renewals, return_exceptions=True):
            if isinstance(error, BaseException):
                raise error

    async def _renew_method(self, commands: Commands, key: bytes, name: str) -> None:
        await self._renew_lease(commands, self._layout.rpc(name)[1])
        self._ahead[key] = await valkey_time(commands, key) - time.time()

    async def _renew_lease(self, commands: Commands, lease: bytes) -> None:
        renewal = commands.call(b"SET", lease, os.getpid(), b"PX", int(LEASE_SECONDS * 1000))
        try:
            async with asyncio.timeout(LEASE_SECONDS / 2):  # another shard's leases must not wait for this one's
                await renewal
        except TimeoutError:
            raise Unavailable(f"no answer for {LEASE_SECONDS / 2:g} s") from None

    # Requests.

    async def _take(self, queue: BlockingCommands, lists: list[bytes], commands: Commands, free: asyncio.Semaphore) -> None:
        while self._running:
            await self._free_slot(free)
            taken = await retrying(lambda: self._taken(queue, lists), "no requests could be taken", log, on=StoreError, ceiling=1.0)
            if taken is None:
                free.release()
                continue
            lists.append(lists.pop(0))  # BRPOP looks at the first list first: no method starves another
            self._under_way.spawn(self._serve(commands, *taken)).add_done_callback(lambda _: free.release())

    async def _free_slot(self, free: asyncio.Semaphore) -> None:
        """Waits until there is room for one more request."""
        self._asking += 1
        try:
            await free.acquire()
        finally:
            self._asking -= 1

    async def _taken(self, queue: BlockingCommands, lists: list[bytes]) -> list[bytes] | None:
        """A request's list and its text; None if none came within BLOCK_SECONDS, or the service ends.

        Each wait occupies one of ``concurrency`` slots. Where another list waits for a slot, this wait is brief, so that the slot is free again soon.
        """
        if not self._running:
            return None
        taken: list[bytes] | None = await queue.call(b"BRPOP", *lists, BRIEF_SECONDS if self._asking else BLOCK_SECONDS)
        return taken

    async def _serve(self, commands: Commands, key: bytes, text: bytes) -> None:
        name, method = self._methods[key]
        try:
            request = decode_json(text, Request)
        except UNREADABLE as error:
            log.warning("%s: a request that cannot be read: %s", name, str(error)[:200])
            return
        deadline = request.deadline / 1000 - self._ahead.get(key, 0.0)
        if deadline <= time.time():
            log.info("%s: a request whose deadline is over is dropped", name)
            return
        with tracing.span(f"rpc {name}", "server", parent=request.traceparent, attributes={"rpc.method": name}):
            answer = await _answer(name, method, request, deadline)
            if answer is None or "error" in answer:
                tracing.fail("timeout" if answer is None else "error")
        if answer is None:
            return
        if request.reply_to:
            await _send(commands, name, request, answer, deadline)
        elif "error" in answer:
            log.warning("%s: what user %r sent was refused: %s", name, request.user, answer["error"].decode())


async def _answer(name: str, method: Method, request: Request, deadline: float) -> dict[str, bytes] | None:
    """``data`` or ``error`` of the reply, as JSON; None if the method was cancelled at its deadline."""
    try:
        info, meta, data = (decode_json(bytes(raw), Any) for raw in (request.info, request.meta, request.data))
    except UNREADABLE as error:
        return _error(107, f"the data cannot be read: {error}")
    try:
        # No client gets an error for what was sent, so that is not cancelled: once begun it is finished.
        async with asyncio.timeout(deadline - time.time() if request.reply_to else None) as limit:
            result = _encode(await method(Caller(request.user, request.client, info, deadline, meta), data))
    except Failure as failure:
        return _error(failure.code, failure.message, failure.temporary)
    except Exception:
        if limit.expired():
            log.warning("%s was cancelled at its deadline", name)
            return None
        log.exception("%s failed", name)
        return _error(100, "internal server error")
    if len(result) > request.limit:
        return _error(106, f"a reply of {len(result)} bytes; limits.rpc_bytes is {request.limit}")
    return {"data": result}


def _error(code: int, message: str, temporary: bool = False) -> dict[str, bytes]:
    return {"error": _encode(ServiceError(code, message.encode(errors="replace").decode(), temporary))}


async def _send(commands: Commands, name: str, request: Request, answer: dict[str, bytes], deadline: float) -> None:
    """Sends a reply, and again if the connection broke: a reply that comes twice harms nobody."""
    reply = raw_object({"id": _encode(request.id), **answer})
    try:
        async with asyncio.timeout(deadline - time.time()):
            await retrying(
                lambda: commands.publish(request.reply_to, reply),
                f"{name}: a reply was not sent",
                log,
                on=Unavailable,
                ceiling=1.0,
            )
    except TimeoutError:
        log.warning("%s: a reply was not sent before its deadline", name)
    except StoreError as error:
        log.warning("%s: a reply was not sent: %s", name, error)
