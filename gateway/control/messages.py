"""What gateways send each other, as JSON. Anything that does not decode to these structs is logged and ignored.

A ``Message`` or a ``Question`` goes to every process, in an ``Envelope``. A ``Private`` goes to one process, on its own
Pub/Sub channel. All of it is versioned by ``VERSION``: of a newer version, nothing is carried out.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from ..publication import MAX_OFFSET
from ..rules.identity import Override
from ..rules.json_text import clean, clean_as
from .questions import ChannelRows, ClientDetail, ClientRows, DeliveryReport

__all__ = [
    "VERSION",
    "AnyMessage",
    "ClientCommands",
    "Disconnection",
    "Envelope",
    "Message",
    "Private",
    "Question",
    "Refreshing",
    "Revocation",
    "Subscribing",
    "Unsubscribing",
    "encode_message",
    "is_answer",
    "read_envelope",
    "read_private",
]

VERSION = 1

_NULL = msgspec.Raw(b"null")  # an empty Raw would leave a hole in the JSON
_Seconds = Annotated[float, Meta(ge=0)]  # unix time


class Message(msgspec.Struct, tag_field="do", omit_defaults=True):
    """An order that concerns sessions of ``user``, or the one whose client id is ``client``, or the emulated session ``session``.

    Where several are given, a session must match each of them; where none is, no session matches.
    """

    user: str = ""
    client: str = ""
    session: str = ""


class Subscribing(Message, tag="subscribe"):
    """Subscribe these clients to ``channel``: from ``epoch`` and ``offset``, or without an epoch from the top. ``expire_at`` 0 is never."""

    channel: str = ""
    info: msgspec.Raw = _NULL
    data: msgspec.Raw = _NULL
    epoch: str | None = None
    offset: Annotated[int, Meta(ge=0, le=MAX_OFFSET)] = 0
    expire_at: _Seconds = 0
    override: Override | None = None


class Unsubscribing(Message, tag="unsubscribe"):
    """End these clients' subscription to ``channel``."""

    channel: str = ""


class Disconnection(Message, tag="disconnect"):
    """Close these clients' connections, but for those whose client ids are in ``whitelist``."""

    whitelist: list[str] = []
    code: Annotated[int, Meta(ge=3000, le=4999)] = 3503
    reason: Annotated[str, Meta(max_length=123)] = ""


class Refreshing(Message, tag="refresh"):
    """These clients' tokens end at ``expire_at`` from now on (0 is never), or are over if ``expired``; ``info`` replaces theirs."""

    expired: bool = False
    expire_at: _Seconds = 0
    info: msgspec.Raw = _NULL


class Revocation(Message, tag="revoke"):
    """The user's tokens that were issued before ``before``, or the token ``token_id``, hold no longer. Forgotten after ``until``."""

    token_id: str = ""
    before: _Seconds = 0
    until: _Seconds = 0


AnyMessage = Subscribing | Unsubscribing | Disconnection | Refreshing | Revocation


class Question(msgspec.Struct):
    """``what`` is "channels" (with a ``pattern`` of shell wildcards), "info", a kind that ``questions`` lists, or one of ``Orders.answers``: those
    have JSON as their pattern. The answer goes to the process ``asker``, under ``id``; it is null from a process that does not know the kind."""

    id: int
    asker: str
    what: str
    pattern: str = ""


class Envelope(msgspec.Struct, omit_defaults=True):
    """What every process receives: a message or a question."""

    v: int
    message: AnyMessage | None = None
    question: Question | None = None


class ClientCommands(msgspec.Struct):
    """Commands of an emulated client that reached another process than its session's: ``data`` is one command a line."""

    asker: str
    session: str
    data: str


class Private(msgspec.Struct, omit_defaults=True):
    """What one process receives: the answer to what it asked under ``id``, or commands, which it answers under that id."""

    id: int
    answer: msgspec.Raw = _NULL
    commands: ClientCommands | None = None


encode_message = msgspec.json.Encoder().encode

_envelope = msgspec.json.Decoder(Envelope).decode
_private = msgspec.json.Decoder(Private).decode
_ANSWERS: dict[str, Any] = {
    "channels": dict[str, int],
    "info": dict[str, Any],
    "clients": ClientRows | None,
    "client": ClientDetail | None,
    "busiest": ChannelRows | None,
    "subscribers": dict[str, int] | None,
    "delivery": DeliveryReport | None,
}


def read_envelope(text: bytes) -> Envelope:
    """Reads any bytes. The raw JSON in it is on one line and in UTF-8, as clients get it. Raises what ``UNREADABLE`` lists."""
    return _envelope(clean(text))


def read_private(text: bytes) -> Private:
    """``read_envelope`` for what one process receives."""
    return _private(clean(text))


def is_answer(what: str, answer: bytes) -> bool:
    """Whether ``answer`` is JSON of the shape that a question of this kind asks for."""
    return clean_as(answer, msgspec.json.Decoder(_ANSWERS.get(what, Any)).decode) is not None
