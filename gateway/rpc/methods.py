"""The methods of ``rpc`` that the gateway answers itself; a backend's ``Service`` answers all others.

A method of the gateway's own is a coroutine function of the caller and the request's data (raw JSON, or None) that returns raw JSON:

    @methods.method("gateway.time")
    async def now(caller: Caller, data: bytes | None) -> bytes: ...
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from ..errors import MethodNotFound
from ..live.inbox import Inbox
from ..rules.json_text import encode
from .calls import Caller

__all__ = ["Methods", "built_in"]

Method = Callable[[Caller, bytes | None], Awaitable[bytes]]


class Methods:
    """The methods by their names: ``name in methods``, ``await methods.call(name, …)``."""

    def __init__(self) -> None:
        self._methods: dict[str, Method] = {}

    def method(self, name: str) -> Callable[[Method], Method]:
        """Decorates the function that answers ``name``."""

        def register(method: Method) -> Method:
            self._methods[name] = method
            return method

        return register

    def __contains__(self, name: str) -> bool:
        return name in self._methods

    async def call(self, name: str, caller: Caller, data: bytes | None) -> bytes:
        """Raises MethodNotFound, and each ClientError that the method raises."""
        method = self._methods.get(name)
        if method is None:
            raise MethodNotFound(f"there is no method {name[:60]!r}")
        return await method(caller, data)


def built_in(inbox: Inbox) -> Methods:
    """``gateway.time`` → ``{"ms": …}``, the gateway's clock; ``gateway.whoami`` → ``{"user": …, "client": …}``;
    ``inbox.list`` and ``inbox.read``: the caller's own inbox.
    """
    methods = Methods()

    @methods.method("gateway.time")
    async def now(caller: Caller, data: bytes | None) -> bytes:
        return encode({"ms": time.time_ns() // 1_000_000})

    @methods.method("gateway.whoami")
    async def whoami(caller: Caller, data: bytes | None) -> bytes:
        return encode({"user": caller.user, "client": caller.client})

    @methods.method("inbox.list")
    async def list_inbox(caller: Caller, data: bytes | None) -> bytes:
        return await inbox.list(caller.user, data)

    @methods.method("inbox.read")
    async def read_inbox(caller: Caller, data: bytes | None) -> bytes:
        return await inbox.read(caller.user, data)

    return methods
