"""Wiring: from a configuration to an ASGI application.

``Gateway`` owns what one process runs: the connections to Valkey, the hub, the wheel. ``create_app`` puts the edges on
top; its lifespan starts and stops the gateway, so any ASGI server can run it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import BaseRoute, Mount, Route

from .auth.keys import Keys
from .auth.tokens import SHORT_SECRET, Verifier
from .config import Config
from .control.bus import Control
from .control.events import Lifecycle
from .control.presence import Presence
from .control.revocations import Revocations
from .edges import health, pages
from .edges import pull as clients
from .edges.api.endpoint import api
from .edges.api.openapi import openapi
from .edges.emulation import PATHS as EMULATION
from .edges.emulation import emulation
from .edges.request import preflight
from .edges.security_headers import secured
from .edges.sse.open import EventStreams
from .edges.websocket_asgi import serve_websocket
from .errors import GatewayError, StoreError
from .live.hub import Hub
from .live.inbox import Inbox
from .rpc.calls import Calls
from .rpc.methods import built_in
from .runtime.wheel import Wheel
from .session.node import Node
from .session.orders import Steering
from .store.connect import Address
from .store.connection import Commands
from .store.history import History
from .store.layout import Layout
from .store.library import Library, rules_of
from .store.link import Link

__all__ = ["Application", "Gateway", "Guest", "create_app"]

log = logging.getLogger("gateway.app")

RULES_SECONDS = 60.0


class Gateway:
    """One process: ``await start(url)``, then ``node`` is there for the edges; ``await stop()``."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.node: Node = None  # type: ignore[assignment]
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, valkey_url: str, *, install: bool = True) -> None:
        """Connects, loads the functions, follows the link. Raises ConfigurationError or StoreError, in one line.

        ``install`` False leaves the functions and rules that are in Valkey as they are, for whoever only looks on.
        """
        config = self.config
        address = Address(valkey_url)
        layout = Layout(config.prefix)
        self.commands = Commands(address)
        self._library = Library(rules_of(config.channels, config.namespaces) if install else None, layout.prefix)
        await self.commands.start()
        try:
            if install:
                await self._library.install(self.commands.call)
        except StoreError as error:
            raise type(error)(
                f"Valkey at {address} does not take the gateway's functions (Valkey 7.2 or newer is needed): {error}"
            ) from None
        history = History(self.commands, self._library, layout)
        wheel = Wheel()
        inbox = Inbox(config, history)
        keys = Keys(config.tokens)
        hub = Hub(config, layout, history, self, inbox)
        self.node = Node(config, hub, history, inbox, Verifier(config.tokens, keys), built_in(inbox), wheel)
        self.link = Link(address, self.commands, layout.heartbeat(self.node.uid))
        self.control = self.node.control = Control(history, self.node.uid)
        self.node.calls = Calls(config, history, self.node.uid, lambda: self.link.proven)
        self.link.on_own = self._told
        self.node.presence = Presence(config, history, self.control, self.node.uid)
        self.control.on_dead, self.control.on_forgotten = self.node.presence.bury, self.node.presence.write_anew
        self.node.lifecycle = Lifecycle(config, history, self.node.uid)
        self.node.revoked = Revocations(history)
        if install:
            await self.node.revoked.load()
        self.link.on_announcements, self.link.on_subscribed = self._announced, self._subscribed
        self.link.on_up, self.link.on_down = (self._link_is_up if install else hub.on_up), hub.on_down
        steering = Steering(self.node)
        self.control.on_message, self.control.answer, self.control.on_commands = steering.obey, steering.answer, self.node.command
        self.control.recall = steering.recall
        await self.link.start()
        if 0 < len(config.tokens.hmac_secret.encode()) < SHORT_SECRET:
            log.warning("tokens.hmac_secret is short: %d bytes or more are safe", SHORT_SECRET)
        work = [wheel.run(), hub.keep_house(), *([keys.keep_fresh()] if keys.has_url else [])]
        if install:
            work += [self._watch_rules(), self.control.beat(), self.node.presence.keep(), self.node.lifecycle.keep()]
        self._tasks = [asyncio.create_task(each) for each in work]
        for task in self._tasks:
            task.add_done_callback(_must_not_end)

    # The hub's feed. The link is made after the hub, and lives in this object.

    def subscribe(self, channels: list[bytes]) -> None:
        self.link.subscribe(channels)

    def unsubscribe(self, channels: list[bytes]) -> None:
        self.link.unsubscribe(channels)

    async def _last_events(self) -> None:
        with contextlib.suppress(StoreError, TimeoutError):  # those that Valkey does not take now are lost with us
            async with asyncio.timeout(2):
                await self.node.lifecycle.flush()

    def unready(self) -> str:
        """Why clients should go elsewhere; "" if they need not."""
        if self.node is None:
            return "starting"
        if self.node.draining:
            return "draining"
        if not self.commands.connected:
            return "no connection to Valkey"
        return "" if self.link.proven else "the live link to Valkey is not proven to work"

    async def _watch_rules(self) -> None:
        while True:
            await asyncio.sleep(RULES_SECONDS)
            await self._compare_rules()

    def _announced(self, batch: dict[bytes, list[bytes]]) -> None:
        said = batch.pop(self.control.key, None)
        if said is not None:
            self.control.heard(said)
        self.node.hub.on_announcements(batch)

    def _told(self, payloads: list[bytes]) -> None:
        self.control.told(self.node.calls.replied(payloads))

    def _subscribed(self, key: bytes) -> None:
        if key == self.control.key:
            self.control.on_link()
        else:
            self.node.hub.on_subscribed(key)

    def _link_is_up(self) -> None:
        self.link.subscribe([self.control.key])
        self.node.hub.on_up()
        self.node.tasks.spawn(self._compare_rules())

    async def _compare_rules(self) -> None:
        """Where Valkey came back empty, a publisher may have been there first, with the built-in rules."""
        try:
            if await self._library.agrees(self.commands.call):
                return
            if await self._library.is_forgotten(self.commands.call):
                await self._library.install(self.commands.call)
            else:
                log.warning("the channels' rules in valkey are another gateway's: give all gateways the same configuration")
        except StoreError as error:
            log.debug("the rules could not be compared: %s", error)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.node is not None:
            clean = await self.node.presence.close()
            await self._last_events()
            await self.control.leave(clean=clean)
            await self.node.tasks.cancel()
            await self.node.hub.close()
            await self.node.inbox.close()
            await self.link.close()
        await self.commands.close()


