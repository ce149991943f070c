"""The functions of a work queue in a Valkey of the test's own, called without any worker or producer; their time may stand still."""

from __future__ import annotations

from typing import Any

from gateway.store.layout import Layout
from gateway.store.library import BUILT_IN_RULES, Library

from .valkeys import OwnValkey

__all__ = ["QueueFunctions", "load_functions"]

READ_TIME = """  local time = redis.call('TIME')
  local micros = time[2] + 0
  return time[1] * 1000 + (micros - micros % 1000) / 1000
"""
CLOCK = "test:now"


def load_functions(own: OwnValkey, *, frozen: bool) -> None:
    """Loads the library. ``frozen``: its time is the number in the key ``CLOCK``, which only the test changes."""
    source = Library(BUILT_IN_RULES, "gw").source({"": BUILT_IN_RULES})
    if frozen:
        assert source.count(READ_TIME) == 1
        source = source.replace(READ_TIME, f"  return tonumber(redis.call('GET', '{CLOCK}'))\n")
    own.ask("FUNCTION", "FLUSH")
    own.ask("FUNCTION", "LOAD", source)


class QueueFunctions:
    """``call("enqueue", "name", "1")`` is gateway_enqueue of this queue; functions of workers are given the worker by its name."""

    def __init__(self, own: OwnValkey, name: str = "default", prefix: str = "gw") -> None:
        self.own = own
        self.name = name
        self.layout = Layout(prefix)
        self.keys = self.layout.queue(name)

    def key(self, name: str = "") -> bytes:
        """``gw:queue:{Q}:name``."""
        return self.keys[0] + (b":" + name.encode() if name else b"")

    def call(self, function: str, *args: Any) -> Any:
        return self.own.ask("FCALL", f"gateway_{function}", len(self.keys), *self.keys, *args)

    def work(self, function: str, worker: str, *args: Any) -> Any:
        """A function that workers call."""
        keys = (*self.keys, self.layout.taken(self.name, worker))
        return self.own.ask("FCALL", f"gateway_{function}", len(keys), *keys, worker, *args)

    def take(self, worker: str, most: int = 10, *rates: Any, lease: int = 10_000) -> dict[str, int]:
        """The tokens of the jobs that were taken, by id."""
        return {id.decode(): token for id, token, *_ in self.work("take", worker, lease, most, *rates)[1:]}

    def numbers(self) -> dict[str, int]:
        answer = self.call("queue")
        return {name.decode(): value for name, value in zip(answer[::2], answer[1::2], strict=True)}

    def counts(self, *names: str) -> list[int]:
        """Some of ``numbers``; ``ready`` is of all priorities."""
        numbers = self.numbers()
        numbers["ready"] = sum(numbers[f"ready:{priority}"] for priority in range(10))
        return [numbers[name] for name in names]

    def state(self, id: str) -> str:
        return str(self.call("job", id)[0].decode())

    def set_time(self, ms: int) -> None:
        self.own.ask("SET", CLOCK, ms)

    def empty(self) -> None:
        self.own.ask("FLUSHALL")
