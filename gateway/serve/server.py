"""``gateway serve``: uvicorn with our protocols, a drain, and the embedded Valkey around it.

The order. Start: the port first (no Valkey is started for a port that is in use), then the embedded server, then the
application. Stop: not ready, no new connections, clients asked in batches to connect again, the application, the embedded server last.

What it uses of uvicorn's internals is listed in ``edges/uvicorn_internals.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import cast

import uvicorn
from uvicorn.lifespan.on import LifespanOn

from .. import __version__
from ..app import Gateway, Guest, create_app
from ..config import Config
from ..edges.first_read import FirstRead
from ..edges.websocket import WebSocketConnection
from ..errors import ConfigurationError, GatewayError
from ..metrics.siblings import ALONE, WorkerGroup
from ..session.admission import Admission
from ..session.drain import drain
from ..store.embedded import EmbeddedServer
from ..store.epochs import renew_epochs
from .certificate import certificate_fault
from .descriptors import Descriptors
from .systemd import notify_ready, passed_listener
from .tls import TlsHandshake, leave_out_lost_writes
from .upkeep import Upkeep
from .workers import ending_signals, run_workers

__all__ = ["serve"]

log = logging.getLogger("gateway.server")

KEEP_ALIVE_SECONDS = (
    75  # as nginx; with a short one, a client that calls every few seconds would send into connections that are just closing
)
BACKLOG = 4096
INTERRUPTED_PER_SECOND = 2000  # clients that leave after Ctrl-C: a developer does not wait ``drain_seconds`` for a few of them
LAST_REQUESTS_SECONDS = 0.2  # after the drain, for requests that are on their way on connections that are open
LAST_ANSWERS_SECONDS = 6  # after the drain, for requests that are not answered yet; a stream's last bytes have 5 s
WATCH_SECONDS = 0.5
FOLDER_BYTES = 80  # a socket's name may have 104 on macOS, and here it is a folder's and a file's more


def serve(config: Config, on_ready: Callable[[str, EmbeddedServer | None], None], guests: Sequence[Guest] = ()) -> None:
    """Runs the gateway until SIGINT, SIGTERM or SIGHUP. ``on_ready`` takes the base URL and the embedded server (None without one), and
    is called when clients may connect. ``guests`` run in the gateway's process; there is one worker then. A socket that systemd passes is
    listened on instead of ``host`` and ``port``, and systemd is notified with ``on_ready``.

    Raises ConfigurationError or StoreError for whatever keeps it from starting.
    """
    # What lives long here are many small objects without cycles; searching them for cycles again and again stalls the fan-out.
    # Connections take their own cycles apart when they close.
    # New objects are searched 10,000 at a time, which takes 2 to 5 ms; those that survived are searched after 400 such times.
    gc.set_threshold(10_000, 400, 50)
    with contextlib.ExitStack() as stack:
        passed = passed_listener()
        listener = stack.enter_context(passed or _listen(config))
        metrics = stack.enter_context(_listen_for_metrics(config)) if config.metrics_port else None
        embedded = None if config.valkey_url else EmbeddedServer(config.data_path, config.valkey_port)

        def on_start() -> None:
            on_ready(_url(config, listener), embedded)
            notify_ready()

        # Until there is a server with its own way to end, the order to end must not leave an embedded Valkey running.
        orders = [number for number in ending_signals() if number != signal.SIGINT]  # which raises already
        for number in orders:
            signal.signal(number, lambda number, frame: sys.exit(0))
        try:
            if embedded is not None:
                _start(embedded, config)
            if config.workers == 1:
                _run(config, listener, embedded, on_start, guests=guests, metrics=metrics)
            else:
                _run_several(config, listener, embedded, on_start, metrics, passed)
        finally:
            for number in orders:
                signal.signal(number, signal.SIG_IGN)
            if embedded is not None:
                embedded.stop()


def _run(
    config: Config,
    listener: socket.socket,
    embedded: EmbeddedServer | None,
    on_ready: Callable[[], None],
    parent: int | None = None,
    guests: Sequence[Guest] = (),
    group: WorkerGroup = ALONE,
    metrics: socket.socket | None = None,
) -> None:
    server = Server(config, embedded, on_ready, parent, guests, group, metrics)
    server.run(sockets=[listener])
    if server.failure is not None:
        raise server.failure


def _run_several(
    config: Config,
    port: socket.socket,
    embedded: EmbeddedServer | None,
    on_ready: Callable[[], None],
    metrics: socket.socket | None,
    passed: socket.socket | None,
) -> None:
    """``port`` is bound, so that no other program takes its number; each worker listens on a socket of its own, once it is ready, and all on ``metrics``.

    All workers listen on the socket that systemd ``passed``, if there is one.
    """
    config = config.model_copy(update={"port": port.getsockname()[1], "valkey_url": embedded.url if embedded else config.valkey_url})

    parent = os.getpid()

    def work(ready: Callable[[], None], number: int) -> None:
        if embedded is not None:
            embedded.release()  # the lock is the parent's: a worker that outlives it must not hold it
        with contextlib.closing(passed or _bind(config, shared=True)) as listener:
            _run(config, listener, None, ready, parent, group=WorkerGroup(number, config.workers, folder), metrics=metrics)

    watch = Upkeep(embedded) if embedded is not None else lambda: None
    with _private_folder() as folder:
        run_workers(config.workers, work, on_ready, watch, config.drain_seconds + 15)


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder for the sockets by which workers ask each other. Only this user can enter it; it is removed at the end."""
    here = tempfile.gettempdir()
    with tempfile.TemporaryDirectory(prefix="gateway-", dir=here if len(os.fsencode(here)) < FOLDER_BYTES else "/tmp") as folder:
        yield Path(folder)


