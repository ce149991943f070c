"""The bus: what gateways send each other, whichever process or machine they are on.

A *message* reaches every gateway, the sender included: disconnect this user, subscribe that one. It goes through a stream in
Valkey and is announced, in one act; a gateway whose link was lost reads what it missed before it takes anything new. A
*survey* asks every living process and gathers the answers, which come back on the asking process's own channel. *Commands*
of a client that reached another process than its session's go to that process alone, on its own channel, and it answers
whether it has the session.

Whatever may write to the stream is trusted like a gateway; there is no other proof. What arrives is still checked: an announced
message is carried out at once, so that it takes effect before what is published after it, and is then looked for in the stream,
which alone moves the position from which missed messages are read. What nobody can read, and what was announced without being in
the stream, is counted and logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Iterator
from typing import Protocol

import msgspec

from ..errors import ClientError, StoreError, Unavailable, is_general
from ..rules.json_text import UNREADABLE
from ..runtime.backoff import retrying
from ..runtime.tasks import Tasks
from ..store.access import shard_fault
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
    is_answer,
    read_envelope,
    read_private,
)

__all__ = ["Bus", "Recipient"]

log = logging.getLogger("gateway.control")

AT_ONCE = 1000  # messages of one read
HELD_MOST = 10_000  # announced messages that wait for a read of the stream, which has the others as well
ANSWER_SECONDS = 1.0
KIND = "control"  # of faults
WRITER = ": another program published it, or a gateway of the same prefix in another database of this Valkey"  # which share Pub/Sub

Id = tuple[int, int]  # of a message, as Valkey gave it: unix ms, a number within it
BEGINNING: Id = (0, 0)

_ID = re.compile(rb"(\d{1,20})-(\d{1,20})").fullmatch


class Recipient(Protocol):
    """Carries out what processes, this one included, ask of this process."""

    def carry_out(self, message: AnyMessage) -> None:
        """Called once for each message, in order. A ClientError is logged: another gateway's rules may differ from ours."""

    async def answer(self, question: Question) -> bytes:
        """The answer as JSON. Raises what ``UNREADABLE`` lists for a pattern that such a question cannot have."""

    def take_commands(self, session: str, commands: bytes) -> bool:
        """Commands, one a line, for an emulated session. False if there is none of that id."""

    async def reload(self) -> None:
        """Reads what Valkey holds for longer than messages, of which some may have been missed. Raises StoreError."""

    async def start_over(self) -> None:
        """Messages are gone that this process did not get, so what they asked of its clients is not known."""


