"""What the console's page follows live: a token for gateway.js, and any channel on the connection that it opened."""

from __future__ import annotations

import time

from msgspec import Struct

from ..channel_rules import CONSOLE
from ..edges.api.requests import Channel, Shape
from ..errors import BadRequest, ClientError, LimitExceeded, NotAvailable, UnknownChannel
from ..rules.identity import Override, ServerSubscription
from ..rules.json_text import decode_json, encode
from ..session.admission import Client
from .caller import Caller, Console, Empty, answers_of, read_method

__all__ = ["ANSWERS", "METHODS"]

TOKEN_SECONDS = 300
ENDPOINT = "/connection/websocket"
# A console's page that follows a channel is not in its presence, and gets no joins and leaves.
UNSEEN = ServerSubscription(override=Override(presence=False, join_leave=False, force_push_join_leave=False))

DONE, FULL, OTHERS, UNKNOWN = "done", "full", "others", "unknown"


class TailRequest(Shape):
    """``client`` is the id of a live connection of this session, ``channel`` any channel."""

    client: str
    channel: Channel


class _Tail(Struct):
    """The question to all processes; ``session`` is the id of the console's session that asks."""

    client: str
    channel: str
    session: str


async def _live(caller: Caller, request: Empty) -> bytes:
    """A token for a live connection, which is subscribed to the console's channel."""
    token = caller.console.keys.live_token(caller.session, int(time.time()) + TOKEN_SECONDS)
    return encode({"token": token, "channel": CONSOLE, "endpoint": ENDPOINT})


async def _watch(caller: Caller, request: Empty) -> bytes:
    """Every process publishes its figures for some seconds."""
    await answers_of(caller, "watch", bool)
    return b"{}"


def _begin_to_publish(console: Console, pattern: str) -> bytes:
    console.figures.watch()
    return b"true"


async def _tail(caller: Caller, request: TailRequest) -> bytes:
    """Subscribes a connection of this session to a channel, whatever its rules are."""
    caller.node.rules(request.channel)
    await _asked(caller, "tail", request)
    return b"{}"


async def _untail(caller: Caller, request: TailRequest) -> bytes:
    """Ends such a subscription."""
    caller.node.rules(request.channel)  # nothing ends the subscription to the console's own channel
    await _asked(caller, "untail", request)
    return b"{}"


async def _asked(caller: Caller, question: str, request: TailRequest) -> None:
    answers = await answers_of(caller, question, str, _Tail(request.client, request.channel, caller.session.id))
    if FULL in answers:
        raise LimitExceeded(f"limits.channels_per_client is {caller.node.config.limits.channels_per_client}")
    if OTHERS in answers:
        raise BadRequest("that client is no live connection of your session")
    if UNKNOWN in answers:
        raise UnknownChannel("the process that has the client knows no such channel: its configuration is another one")
    if DONE not in answers:
        raise NotAvailable("no process has a client of that id")


def _answer_tail(console: Console, pattern: str) -> bytes:
    return encode(_carried_out(console, pattern, begins=True))


def _answer_untail(console: Console, pattern: str) -> bytes:
    return encode(_carried_out(console, pattern, begins=False))


def _carried_out(console: Console, pattern: str, *, begins: bool) -> str | None:
    """What became of it; None if the client is not one of this process."""
    asked = decode_json(pattern.encode(), _Tail)
    found = console.node.admission.matching("", asked.client, "") if asked.client else []
    if not found:
        return None
    client = found[0]
    if not (client.identity.operator and client.identity.token_id == asked.session):
        return OTHERS
    if not begins:
        client.remove(asked.channel)
        return DONE
    try:
        client.add(asked.channel, UNSEEN, None)
    except ClientError:  # the rules of the process that asks admit it
        return UNKNOWN
    return DONE if _follows(client, asked.channel) else FULL


def _follows(client: Client, channel: str) -> bool:
    return any(subscription.channel.name == channel for subscription in client.followed())


METHODS = {
    "live": read_method(_live, Empty),
    "watch": read_method(_watch, Empty),
    "tail": read_method(_tail, TailRequest),
    "untail": read_method(_untail, TailRequest),
}
ANSWERS = {"watch": _begin_to_publish, "tail": _answer_tail, "untail": _answer_untail}
