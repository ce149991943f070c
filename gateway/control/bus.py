"""The bus: what gateways send each other, whichever process or machine they are on.

A *message* reaches every gateway, the sender included: disconnect this user, subscribe that one. It goes through a stream in
Valkey and is announced, in one act; a gateway whose link was lost reads what it missed before it takes anything new. A
*survey* asks every living process and gathers the answers, which come back on the asking process's own channel. *Commands*
of a client that reached another process than its session's go to that process alone, on its own channel, and it answers
whether it has the session.

Who may write to Valkey is trusted like a gateway; there is no other proof, and none is needed. Messages are still validated.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Protocol

import msgspec

from ..errors import ClientError, StoreError, Unavailable
from ..runtime.backoff import retrying
from ..runtime.tasks import Tasks
from ..store.history import History
from .leases import Leases
from .messages import (
    VERSION,
    AnyMessage,
    ClientCommands,
    Envelope,
    Private,
    Question,
    encode_message,
    read_envelope,
    read_private,
)

__all__ = ["Bus", "Recipient"]

log = logging.getLogger("gateway.control")

AT_ONCE = 1000  # messages of one read
ANSWER_SECONDS = 1.0


class Recipient(Protocol):
    """Carries out what processes, this one included, ask of this process."""

    def carry_out(self, message: AnyMessage) -> None:
        """Called once for each message, in order. A ClientError is logged: another gateway's rules may differ from ours."""

    def answer(self, question: Question) -> bytes:
        """The answer as JSON."""

    def take_commands(self, session: str, commands: bytes) -> bool:
        """Commands, one a line, for an emulated session. False if there is none of that id."""

    async def reload(self) -> None:
        """Reads what Valkey holds for longer than messages, of which some may have been missed. Raises StoreError."""


