"""Control: what gateways say to each other, whichever process or machine they are on.

A *message* is heard by every gateway, the sender included: drop this user, subscribe that one. It goes through a stream in
Valkey and is announced, in one act; a gateway whose link was away reads what it missed before it hears anything new. A
*survey* asks every living process and gathers the answers, which come back on the asking process's own channel.

Whoever may write to Valkey is a gateway; that is all the proof there is, and all that is needed. Messages are still
validated, and carry a version: of a newer one, nothing is done. *Commands* of a client that reached another process than its
session's go to that one alone, on its own channel, and it says whether it has the session.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ..errors import ClientError, StoreError, Unavailable
from ..publication import MAX_OFFSET
from ..rules.identity import Override
from ..runtime.backoff import backoff
from ..runtime.tasks import Tasks
from ..store.history import History

__all__ = ["Control", "Disconnection", "Message", "Question", "Refreshing", "Revocation", "Subscribing", "Unsubscribing"]

log = logging.getLogger("gateway.control")

VERSION = 1
AT_ONCE = 1000  # messages that are read
ANSWER_SECONDS = 1.0
LEASE_MS = 7000
BEAT_SECONDS = 2.0
TRUST_SECONDS = 10.0  # after Valkey was away: until then the others' leases look as if they were over


_NULL = msgspec.Raw(b"null")  # an empty Raw would leave a hole in the JSON
_Seconds = Annotated[float, Meta(ge=0)]  # unix time


class Message(msgspec.Struct, tag_field="do", omit_defaults=True):
    """Whom it concerns: sessions of ``user``, or the one that ``client`` names, or, as emulation does, ``session``."""

    user: str = ""
    client: str = ""
    session: str = ""


class Subscribing(Message, tag="subscribe"):
    channel: str = ""
    info: msgspec.Raw = _NULL
    data: msgspec.Raw = _NULL
    epoch: str | None = None
    offset: Annotated[int, Meta(ge=0, le=MAX_OFFSET)] = 0
    expire_at: _Seconds = 0
    override: Override | None = None


class Unsubscribing(Message, tag="unsubscribe"):
    channel: str = ""


class Disconnection(Message, tag="disconnect"):
    whitelist: list[str] = []
    code: Annotated[int, Meta(ge=3000, le=4999)] = 3503
    reason: Annotated[str, Meta(max_length=123)] = ""


class Refreshing(Message, tag="refresh"):
    expired: bool = False
    expire_at: _Seconds = 0
    info: msgspec.Raw = _NULL


class Revocation(Message, tag="revoke"):
    token_id: str = ""
    before: _Seconds = 0
    until: _Seconds = 0


Heard = Subscribing | Unsubscribing | Disconnection | Refreshing | Revocation


class Question(msgspec.Struct):
    id: int
    asker: str
    what: str
    pattern: str = ""


class _Envelope(msgspec.Struct, omit_defaults=True):
    v: int
    message: Heard | None = None
    question: Question | None = None


class _Commands(msgspec.Struct):
    asker: str
    session: str
    data: str


class _Own(msgspec.Struct, omit_defaults=True):
    """What goes to one process: the answer to what it asked under ``id``, or commands, which it answers."""

    id: int
    answer: msgspec.Raw = _NULL
    commands: _Commands | None = None


_encode = msgspec.json.Encoder().encode
_envelope = msgspec.json.Decoder(_Envelope)
_own = msgspec.json.Decoder(_Own)


class Control:
    """``on_message`` gets each message once, in order; ``answer`` what to say to a question, as JSON."""

    def __init__(self, history: History, node: str) -> None:
        layout = history.layout
        self.key = f"{layout.prefix}:control".encode()
        self._nodes_key = f"{layout.prefix}:nodes".encode()
        self._channel_of = layout.heartbeat
        self._history = history
        self._node = node
        self._last: tuple[int, int] | None = None  # id of the newest message heard
        self._reading: asyncio.Task[None] | None = None
        self._held: list[bytes] = []
        self._asked = 0
        self._answers: dict[int, asyncio.Queue[bytes]] = {}
        self._tasks = Tasks()
        self.on_message: Callable[[Any], None] = lambda message: None
        self.recall: Callable[[], Awaitable[None]] | None = None  # what stands elsewhere, for who was away for more messages than are kept
        self.on_dead: Callable[[list[str]], None] = lambda processes: None
        self.on_forgotten: Callable[[], None] = lambda: None  # Valkey did not know this process (any more)
        self.answer: Callable[[Question], bytes] = lambda question: b"null"
        self.on_commands: Callable[[str, bytes], bool] = lambda session, message: False  # whether the session is known

    # Saying.

    async def send(self, message: Heard) -> None:
        """Says it to all. Raises StoreError."""
        await self._say(_Envelope(VERSION, message=message))

    async def survey(self, what: str, pattern: str = "") -> list[bytes]:
        """The answers of all living processes, or of those that answered in time."""
        with self._asking() as (id, queue):
            expected = int(await self._history.commands.call(b"ZCARD", self._nodes_key))
            await self._say(_Envelope(VERSION, question=Question(id, self._node, what, pattern)))
            answers: list[bytes] = []
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    while len(answers) < max(1, expected):
                        answers.append(await queue.get())
            except TimeoutError:
                log.info("a survey of %d processes got %d answers", expected, len(answers))
            return answers

    async def deliver(self, process: str, session: str, data: str) -> bool:
        """Commands, to the process that has the session. False if it does not live, or has no such session.

        Raises Unavailable if it does not say: whether it took them is not known then.
        """
        call = self._history.commands.call
        if await call(b"ZSCORE", self._nodes_key, process) is None:
            return False
        with self._asking() as (id, queue):
            if not await call(b"PUBLISH", self._channel_of(process), _encode(_Own(id, commands=_Commands(self._node, session, data)))):
                return False
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    return await queue.get() == b"true"
            except TimeoutError:
                raise Unavailable(f"the process {process} did not answer within {ANSWER_SECONDS:g} s") from None

    @contextlib.contextmanager
    def _asking(self) -> Iterator[tuple[int, asyncio.Queue[bytes]]]:
        """An id, and where its answers come."""
        self._asked += 1
        id, queue = self._asked, asyncio.Queue[bytes]()
        self._answers[id] = queue
        try:
            yield id, queue
        finally:
            del self._answers[id]

    async def _say(self, envelope: _Envelope) -> None:
        await self._history.call(b"gateway_control", [self.key], _encode(envelope))

    # Hearing.

    def on_link(self) -> None:
        """The link follows the control channel: what was said since the last message is read before anything new counts."""
        if self._reading is not None:
            self._reading.cancel()
        self._reading = self._tasks.spawn(self._catch_up())

    async def _catch_up(self) -> None:
        failures = 0
        while True:
            try:
                if await self._read_missed():
                    if self.recall is not None:
                        await self.recall()
                    break
                failures = 0
            except StoreError as error:
                failures += 1
                if failures == 1:
                    log.warning("control messages could not be read (%s); trying again", error)
                await asyncio.sleep(backoff(failures, 0.05, 2.0))
        self._reading = None
        held, self._held = self._held, []
        self.heard(held)

    async def _read_missed(self) -> bool:
        """Hears what was said since the last message, some at a time. True if that is all."""
        call = self._history.commands.call
        if self._last is None:
            newest = await call(b"XREVRANGE", self.key, b"+", b"-", b"COUNT", 1)
            self._last = _id(newest[0][0]) if newest else (0, 0)
            return True
        entries = await call(b"XRANGE", self.key, b"(%d-%d" % self._last, b"+", b"COUNT", AT_ONCE)
        for id, fields in entries:
            self._hear(id, fields[1])
        return len(entries) < AT_ONCE

    def heard(self, payloads: list[bytes]) -> None:
        """What the link brought."""
        if self._reading is not None:
            self._held += payloads
            return
        for payload in payloads:
            id, _, text = payload.partition(b"\n")
            self._hear(id, text)

    def _hear(self, id: bytes, text: bytes) -> None:
        try:
            number = _id(id)
            if self._last is not None and number <= self._last:
                return
            self._last = number
            envelope = _envelope.decode(text)
        except (ValueError, msgspec.MsgspecError) as error:
            log.warning("a control message was not understood: %s", error)
            return
        if envelope.v != VERSION:
            log.warning("a control message of version %d; this gateway speaks %d", envelope.v, VERSION)
        elif envelope.question is not None:
            self._reply(envelope.question)
        elif envelope.message is not None:
            try:
                self.on_message(envelope.message)
            except ClientError as error:  # another gateway's rules are not ours
                log.warning("a control message was not obeyed: %s", error)
            except Exception:  # one message must not end the link
                log.exception("a control message failed")

    def _reply(self, question: Question) -> None:
        self._answer_to(question.asker, question.id, self.answer(question))

    def _answer_to(self, asker: str, id: int, answer: bytes) -> None:
        self._tasks.spawn(self._publish(self._channel_of(asker), _Own(id, msgspec.Raw(answer))))

    async def _publish(self, channel: bytes, answer: _Own) -> None:
        try:
            await self._history.commands.call(b"PUBLISH", channel, _encode(answer))
        except StoreError as error:
            log.debug("an answer was not sent: %s", error)

    def told(self, payloads: list[bytes]) -> None:
        """What came on this process's own channel: heartbeats, which are empty, answers, and commands."""
        for payload in filter(None, payloads):
            try:
                own = _own.decode(payload)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                log.warning("what came to this process alone was not understood: %s", error)
                continue
            if own.commands is not None:
                self._take(own.id, own.commands)
            elif own.id in self._answers:
                self._answers[own.id].put_nowait(bytes(own.answer))

    def _take(self, id: int, commands: _Commands) -> None:
        known = False
        try:
            known = self.on_commands(commands.session, commands.data.encode())
        except Exception:  # one client's commands must not end the link
            log.exception("commands of a client failed")
        self._answer_to(commands.asker, id, b"true" if known else b"false")

    # Being alive.

    async def beat(self) -> None:
        """Keeps this process's lease, and hears whose is over. Runs until cancelled."""
        now = asyncio.get_running_loop().time
        beaten, trusted = float("-inf"), now() + TRUST_SECONDS
        while True:
            try:
                unknown, *dead = await self._history.call(b"gateway_beat", [self._nodes_key], self._node, LEASE_MS)
            except StoreError as error:
                log.debug("no beat: %s", error)
            else:
                if now() - beaten > LEASE_MS / 2000:
                    trusted = now() + TRUST_SECONDS
                beaten = now()
                if unknown:
                    self.on_forgotten()
                if dead and now() >= trusted:
                    self.on_dead([each.decode() for each in dead])
            await asyncio.sleep(BEAT_SECONDS)

    async def leave(self, *, clean: bool) -> None:
        """This process ends. If it is ``clean`` nobody has to find that out; else its lease stays, until somebody does."""
        if self._reading is not None:
            self._reading.cancel()
        await self._tasks.cancel()
        if not clean:
            return
        try:
            async with asyncio.timeout(1):
                await self._history.call(b"gateway_beat", [self._nodes_key], self._node, 0)
        except (StoreError, TimeoutError) as error:
            log.debug("the lease was not given back: %s", error)

    async def bury(self, process: str) -> None:
        """Everything behind it is cleaned up."""
        await self._history.commands.call(b"ZREM", self._nodes_key, process)


def _id(text: bytes) -> tuple[int, int]:
    ms, _, number = text.partition(b"-")
    return int(ms), int(number or 0)
