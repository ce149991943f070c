"""The table of the console's methods: those of the server API, and its own. ``batch`` is none of them, so that roles are compared in one place."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..auth.admin_keys import READ, WRITE
from ..channel_rules import CONSOLE
from ..edges.api.methods import METHODS as API_METHODS
from ..edges.api.methods import Method, read_history
from ..edges.api.requests import HistoryRequest
from . import channels, clients, inboxes, live_connection, nodes, permitted, queue_methods, readers, why
from .caller import Caller, Console, ConsoleMethod, read_method

__all__ = ["METHODS", "register_answers"]

CHANGE_NOTHING = frozenset({"history", "presence", "presence_stats", "channels", "info"})  # of the server API


def _of_server_api(name: str, method: Method) -> ConsoleMethod:
    async def call(caller: Caller, request: Any) -> bytes:
        return await method.call(caller.node, request)

    return ConsoleMethod(call, method.request, READ if name in CHANGE_NOTHING else WRITE)


async def _history(caller: Caller, request: HistoryRequest) -> bytes:
    """The server API's, which reads the console's own channel too: the charts begin with what was published before."""
    if request.channel == CONSOLE:
        return await read_history(caller.node, request)
    return await API_METHODS["history"].call(caller.node, request)


METHODS: dict[str, ConsoleMethod] = {
    **{name: _of_server_api(name, method) for name, method in API_METHODS.items()},
    "history": read_method(_history, HistoryRequest),
    **live_connection.METHODS,
    **nodes.METHODS,
    **clients.METHODS,
    **channels.METHODS,
    **permitted.METHODS,
    **inboxes.METHODS,
    **queue_methods.METHODS,
    **readers.METHODS,
    **why.METHODS,
}

# What each process answers to the methods of any: the kind of question → its answer as JSON, from the question's pattern.
_ANSWERS: dict[str, Callable[[Console, str], bytes]] = {**live_connection.ANSWERS, **nodes.ANSWERS}


def register_answers(console: Console) -> None:
    """From now on the process answers the console's questions."""
    console.orders.answers.update({kind: partial(answer, console) for kind, answer in _ANSWERS.items()})
