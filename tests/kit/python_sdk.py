"""centrifuge-python, driven as ``javascript.Node`` drives centrifuge of npm: the same names, options and contexts, so that one suite tests both.

Options and methods have the names of npm's SDK; seconds are milliseconds there. What the Python SDK reports is turned into the objects
that the other one gives.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from centrifuge import CentrifugeError, Client, DeltaType, FilterNode, StreamPosition

from .javascript import Node
from .tokens import token

__all__ = ["PythonSdk", "python_sdk"]

FILTERS, MILLISECONDS, CALLBACKS = ("tagsFilter",), ("maxServerPingDelay",), ("getToken", "getState")
BATCHING = ("startBatching", "stopBatching")  # what is called in one turn of the loop leaves in one frame anyway


class PythonSdk(Node):
    """Clients of centrifuge-python on a loop of their own, in a thread."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self._numbers = itertools.count(1)
        self._things: dict[str, Any] = {}
        self._calls_under_way: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

    def order(self, *, order: str, **details: Any) -> None:
        asyncio.run_coroutine_threadsafe(getattr(self, f"_make_{order}")(**details), self._loop).result(10)

    def end(self) -> None:
        """The SDK closes its transports in tasks of its own."""

        async def close() -> None:
            await asyncio.gather(*[thing.disconnect() for thing in self._things.values() if isinstance(thing, Client)])
            if left := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.wait(left, timeout=5)

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _make_client(self, id: str, endpoint: list[dict[str, str]], options: dict[str, Any]) -> None:
        del options["emulationEndpoint"]
        events: Any = Events(self, id)
        options = self._options(id, options)
        self._things[id] = Client(endpoint[0]["endpoint"], events=events, max_reconnect_delay=0.3, proxy=None, **options)

    async def _make_subscription(self, id: str, client: str, channel: str, options: dict[str, Any]) -> None:
        events: Any = Events(self, id)
        self._things[id] = self._things[client].new_subscription(channel, events, **self._options(id, options))

    async def _make_calls(self, calls: list[tuple[str, str, list[Any], str]]) -> None:
        for id, method, values, answer in calls:
            task = self._loop.create_task(self._call(self._things[id], method, values, answer))
            self._calls_under_way.add(task)
            task.add_done_callback(self._calls_under_way.discard)

    async def _call(self, thing: Any, method: str, values: list[Any], answer: str) -> None:
        if method == "setTagsFilter":
            values = [FilterNode(values[0])]
        elif method == "ready":
            values = [values[0] / 1000]
        question = values.pop() if method == "history" and values else {}
        try:
            result = None if method in BATCHING else getattr(thing, _snake(method))(*values, **_arguments(question))
            self.said.append({"answer": answer, "result": shown(await result if asyncio.iscoroutine(result) else result)})
        except CentrifugeError as error:
            self.said.append({"answer": answer, "refused": shown(error)})

    def _options(self, id: str, options: dict[str, Any]) -> dict[str, Any]:
        given = {}
        for name, value in options.items():
            if name in CALLBACKS:
                value = self._callback(id, name, value)
            elif name in FILTERS:
                value = FilterNode(value)
            elif name == "delta":
                value = DeltaType(value)
            elif name in MILLISECONDS:
                value = value / 1000
            given[_snake(name)] = value
        return given

    def _callback(self, id: str, name: str, values: list[Any]) -> Any:
        """Gives one value after the other, the last one for ever; a token that is ``minted`` begins when it is asked for."""
        left = list(values)

        async def give(*_: Any) -> Any:
            self.said.append({"id": id, "kind": name})
            value = left.pop(0) if len(left) > 1 else left[0]
            if name == "getState":
                return StreamPosition(**value)
            return (
                token(**{("user" if key == "sub" else key): each for key, each in value["minted"].items()}) if "minted" in value else value
            )

        return give


class Events:
    """The handlers of a client or a subscription; each records what it is called with."""

    def __init__(self, sdk: PythonSdk, id: str) -> None:
        self._sdk = sdk
        self._id = id

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)

        async def record(context: Any) -> None:
            found = shown(context)
            if "pub" in found:
                found = {"channel": found.get("channel", self._id.partition("/")[2])} | found["pub"]
            self._sdk.said.append({"id": self._id, "kind": name.removeprefix("on_"), "context": found})

        return record


def shown(value: Any) -> Any:
    """As npm's SDK shows it: names in camelCase, and nothing that is not there."""
    if isinstance(value, Exception):
        return {name: getattr(value, name) for name in ("code", "message", "temporary") if hasattr(value, name)}
    if dataclasses.is_dataclass(value):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.name != "delta"}
        return {
            _camel(name): each if name == "data" else shown(each)
            for name, each in fields.items()
            if name == "data" or each not in (None, {})
        }
    if isinstance(value, dict):
        return {name: shown(each) for name, each in value.items()}
    return [shown(each) for each in value] if isinstance(value, list) else value


def _arguments(question: dict[str, Any]) -> dict[str, Any]:
    return question | ({"since": StreamPosition(**question["since"])} if "since" in question else {})


def _snake(name: str) -> str:
    return re.sub(r"[A-Z]", lambda letter: f"_{letter[0].lower()}", name)


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda letter: letter[1].upper(), name)


@pytest.fixture(scope="module")
def python_sdk() -> Iterator[PythonSdk]:
    """One loop for the clients of a module."""
    sdk = PythonSdk()
    yield sdk
    sdk.end()
