"""Wiring: from a configuration to an ASGI application.

``Gateway`` makes what one process runs, part by part, and starts and stops it. ``create_app`` puts the edges on top; its
lifespan starts and stops the gateway, so any ASGI server can run it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Mount, Route

from .auth.admin_keys import AdminKeys
from .auth.keys import Keys
from .auth.tokens import SHORT_SECRET, Verifier
from .config import Config
from .console.admin_routes import routes as console_routes
from .console.console import make_console
from .control.bus import Bus
from .control.events import LifecycleEvents
from .control.leases import Leases
from .control.presence import Presence
from .control.revocations import Revocations
from .control.rules_check import RulesCheck
from .control.secrets_check import SecretsCheck
from .documentation import routes as documentation
from .edges import health, pages
from .edges import pull as clients
from .edges.api.openapi import openapi
from .edges.application import Application
from .edges.doctor_view import doctor_view
from .errors import GatewayError, NotPermitted, StoreError, Unavailable
from .live.hub import Hub
from .live.inbox import Inbox
from .metrics.metrics_path import metrics
from .metrics.metrics_port import metrics_port
from .metrics.process_figures import Measured
from .metrics.scrape import Scrape
from .metrics.siblings import ALONE, WorkerGroup
from .rpc.calls import Calls
from .rpc.methods import built_in
from .runtime import tracing
from .runtime.loop_lag import LoopLag
from .runtime.tasks import Tasks, run_endlessly
from .runtime.wheel import Wheel
from .session.admission import Admission
from .session.authentication import Authentication
from .session.control_orders import Orders
from .session.node import Node, new_id
from .store.access import make_commands
from .store.connect import Address
from .store.history import History
from .store.layout import Layout
from .store.library import Library, rules_of
from .store.link import Link
from .store.rights import Rights, rights_of
from .store.rights_check import log_lack
from .work.bridges import Bridges
from .work.queues import Queues

__all__ = ["Application", "Gateway", "Guest", "create_app"]

log = logging.getLogger("gateway.app")


class _Store:
    """Valkey, as this process uses it. ``uid`` is the id of the process."""

    def __init__(self, config: Config, valkey_url: str, uid: str, *, install: bool) -> None:
        self.address = address = Address(valkey_url)
        layout = Layout(config.prefix)
        self.library = library = Library(rules_of(config.channels, config.namespaces) if install else None, layout.prefix)
        self.commands = commands = make_commands(address, functions=library)
        self.link = Link(address, commands, layout.own_channel(uid))
        self.history = History(commands, layout)

    async def install_functions(self) -> None:
        try:
            await self.library.install(self.commands)
        except NotPermitted:
            raise
        except StoreError as error:
            why = "" if error.is_general else " (Valkey 7.2 or newer is needed, or Redis 7)"
            raise type(error)(f"Valkey at {self.address} does not take the gateway's functions{why}: {error}") from None

    async def close(self) -> None:
        await self.link.close()
        await self.commands.close()


class _Control:
    """What processes send each other, and what carries it out."""

    def __init__(self, config: Config, store: _Store, uid: str, hub: Hub, admission: Admission, tasks: Tasks) -> None:
        history = store.history
        self.revocations = Revocations(history)
        self.events = LifecycleEvents(config, history, uid)
        self.presence = Presence(config, history, uid)
        self._leases = Leases(history, uid, self.presence)
        self._rules_check = RulesCheck(store.library, store.commands, tasks)
        self._secrets_check = SecretsCheck(config, store.commands, uid)
        self.orders = Orders(config, uid, hub, self.revocations, admission, self.events)
        self.bus = Bus(history, uid, self._leases, self.orders)

    def listen(self, link: Link) -> None:
        link.add_channel_listener(self.bus.key, self.bus)
        link.add_up_listener(self._rules_check)

    def work(self) -> list[Coroutine[Any, Any, None]]:
        """What runs until it is cancelled."""
        return [self._rules_check.run(), self._secrets_check.run(), self._leases.run(), self.presence.run(), self.events.run()]

    async def close(self) -> None:
        """Removes what Valkey has of this process."""
        clean = await self.presence.close()
        await self._write_last_events()
        await self._secrets_check.close()
        await self.bus.close()
        await self._leases.give_back(clean=clean)

    async def _write_last_events(self) -> None:
        with contextlib.suppress(StoreError, TimeoutError):  # those that Valkey does not take now are lost with this process
            async with asyncio.timeout(2):
                await self.events.flush()


class Gateway:
    """One process, made inside a running loop: ``await start()``, ``await stop()``. ``node`` is what the edges work with, ``measured``
    what metrics are read from.

    ``install`` False leaves the functions and rules that are in Valkey as they are, for a program that only follows channels.
    Raises ConfigurationError, in one line.
    """

    def __init__(self, config: Config, valkey_url: str, *, install: bool = True) -> None:
        self._config = config
        self._install = install
        self._background: list[asyncio.Task[None]] = []
        self._wheel, self._lag = Wheel(), LoopLag()
        uid, tasks = new_id(), Tasks()
        self._store = store = _Store(config, valkey_url, uid, install=install)
        self.link, history = store.link, store.history
        self._keys = Keys(config.tokens)

        # From Valkey to every subscription.
        inbox = Inbox(config, history)
        hub = Hub(config, history.layout, history, store.link, inbox)
        admission = Admission(config.limits, hub.now)
        self._control = control = _Control(config, store, uid, hub, admission, tasks)

        # What other programs produce.
        self.bridges = Bridges(config, store.address, history, uid)

        # Clients.
        calls = Calls(config, history, uid, store.link, others=control.bus)
        admin_keys = AdminKeys(config.admin_keys, config.admin_read_keys)
        authentication = Authentication(config, Verifier(config.tokens, self._keys), control.revocations, admin_keys)
        self.node = Node(
            config=config,
            uid=uid,
            tasks=tasks,
            wheel=self._wheel,
            history=history,
            hub=hub,
            inbox=inbox,
            control=control.bus,
            presence=control.presence,
            revocations=control.revocations,
            events=control.events,
            calls=calls,
            methods=built_in(inbox),
            admission=admission,
            authentication=authentication,
            queues=Queues(store.commands, history.layout),
        )
        self.measured = Measured(self.node, store.link, store.commands, self.bridges, self._lag, self.unready)
        self.console = make_console(self.measured, control.orders, admin_keys)

        store.link.add_own_listener(calls)
        store.link.add_listener(hub)
        if install:
            control.listen(store.link)

    async def start(self) -> None:
        """Connects, loads the functions, and waits for the link's first heartbeat. Raises ConfigurationError or StoreError, in one line."""
        if self._install:
            self.console.open()
        try:
            await self._connect()
        except BaseException:
            # The loop that ends cancels each task once, and valkey-py may swallow that: its process would never end.
            await self._store.close()
            self.console.close()
            raise
        if 0 < len(self._config.tokens.hmac_secret.encode()) < SHORT_SECRET:
            log.warning("tokens.hmac_secret is short: %d bytes or more are safe", SHORT_SECRET)
        work = [self._wheel.run(), self.node.hub.run_upkeep(), *([self._keys.run()] if self._keys.has_url else [])]
        if self._install:
            work += [self._lag.run(), *self._control.work(), *self._alerts()]
        self._background = [run_endlessly(each, "the gateway") for each in work]
        if self._install:
            await self.bridges.start()

    async def _connect(self) -> None:
        commands = self._store.commands
        await commands.start()
        if self._install:
            await self._store.install_functions()
            await log_lack([shard.address for shard in commands.shards if shard.connected], self._rights())
            try:
                await self.node.revocations.load()
            except Unavailable as error:  # as where their shard of a cluster is away: a process without them would admit revoked tokens
                raise Unavailable(f"which tokens were revoked cannot be read: {error}") from None
        await self.link.start()

    def _alerts(self) -> list[Coroutine[Any, Any, None]]:
        if not self._config.alerts.are_on:
            return []
        from .work.alerts import Alerts  # few gateways need it

        return [Alerts(self._config.alerts, self.node.queues, self.node.history).run()]

    def _rights(self) -> Rights:
        config = self._config
        return rights_of("gateway", config.prefix, config.bridges, cluster=self._store.commands.sharded, console=config.has_console)

    def unready(self) -> str:
        """Why clients should go elsewhere; "" if they need not."""
        if not self._background:
            return "starting"
        if self.node.admission.draining:
            return "draining"
        commands = self._store.commands
        if not commands.connected:
            return "no shard of the cluster takes commands" if commands.sharded else "no connection to Valkey"
        return self.link.doubt

    def impaired(self) -> str:
        """What of a cluster does not reach this process, or is not reached by it, although other shards are; "" if there is no such thing."""
        away = [str(shard.address) for shard in self._store.commands.shards if not shard.connected]
        parts = [f"no connection to Valkey at {address}" for address in away]
        parts += [doubt for address, doubt in self.link.doubts.items() if address not in away]
        return "; ".join(parts)

    async def stop(self) -> None:
        """What Valkey has of this process is removed first; then the connections are closed."""
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.bridges.close()
        await self._control.close()
        await self.node.tasks.cancel()
        await self.node.hub.close()
        await self.node.inbox.close()
        await self._store.close()
        self.console.close()


