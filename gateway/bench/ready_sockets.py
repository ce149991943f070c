"""Which sockets have bytes to read: epoll, or kqueue on systems that have that instead."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable
from typing import Any

__all__ = ["ReadySockets"]

AT_ONCE = 1024
SHORT = 0.01  # epoll waits for whole milliseconds; shorter waits are select's


class ReadySockets:
    """Calls ``read`` of each descriptor that has bytes. A handler may add and remove descriptors."""

    def __init__(self) -> None:
        self._readers: dict[int, Callable[[], None]] = {}
        system: Any = select  # which of both there is, type checkers need not know
        self._epoll: Any = system.epoll() if hasattr(system, "epoll") else None
        self._kqueue: Any = None if self._epoll else system.kqueue()

    def add(self, descriptor: int, read: Callable[[], None]) -> None:
        self._readers[descriptor] = read
        if self._epoll:
            self._epoll.register(descriptor, select.EPOLLIN)
        else:
            self._kqueue.control([self._event(descriptor, "KQ_EV_ADD")], 0)

    def change(self, descriptor: int, read: Callable[[], None]) -> None:
        """``read`` takes the place of the one before."""
        self._readers[descriptor] = read

    def remove(self, descriptor: int) -> None:
        """Before the descriptor is closed."""
        del self._readers[descriptor]
        if self._epoll:
            self._epoll.unregister(descriptor)
        else:
            self._kqueue.control([self._event(descriptor, "KQ_EV_DELETE")], 0)

    def turn(self, seconds: float | None = None) -> None:
        """Waits up to ``seconds`` (None: without end) for descriptors that have bytes, and calls their readers once each."""
        readers = self._readers
        for descriptor in self._wait(seconds):
            if read := readers.get(descriptor):
                read()

    def _wait(self, seconds: float | None) -> Iterable[int]:
        if not self._epoll:
            return [event.ident for event in self._kqueue.control(None, AT_ONCE, seconds)]
        if seconds is not None and 0 < seconds < SHORT:
            select.select([self._epoll], [], [], seconds)
            seconds = 0
        return [descriptor for descriptor, _ in self._epoll.poll(seconds, AT_ONCE)]

    def _event(self, descriptor: int, flag: str) -> Any:
        kqueue: Any = select
        return kqueue.kevent(descriptor, kqueue.KQ_FILTER_READ, getattr(kqueue, flag))

    def close(self) -> None:
        (self._epoll or self._kqueue).close()
