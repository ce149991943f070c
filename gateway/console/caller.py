"""What the console's methods are, and what each is given."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import msgspec

from ..auth.admin_keys import READ, WRITE, AdminKeys, AdminSession, Role
from ..edges.api.requests import Shape
from ..errors import Unavailable
from ..metrics.process_figures import Measured
from ..session.control_orders import Orders
from ..session.node import Node
from .live_figures import LiveFigures
from .log_lines import LogLines
from .login import LoginLimit

__all__ = ["Caller", "Console", "ConsoleMethod", "Empty", "answers_of", "read_method", "write_method"]

log = logging.getLogger("gateway.console")

Answer = TypeVar("Answer")
Asked = TypeVar("Asked", bound=Shape)


@dataclass(frozen=True, slots=True)
class Console:
    """The console of one process, and the parts of the process that it works with. ``keys`` is false where there is no console here: then
    the process only answers those of other processes."""

    node: Node
    measured: Measured
    orders: Orders
    keys: AdminKeys
    figures: LiveFigures
    lines: LogLines
    limit: LoginLimit

    def open(self) -> None:
        """From now on it has what is logged."""
        if not self.keys:
            return
        logging.getLogger().addHandler(self.lines)
        config = self.node.config
        if not (config.tls_cert or config.trusted_proxies or config.listens_on_loopback):
            log.warning(
                "the console is on %s without TLS: keys for it are readable on the network unless a proxy in front has TLS", config.host
            )

    def require_valkey(self) -> None:
        """Raises Unavailable while Valkey is away: a command would wait for its return for some seconds, and an operator should know now."""
        if not self.measured.commands.connected:
            raise Unavailable("no connection to Valkey")

    def require_others(self) -> None:
        """The same for what asks all processes: on a cluster a shard with a key for that may be away alone."""
        self.require_valkey()
        if fault := self.node.control.shard_fault():
            raise Unavailable(fault)

    def close(self) -> None:
        logging.getLogger().removeHandler(self.lines)


class Caller(NamedTuple):
    """Who calls a method: an operator's ``session``, in which process."""

    console: Console
    session: AdminSession

    @property
    def node(self) -> Node:
        return self.console.node


class ConsoleMethod(NamedTuple):
    """One method: ``call`` takes the caller and a ``request``, and returns the result as JSON. ``role`` is the least that its caller needs.

    It raises ClientError for what the caller is answered as an error, and StoreError where Valkey does not answer.
    """

    call: Callable[[Caller, Any], Awaitable[bytes]]
    request: type[Shape]
    role: Role

    def admits(self, role: Role) -> bool:
        """Whether sessions of this role may call it."""
        return role == WRITE or self.role == READ


class Empty(Shape):
    """The request of a method that needs nothing."""


def read_method(call: Callable[[Caller, Asked], Awaitable[bytes]], request: type[Asked]) -> ConsoleMethod:
    """A method that changes nothing."""
    return ConsoleMethod(call, request, READ)


def write_method(call: Callable[[Caller, Asked], Awaitable[bytes]], request: type[Asked]) -> ConsoleMethod:
    """A method that changes something."""
    return ConsoleMethod(call, request, WRITE)


async def answers_of(caller: Caller, question: str, kind: type[Answer], request: object = None) -> list[Answer]:
    """What the processes answer to a question of ``Orders.answers``, whose pattern is ``request`` as JSON.

    A process that does not know the question, as one of an older version, is left out; so is what is of another shape. Raises StoreError.
    """
    caller.console.require_others()
    pattern = "" if request is None else msgspec.json.encode(request).decode()
    return list(_read(await caller.node.control.survey(question, pattern), msgspec.json.Decoder(kind)))


def _read(answers: list[bytes], decoder: msgspec.json.Decoder[Answer]) -> Iterator[Answer]:
    for answer in answers:
        if answer != b"null":
            try:
                yield decoder.decode(answer)
            except msgspec.MsgspecError:  # of a newer version
                continue