class Bus:
    """Listens to the control channel, ``key``, and takes what comes on the process's own channel (``on_own``)."""

    def __init__(self, history: History, process: str, leases: Leases, recipient: Recipient) -> None:
        layout = history.layout
        self.key = f"{layout.prefix}:control".encode()
        self._own_channel_of = layout.heartbeat
        self._history = history
        self._process = process
        self._leases = leases
        self._recipient = recipient
        self._newest: tuple[int, int] | None = None  # id of the newest message that was taken
        self._catching_up: asyncio.Task[None] | None = None
        self._held: list[bytes] = []  # what arrived while catching up
        self._asked = 0
        self._answers: dict[int, asyncio.Queue[bytes]] = {}
        self._tasks = Tasks()

    # Sending.

    async def send(self, message: AnyMessage) -> None:
        """Sends a message to every process. Raises StoreError."""
        await self._announce(Envelope(VERSION, message=message))

    async def survey(self, what: str, pattern: str = "") -> list[bytes]:
        """The answers of all living processes, or of those that answered within ANSWER_SECONDS. Raises StoreError."""
        with self._asking() as (id, queue):
            expected = await self._leases.count()
            await self._announce(Envelope(VERSION, question=Question(id, self._process, what, pattern)))
            answers: list[bytes] = []
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    while len(answers) < max(1, expected):
                        answers.append(await queue.get())
            except TimeoutError:
                log.info("a survey of %d processes got %d answers", expected, len(answers))
            return answers

    async def deliver(self, process: str, session: str, data: str) -> bool:
        """Sends a client's commands to the process that has its session. False if it is not alive, or has no such session.

        Raises Unavailable if it does not answer: whether it took the commands is not known then.
        """
        if not await self._leases.holds(process):
            return False
        with self._asking() as (id, queue):
            if not await self._publish(process, Private(id, commands=ClientCommands(self._process, session, data))):
                return False
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    return await queue.get() == b"true"
            except TimeoutError:
                raise Unavailable(f"the process {process} did not answer within {ANSWER_SECONDS:g} s") from None

    @contextlib.contextmanager
    def _asking(self) -> Iterator[tuple[int, asyncio.Queue[bytes]]]:
        """An id for a question, and the queue in which its answers arrive."""
        self._asked += 1
        id, queue = self._asked, asyncio.Queue[bytes]()
        self._answers[id] = queue
        try:
            yield id, queue
        finally:
            del self._answers[id]

    async def _announce(self, envelope: Envelope) -> None:
        await self._history.call(b"gateway_control", [self.key], encode_message(envelope))

    async def _publish(self, process: str, private: Private) -> int:
        """Returns how many received it: 1, or 0 for a process whose link is lost."""
        return int(await self._history.commands.call(b"PUBLISH", self._own_channel_of(process), encode_message(private)))

    # Receiving from every process.

    def on_subscribed(self) -> None:
        """The link follows the control channel (again): what was sent since the last message is read before anything new counts."""
        if self._catching_up is not None:
            self._catching_up.cancel()
        self._catching_up = self._tasks.spawn(self._catch_up())

    async def _catch_up(self) -> None:
        await retrying(self._take_missed, "control messages could not be read", log, on=StoreError)
        self._catching_up = None
        held, self._held = self._held, []
        self.on_payloads(held)

    async def _take_missed(self) -> None:
        while await self._take_some_missed() == AT_ONCE:
            pass  # the next AT_ONCE
        await self._recipient.reload()

    async def _take_some_missed(self) -> int:
        """Takes the messages after the last one, and returns how many there were. A process that just started missed none."""
        call = self._history.commands.call
        if self._newest is None:
            newest = await call(b"XREVRANGE", self.key, b"+", b"-", b"COUNT", 1)
            self._newest = _id(newest[0][0]) if newest else (0, 0)
            return 0
        entries = await call(b"XRANGE", self.key, b"(%d-%d" % self._newest, b"+", b"COUNT", AT_ONCE)
        for id, fields in entries:
            self._take(id, fields[1])
        return len(entries)

    def on_payloads(self, payloads: list[bytes]) -> None:
        """What the link brought from the control channel: an id, a newline, an envelope."""
        if self._catching_up is not None:
            self._held += payloads
            return
        for payload in payloads:
            id, _, text = payload.partition(b"\n")
            self._take(id, text)

    def _take(self, id: bytes, text: bytes) -> None:
        try:
            number = _id(id)
            if self._newest is not None and number <= self._newest:
                return
            self._newest = number
            envelope = read_envelope(text)
        except (ValueError, msgspec.MsgspecError) as error:
            log.warning("a control message was not understood: %s", error)
            return
        if envelope.v != VERSION:
            log.warning("a control message has version %d; this gateway understands version %d", envelope.v, VERSION)
        elif envelope.question is not None:
            question = envelope.question
            self._answer_to(question.asker, question.id, self._recipient.answer(question))
        elif envelope.message is not None:
            self._carry_out(envelope.message)

    def _carry_out(self, message: AnyMessage) -> None:
        try:
            self._recipient.carry_out(message)
        except ClientError as error:
            log.warning("a control message was not carried out: %s", error)
        except Exception:  # one message must not end the link
            log.exception("a control message failed")

    # Receiving what is for this process alone.

    def on_own(self, payloads: list[bytes]) -> None:
        """What came on this process's own channel: answers, and commands."""
        for payload in payloads:
            try:
                private = read_private(payload)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                log.warning("what came on this process's own channel was not understood: %s", error)
                continue
            if private.commands is not None:
                self._take_commands(private.id, private.commands)
            elif private.id in self._answers:
                self._answers[private.id].put_nowait(bytes(private.answer))

    def _take_commands(self, id: int, commands: ClientCommands) -> None:
        known = False
        try:
            known = self._recipient.take_commands(commands.session, commands.data.encode())
        except Exception:  # one client's commands must not end the link
            log.exception("commands of a client failed")
        self._answer_to(commands.asker, id, b"true" if known else b"false")

    def _answer_to(self, asker: str, id: int, answer: bytes) -> None:
        self._tasks.spawn(self._send_answer(asker, Private(id, msgspec.Raw(answer))))

    async def _send_answer(self, asker: str, answer: Private) -> None:
        try:
            await self._publish(asker, answer)
        except StoreError as error:
            log.debug("an answer was not sent: %s", error)

    async def close(self) -> None:
        """Nothing is read or answered any more."""
        await self._tasks.cancel()


def _id(text: bytes) -> tuple[int, int]:
    ms, _, number = text.partition(b"-")
    return int(ms), int(number or 0)