class Bus:
    """Listens to the control channel, ``key``, and takes what comes on the process's own channel (``on_own``)."""

    def __init__(self, history: History, process: str, leases: Leases, recipient: Recipient) -> None:
        layout = history.layout
        self.key = f"{layout.prefix}:control".encode()  # of the stream, and the name of the Pub/Sub channel
        self._own_channel_of = layout.own_channel
        self._history = history
        self._process = process
        self._leases = leases
        self._recipient = recipient
        self._faults = layout.faults
        self._key_text = f"{layout.prefix}:control"
        self._read: Id | None = None  # up to where the stream was read
        self._number: int | None = None  # of the message there; None if an older gateway's library did not count it
        self._announced: dict[Id, bytes | None] = {}  # to be found in the stream; None: it was not carried out, for it is not newer
        self._checking: asyncio.Task[None] | None = None
        self._catching_up: asyncio.Task[None] | None = None
        self._held: list[bytes] = []  # what arrived while catching up
        self._answers: dict[int, asyncio.Queue[bytes]] = {}
        self._tasks = Tasks()

    # Sending.

    async def send(self, message: AnyMessage) -> None:
        """Sends a message to every process. Raises StoreError."""
        await self._announce(Envelope(VERSION, message=message))

    def shard_fault(self) -> str:
        """On a cluster: why the other processes cannot be asked now, since a shard with a key for that is away; "" if they can be."""
        return next(filter(None, (shard_fault(self._history.commands, key) for key in (self.key, self._leases.key))), "")

    async def living(self) -> set[str]:
        """The processes that there are, by their leases. Raises StoreError."""
        return await self._leases.holders()

    async def survey(self, what: str, pattern: str = "") -> list[bytes]:
        """The answers of all living processes, or of those that answered within ANSWER_SECONDS. Raises StoreError."""
        with self._asking() as (id, queue):
            expected = await self._leases.count()
            await self._announce(Envelope(VERSION, question=Question(id, self._process, what, pattern)))
            answers: list[bytes] = []
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    while len(answers) < max(1, expected):
                        answers += self._checked_answer(what, await queue.get())
            except TimeoutError:
                log.info("a survey of %d processes got %d answers", expected, len(answers))
            return answers

    def _checked_answer(self, what: str, answer: bytes) -> list[bytes]:
        if is_answer(what, answer):
            return [answer]
        self._faults.found(KIND, what, f"an answer to a survey is none: {answer[:60]!r}")
        return []

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
        id, queue = secrets.randbits(53), asyncio.Queue[bytes]()  # nobody can guess the id, and so answer for another process
        self._answers[id] = queue
        try:
            yield id, queue
        finally:
            del self._answers[id]

    async def _announce(self, envelope: Envelope) -> None:
        await self._history.call(b"gateway_control", [self.key], encode_message(envelope))

    async def _publish(self, process: str, private: Private) -> int:
        """Returns how many received it: 1, or 0 for a process whose link is lost."""
        return int(await self._history.commands.publish(self._own_channel_of(process), encode_message(private)))

    # Receiving from every process.

    def on_subscribed(self) -> None:
        """The link follows the control channel (again): what was sent since the last message is read before anything new counts."""
        if self._catching_up is not None:
            self._catching_up.cancel()
        self._catching_up = self._tasks.spawn(self._catch_up())

    async def _catch_up(self) -> None:
        await self._try("control messages could not be read", self._take_missed)
        await self._try("what lasts longer than control messages could not be read", self._recipient.reload)
        self._catching_up = None
        held, self._held = self._held, []
        self._take_announced(held)

    async def _try(self, what: str, read: Callable[[], Awaitable[None]]) -> bool:
        """Reads, and again while Valkey cannot be reached. False if Valkey refuses: then what is announced is carried out all the same."""
        try:
            await retrying(read, what, log, on=Unavailable, quiet=is_general)
        except StoreError as error:
            if not error.is_general:
                self._faults.found(KIND, self._key_text, error)
            return False
        return True

    async def _take_missed(self) -> None:
        """Takes the messages after the last one. A process that just started missed none; a stream that began anew cannot be compared."""
        newest, number = await self._newest()
        if self._read is None or newest < self._read:
            self._read, self._number = newest, number
            self._announced.clear()
        await self._read_on()

    async def _newest(self) -> tuple[Id, int | None]:
        """The id and the number of the newest message in the stream; those which were read last if there is none. Raises StoreError."""
        found = await self._history.commands.call(b"XREVRANGE", self.key, b"+", b"-", b"COUNT", 1)
        if not found:
            return (BEGINNING, 0) if self._read is None else (self._read, self._number)
        id, fields = found[0]
        return _id(id) or BEGINNING, _number(fields)

    async def _read_on(self) -> None:
        while await self._take_some() == AT_ONCE:
            pass  # the next AT_ONCE

    async def _take_some(self) -> int:
        """Takes the messages after the last one that are not carried out yet, and returns how many there are in this read."""
        after = b"(%d-%d" % (self._read or BEGINNING)
        entries = await self._history.commands.call(b"XRANGE", self.key, after, b"+", b"COUNT", AT_ONCE)
        for id, fields in entries:
            number, text = _id(id) or BEGINNING, _text(fields)
            if number > (self._read or BEGINNING):  # else another read was faster
                self._read = number
                self._count(_number(fields))
                if self._announced.pop(number, None) != text:
                    self._take(text)
        return len(entries)

    def _count(self, number: int | None) -> None:
        """Notices which messages before this one are gone already: the stream has the newest ones alone."""
        before, self._number = self._number, number
        if number is not None and before is not None and number > before + 1:
            gone = number - before - 1
            log.warning("%d control messages were gone before this process could read them: all of its clients connect again", gone)
            self._tasks.spawn(self._recipient.start_over())

    async def _take_anew(self) -> None:
        """Takes what was announced of a stream that began anew, whose ids are not newer than those of the one before it."""
        entries = await self._history.commands.call(b"XREVRANGE", self.key, b"+", b"-", b"COUNT", HELD_MOST)
        for id, fields in reversed(entries):
            self._read, self._number = _id(id) or BEGINNING, _number(fields)
            if self._announced.pop(self._read, b"") is None:
                self._take(_text(fields))

    def on_payloads(self, payloads: list[bytes]) -> None:
        """What the link brought from the control channel: an id, a newline, an envelope."""
        if self._catching_up is not None:
            self._held = (self._held + payloads)[-HELD_MOST:]
        else:
            self._take_announced(payloads)

    def _take_announced(self, payloads: list[bytes]) -> None:
        for payload in payloads:
            id, _, text = payload.partition(b"\n")
            number = _id(id)
            if number is None:
                self._faults.found(KIND, self._key_text, f"a message without an id: {payload[:60]!r}")
            elif number not in self._announced and len(self._announced) < HELD_MOST:
                is_newer = number > (self._read or BEGINNING)
                self._announced[number] = text if is_newer else None
                if is_newer:
                    self._take(text)
        if self._announced and self._checking is None:
            self._checking = self._tasks.spawn(self._check())

    async def _check(self) -> None:
        try:
            while self._announced:
                asked = list(self._announced)
                found = await self._try("control messages could not be read", self._look_for_announced)
                for id in asked:
                    if self._announced.pop(id, None) is not None and found:
                        self._faults.found(
                            KIND, self._key_text, f"the message {id[0]}-{id[1]} was announced and is not in the stream{WRITER}"
                        )
        finally:
            self._checking = None

    async def _look_for_announced(self) -> None:
        newest, number = await self._newest()
        if self._read is None:
            self._read, self._number = newest, number
            self._announced.clear()
        elif newest < self._read:
            await self._take_anew()
        else:
            await self._read_on()

    def _take(self, text: bytes) -> None:
        try:
            envelope = read_envelope(text)
        except UNREADABLE as error:
            self._faults.found(KIND, self._key_text, f"a message was not understood: {error}")
            return
        if envelope.v != VERSION:
            log.warning("a control message has version %d; this gateway understands version %d", envelope.v, VERSION)
        elif envelope.question is not None:
            self._tasks.spawn(self._answer(envelope.question))
        elif envelope.message is not None:
            self.carry_out(envelope.message)

    def carry_out(self, message: AnyMessage) -> None:
        """Carries it out in this process. What goes wrong is logged."""
        try:
            self._recipient.carry_out(message)
        except ClientError as error:
            log.warning("a control message was not carried out: %s", error)
        except Exception:  # one message must not end the link
            log.exception("a control message failed")

    async def _answer(self, question: Question) -> None:
        try:
            answer = await self._recipient.answer(question)
        except UNREADABLE as error:
            self._faults.found(KIND, self._key_text, f"a question was not understood: {error}")
        else:
            await self._send_answer(question.asker, Private(question.id, msgspec.Raw(answer)))

    # Receiving what is for this process alone.

    def on_own(self, payloads: list[bytes]) -> None:
        """What came on this process's own channel: answers, and commands."""
        for payload in payloads:
            try:
                private = read_private(payload)
            except UNREADABLE as error:
                self._faults.found(KIND, "this process's own channel", f"a message was not understood: {error}")
                continue
            if private.commands is not None:
                self._take_commands(private.id, private.commands)
            else:
                self._take_answer(private)

    def _take_answer(self, private: Private) -> None:
        if private.id in self._answers:
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
        if asker == self._process:  # whose own channel may be of a shard that is away
            self._take_answer(answer)
            return
        try:
            await self._publish(asker, answer)
        except StoreError as error:
            log.debug("an answer was not sent: %s", error)

    async def close(self) -> None:
        """Nothing is read or answered any more."""
        await self._tasks.cancel()


def _id(text: bytes) -> Id | None:
    parts = _ID(text)
    return (int(parts[1]), int(parts[2])) if parts else None


def _field(fields: list[bytes], name: bytes) -> bytes:
    return dict(zip(fields[::2], fields[1::2], strict=True)).get(name, b"")


def _text(fields: list[bytes]) -> bytes:
    """The message of a stream entry; b"", which cannot be read, if it has none."""
    return _field(fields, b"m")


def _number(fields: list[bytes]) -> int | None:
    """The number of a stream entry among all; None if it has none."""
    text = _field(fields, b"n")
    return int(text) if text.isdigit() and len(text) < 16 else None