def _start(embedded: EmbeddedServer, config: Config) -> None:
    """Where it may be older than it was, clients that return are notified of a gap. Raises ConfigurationError, StoreError."""
    try:
        embedded.start()
    except ConfigurationError:
        embedded.release()  # there may be a server that does not answer: it is left alone
        raise
    if not embedded.is_older:
        return
    count = asyncio.run(renew_epochs(embedded.url, config.prefix))
    log.warning(
        "the embedded valkey may be older than it was: its folder, or a file in it, is a copy, the machine went down, or its disk was full; "
        "%d channels begin a new epoch",
        count,
    )
    embedded.goes_on()


def _listen(config: Config) -> socket.socket:
    """Binds the port. With several workers it does not listen here: the parent accepts no connections."""
    try:
        shared = config.reuse_port or config.workers > 1
        if shared and not config.reuse_port:
            _bind(config, shared=False).close()  # a port in use by others is an error, though it could be shared
        listener = _bind(config, shared=shared)
        if config.workers == 1:
            listener.listen(BACKLOG)
    except OSError as error:
        where = f"{config.host}:{config.port}"
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(
                f"port {config.port} on {config.host} is in use; stop what uses it, or choose another with --port"
            ) from None
        raise ConfigurationError(f"cannot listen on {where}: {error.strerror or error}") from None
    return listener


def _listen_for_metrics(config: Config) -> socket.socket:
    try:
        listener = _bind(config.model_copy(update={"port": config.metrics_port}), shared=False)
    except OSError as error:
        reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be listened on: {error.strerror or error}"
        raise ConfigurationError(f"metrics_port {config.metrics_port} on {config.host} {reason}") from None
    listener.listen()
    return listener


def _bind(config: Config, *, shared: bool) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((config.host, config.port))
    except OSError:
        listener.close()
        raise
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _url(config: Config, listener: socket.socket) -> str:
    """Where a browser on this machine finds it."""
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"{'https' if config.tls_cert else 'http'}://{shown}:{port}"


class _Lifespan(LifespanOn):
    """uvicorn's lifespan without its log of a failed start: the caller of ``serve`` prints the reason in one line."""

    async def startup(self) -> None:
        logger = logging.getLogger("uvicorn.error")
        disabled, logger.disabled = logger.disabled, True
        try:
            await super().startup()
        finally:
            logger.disabled = disabled