class Guest(Protocol):
    """What runs beside the gateway in its process, as the demo does: routes, and work that runs while ``running`` is entered."""

    routes: list[BaseRoute]

    def running(self, gateway: Gateway) -> contextlib.AbstractAsyncContextManager[None]: ...


def create_app(
    config: Config,
    valkey_url: str = "",
    guests: Sequence[Guest] = (),
    *,
    group: WorkerGroup = ALONE,
    metrics_listener: socket.socket | None = None,
) -> Application:
    """The ASGI application. Needs a lifespan; ``valkey_url`` (or the configuration's) names the Valkey to use.

    ``group`` is that of the worker processes to which this one belongs; on ``metrics_listener`` it answers scrapes without a key.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
        state = starlette.state
        state.failure = None
        async with contextlib.AsyncExitStack() as stack:
            try:
                tracing.start(config.telemetry.traces)
                stack.push_async_callback(asyncio.to_thread, tracing.end)
                gateway = state.gateway = Gateway(config, valkey_url or config.valkey_url)
                await gateway.start()
                stack.push_async_callback(gateway.stop)
                scrape = state.scrape = Scrape(gateway.measured, group)
                await stack.enter_async_context(scrape.answering())
                await stack.enter_async_context(metrics_port(metrics_listener, scrape))
                for guest in guests:
                    await stack.enter_async_context(guest.running(gateway))
            except GatewayError as error:
                state.failure = error  # the server that runs the application prints it in one line
                raise
            except Exception:
                log.exception("the gateway did not start")
                raise
            yield {"node": gateway.node, "gateway": gateway}

    routes = [
        Route("/", pages.landing),
        Route("/history", clients.history, methods=["GET"]),
        Route("/inbox", clients.inbox, methods=["GET"]),
        Route("/inbox/read", clients.inbox_read, methods=["POST"]),
        Route("/openapi.json", openapi, methods=["GET"]),
        Route("/metrics", metrics, methods=["GET"]),
        Route("/health/live", health.live),
        Route("/health/ready", health.ready),
        Route("/health/doctor", doctor_view, methods=["GET"]),
        *console_routes(config),
        *documentation.routes(),
        *(route for guest in guests for route in guest.routes),
        Mount("/static", pages.files),
    ]
    starlette = Starlette(routes=routes, lifespan=lifespan)
    return Application(starlette, lifespan)