async def _answer_preflight(node: Node, scope: Any, send: Any) -> None:
    """Of every path: what may be asked for is said when it is."""
    origin = dict(scope["headers"]).get(b"origin", b"").decode("latin-1")
    granted = preflight(origin, node.config.allowed_origins)
    await send({"type": "http.response.start", "status": 204 if granted else 403, "headers": granted})
    await send({"type": "http.response.body", "body": b""})


def _must_not_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        log.critical("a part of the gateway ended that must not: %s", task.get_name(), exc_info=task.exception())


class Application:
    """The ASGI application. ``/sse``, the server API and WebSocket directly, everything else through Starlette: its layers
    would cost an idle stream more memory than the stream itself, and a publish more time than publishing.

    It runs under any ASGI server, which runs its lifespan; mounted inside another application, that one does:

        application = create_app(load("gateway.toml"), "valkey://localhost")
        outer = FastAPI(lifespan=application.lifespan)
        outer.mount("/live", application)
    """

    def __init__(self, starlette: Starlette, lifespan: Callable[[Any], contextlib.AbstractAsyncContextManager[dict[str, Any]]]) -> None:
        self._starlette = starlette
        self.lifespan = lifespan
        self.state = starlette.state
        self.routes = starlette.routes

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._starlette(scope, receive, send)
            return
        gateway, send = self.state.gateway, secured(send)
        scope.setdefault("state", {}).update(node=gateway.node, gateway=gateway)
        path, node = scope["path"].removeprefix(scope.get("root_path", "")), gateway.node
        if scope["type"] == "websocket":
            await serve_websocket(node, path, scope, receive, send)
        elif scope["method"] == "OPTIONS":
            await _answer_preflight(node, scope, send)
        elif path in EMULATION:
            await emulation(node, scope, receive, send)
        elif path == "/sse":
            await EventStreams(node)(scope, receive, send)
        elif path.startswith("/api/"):
            response = await api(node, Request(scope, receive))
            await response(scope, receive, send)
        else:
            await self._starlette(scope, receive, send)


class Guest(Protocol):
    """What runs beside the gateway in its process: the demo. ``running`` surrounds its work."""

    routes: list[BaseRoute]

    def running(self, gateway: Gateway) -> contextlib.AbstractAsyncContextManager[None]: ...


def create_app(config: Config, valkey_url: str = "", guests: Sequence[Guest] = ()) -> Application:
    """The ASGI application. Needs a lifespan; ``valkey_url`` (or the configuration's) names the Valkey to use."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
        gateway = Gateway(config)
        state = starlette.state
        state.gateway, state.failure = gateway, None
        async with contextlib.AsyncExitStack() as stack:
            try:
                await gateway.start(valkey_url or config.valkey_url)
                stack.push_async_callback(gateway.stop)
                for guest in guests:
                    await stack.enter_async_context(guest.running(gateway))
            except GatewayError as error:
                state.failure = error  # for whoever runs the application to say in one line
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
        Route("/health/live", health.live),
        Route("/health/ready", health.ready),
        *(route for guest in guests for route in guest.routes),
        Mount("/static", pages.files),
    ]
    starlette = Starlette(routes=routes, lifespan=lifespan)
    return Application(starlette, lifespan)
