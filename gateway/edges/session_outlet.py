"""What the outlets of sessions have in common, whatever carries them: see ``session.outlet``."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable

from ..live.fanout import GONE
from ..session.node import Node
from ..session.session import Session
from .outlets import Buffer

__all__ = ["SessionOutlet"]

log = logging.getLogger("gateway.edges")

ALONE_BYTES = 4096  # a larger message is written at once: the client may ask for a page of history a thousand times in one message


class SessionOutlet(ABC):
    """What the outlets of sessions have in common: the answers to one message leave in one write, and the session is notified
    when the socket is full and when it has drained.

    ``paused``: the socket is full. ``write`` takes bytes as the wire has them. ``waits_for_turn``: a later turn of the loop takes what the client sent.
    """

    _node: Node

    __slots__ = ("_corked", "_held", "_loop", "_session", "paused", "waits_for_turn", "write")

    separator = b""  # between messages in one write

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._session: Session | None = None
        self._corked: Buffer | None = None  # while a message is being handled: its answers so far
        self._held = False
        self.paused = False
        self.waits_for_turn = False
        self.write: Callable[[bytes], object]

    @property
    @abstractmethod
    def waiting_bytes(self) -> int:
        """Bytes that are written and that the socket has not taken yet."""

    @property
    @abstractmethod
    def unconfirmed_bytes(self) -> int:
        """Bytes that are written and that the client's machine has not confirmed."""

    @abstractmethod
    def _framed(self, message: bytes) -> bytes:
        """A message as the wire has it, among others in a write."""

    @abstractmethod
    def _read_or_not(self) -> None:
        """Called when ``_held`` or ``paused`` has changed: whether the client is read from depends on them."""

    def _put(self, data: bytes) -> None:
        self._node.admission.counts.sent += len(data)
        try:
            self.write(data)
        except GONE as error:
            log.debug("a client's socket is gone: %s", error)  # the transport reports the loss itself, later

    def _receive(self, session: Session, message: bytes) -> None:
        self.cork()
        session.receive(message)
        self.uncork()

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.closed()

    def cork(self) -> bool:
        """What is sent from now on leaves in one write, with ``uncork``. False if it was so already: then another caller ends it."""
        if self._corked is not None:
            return False
        self._corked = Buffer(self.separator)
        return True

    def uncork(self) -> None:
        self.flush()
        self._corked = None

    def send(self, message: bytes) -> None:
        if self._corked is None:
            self._put(self._framed(message))
        else:
            self._corked.add(self._framed(message))
            if len(message) > ALONE_BYTES:
                self.flush()

    def flush(self) -> None:
        """Writes the answers to the message that is being handled, so that what is written next comes after them."""
        if self._corked:
            self._put(self._corked.take())

    def hold_reading(self, hold: bool) -> None:
        self._held = hold
        self._read_or_not()

    def pause_writing(self) -> None:
        self.paused = True
        if self._session is not None:
            self._session.fell_behind(self._loop.time())
        self._read_or_not()

    def resume_writing(self) -> None:
        self.paused = False
        if self._session is not None:
            self._session.drained()
        self._read_or_not()