class Server(uvicorn.Server):
    """uvicorn's server with our protocols, for one process; ``run`` serves until the signal, ``failure`` says why a start failed.

    ``embedded`` is the server that this process maintains, None where another process does or there is none. ``parent`` is the
    process id of a worker's parent: the worker ends when it is gone; ``group`` is that of the workers. ``metrics`` is the
    listening socket of ``metrics_port``, None without one. Raises ConfigurationError for a certificate that cannot be used.
    """

    def __init__(
        self,
        config: Config,
        embedded: EmbeddedServer | None,
        on_ready: Callable[[], None],
        parent: int | None = None,
        guests: Sequence[Guest] = (),
        group: WorkerGroup = ALONE,
        metrics: socket.socket | None = None,
    ) -> None:
        self._parent = parent
        self._settings = config
        self._embedded = embedded
        self._on_ready = on_ready
        valkey_url = embedded.url if embedded is not None else config.valkey_url
        self._app = create_app(config, valkey_url, guests, group=group, metrics_listener=metrics)
        self._watcher: asyncio.Task[None] | None = None
        self._interrupted = False  # the signal to end was Ctrl-C's
        if fault := certificate_fault(config):
            raise ConfigurationError(fault)
        super().__init__(
            uvicorn.Config(
                self._app,
                http=FirstRead,
                ws=WebSocketConnection,
                loop="uvloop",
                lifespan="on",
                log_config=None,
                access_log=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                server_header=False,
                proxy_headers=False,
                backlog=BACKLOG,
                ssl_certfile=config.tls_cert or None,
                ssl_keyfile=config.tls_key or None,
                timeout_graceful_shutdown=LAST_ANSWERS_SECONDS,
            )
        )
        self.config.load()
        self.config.lifespan_class = _Lifespan
        if self.config.ssl is not None:
            # uvicorn would count nothing, and wait for a minute, before the handshake is done.
            context, self.config.ssl = self.config.ssl, None
            leave_out_lost_writes()
            self.config.http_protocol_class = partial(TlsHandshake, context)  # type: ignore[assignment]  # uvicorn only calls it

    @property
    def failure(self) -> GatewayError | None:
        """Why the application did not start; None if it did."""
        return getattr(self._app.state, "failure", None)

    @property
    def _gateway(self) -> Gateway:
        return cast(Gateway, self._app.state.gateway)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serves until the signal. Raises ConfigurationError if the application failed without saying why."""
        try:
            super().run(sockets)
        except SystemExit as end:  # uvicorn's way to end a failed start; ``failure`` says why
            if not end.code:  # an order to end, which came before there was a loop to take it
                raise
        if not self.started and self.failure is None:
            raise ConfigurationError("the application did not start; the log says why")

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop, self._exit = asyncio.get_running_loop(), asyncio.Event()
        await super().serve(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """As uvicorn's, which raises the signal again after a clean end, so that the process seems to have crashed. This one returns."""
        handlers = {number: signal.signal(number, self.handle_exit) for number in ending_signals()}
        try:
            yield
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            log.info("started: version %s, process %d, on %s", __version__, os.getpid(), ", ".join(map(_address, sockets or ())))
        gc.collect()
        gc.freeze()  # what the imports made is never garbage, and need not be searched
        self._watcher = asyncio.create_task(self._watch())
        self._on_ready()

    async def main_loop(self) -> None:
        """As uvicorn's, which looks ten times a second whether it should end. This one is woken by the signal."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._exit.wait()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            self._interrupted = sig == signal.SIGINT
        super().handle_exit(sig, frame)
        self._loop.call_soon_threadsafe(self._exit.set)

    async def _watch(self) -> None:
        """Maintains the embedded server, notices that no descriptor is left, and ends this worker when its parent is gone."""
        upkeep, look_at_descriptors = Upkeep(self._embedded) if self._embedded is not None else None, Descriptors()
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            look_at_descriptors()
            if upkeep is not None:
                await asyncio.to_thread(upkeep)
            if self._parent is not None and os.getppid() != self._parent and not self.should_exit:
                log.error("the parent process is gone; this worker ends")
                self.should_exit = True
                self._exit.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        admission = self._gateway.node.admission
        clients = len(admission.clients)
        log.info("stopping: no new connections are accepted, and %d clients are asked to connect again", clients)
        for server in self.servers:
            server.close()
        admission.ending = True
        gc.freeze()  # what there is now is not searched for cycles any more, which may take long: the process ends
        await drain(admission, self._drain_seconds(clients), lambda: self.force_exit)
        await self._take_last_requests(admission)
        if self._watcher is not None:
            self._watcher.cancel()
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn leaves the application out then, and would log its end by the loop's with a traceback
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        log.info("stopped: process %d", os.getpid())

    async def _take_last_requests(self, admission: Admission) -> None:
        """Returns when all connections of HTTP have ended, or LAST_REQUESTS_SECONDS later. Until then each answer to a backend is the last of its
        connection: a backend that sends into one that is just closed cannot know what became of its publication."""
        admission.closing = True
        until = self._loop.time() + LAST_REQUESTS_SECONDS
        while self.server_state.connections and not self.force_exit and self._loop.time() < until:
            await asyncio.sleep(0.01)

    def _drain_seconds(self, clients: int) -> float:
        seconds = self._settings.drain_seconds
        return min(seconds, clients / INTERRUPTED_PER_SECOND) if self._interrupted else seconds
