"""Why? Whether a user was given a publication, and if not, why.

*Delivered* means that a subscription of the user was given it: the gateway wrote it to the connection, and the client's machine has not left it
unconfirmed, where the system can say that. What a page made of it is not known. Publications that a client reads from history or from the
inbox are not recorded and not considered. The evidence is gathered from
what is there: the publication in history, the rules, revoked tokens, and every process, which knows after which offset each connection that it has
now was written everything. Connections that have ended are known from lifecycle events alone (``events = true``). What nobody recorded is a doubt,
and then the verdict is "unknown", never a guess.
"""

from __future__ import annotations

import time
from typing import Annotated

import msgspec
from msgspec import Meta

from ..channel_rules import ChannelRules
from ..edges.api.requests import Channel, Shape
from ..publication import MAX_CHANNEL_LENGTH, MAX_OFFSET, Position
from ..rules.json_text import encode
from ..session.node import Node
from .caller import Caller, read_method
from .evidence import Evidence, Finding, Question, Verdict
from .permitted import judge_subscribe
from .why_elsewhere import add_inbox, add_readers
from .why_past import add_past
from .why_present import add_present

__all__ = ["METHODS"]


class WhyRequest(Shape, kw_only=True):
    """The publication at ``offset`` of ``channel``; without ``epoch``, in the present life of its history. ``offset`` 0 is an ephemeral one."""

    user: Annotated[str, Meta(min_length=1, max_length=MAX_CHANNEL_LENGTH)]
    channel: Channel
    offset: Annotated[int, Meta(ge=0, le=MAX_OFFSET)]
    epoch: Annotated[str, Meta(max_length=64)] = ""


class WhyResult(msgspec.Struct):
    """``epoch`` is the life of the history that the findings are about, "" where there is none."""

    verdict: Verdict
    user: str
    channel: str
    offset: int
    epoch: str
    findings: list[Finding]


async def why(caller: Caller, request: WhyRequest) -> bytes:
    """Whether the user was given the publication, and what is known about it. Raises BadRequest, UnknownChannel."""
    node, evidence = caller.node, Evidence()
    rules = node.rules(request.channel)
    question = await _look(node, rules, request, evidence)
    _add_rules(node, question, evidence)
    _add_tokens(node, question, evidence)
    reports = await add_present(caller, question, evidence)
    if question.offset and not evidence.impossible and not evidence.delivered:
        await add_past(node, question, reports, evidence)
    await add_inbox(node, question, evidence)
    await add_readers(node, question, evidence)
    found = WhyResult(evidence.verdict, request.user, request.channel, request.offset, question.epoch, evidence.findings)
    return encode(found)


# The publication.


async def _look(node: Node, rules: ChannelRules, request: WhyRequest, evidence: Evidence) -> Question:
    """Looks for the publication in history."""
    if not rules.has_history:
        text = "the channel has no history, so its publications have no offsets, and nothing is recorded of any of them"
        evidence.doubt("publication", text, setting=node.config.setting_line(request.channel, "history_size", "100"))
        return Question(request.user, request.channel, "", 0)
    if not request.offset:
        text = (
            "an ephemeral publication has no offset: it is written to the clients that are subscribed at that moment and whose sockets are not "
            "full, and nothing records to which"
        )
        evidence.doubt("publication", text)
        return Question(request.user, request.channel, "", 0)
    page = await node.history.after(request.channel, Position("", request.offset - 1), 1)
    found = page.publications[0] if page.publications and page.publications[0].offset == request.offset else None
    epoch = request.epoch or page.top.epoch
    _add_publication(node, rules, Question(request.user, request.channel, epoch, request.offset, found), page.top, evidence)
    return Question(request.user, request.channel, epoch, request.offset, found if epoch == page.top.epoch else None)


def _add_publication(node: Node, rules: ChannelRules, question: Question, top: Position, evidence: Evidence) -> None:
    name, publication = f"{question.channel} {question.offset}", question.publication
    if not top.epoch:
        text = "Valkey has no offset of the channel: nothing was ever published to it, or nothing for so long that the offset was forgotten"
        held = node.config.setting_line(question.channel, "meta_ttl", _duration(rules.meta_ttl))
        if question.epoch:
            evidence.add("publication", None, text, setting=held)
        else:
            evidence.doubt("publication", text, setting=held)
    elif question.epoch != top.epoch:
        text = f"{name} would be of the epoch {question.epoch}, and the history is in another life now, at {top}: it holds nothing of that epoch"
        evidence.add("publication", None, text)
    elif question.offset > top.offset:
        evidence.never("publication", f"there is no publication {name}: the newest has the offset {top.offset}")
    elif publication is None:
        text = f"{name} was published, and history does not hold it any more: it was trimmed, expired or removed. So its time and its tags are not known"
        size = node.config.setting_line(question.channel, "history_size", str(rules.history_size))
        ttl = node.config.setting_line(question.channel, "history_ttl", _duration(rules.history_ttl))
        evidence.add("publication", None, text, setting=f"{size}, {ttl}")
    else:
        evidence.add("publication", True, f"{name} was published, and history holds it", at_ms=publication.ms)


def _duration(seconds: int) -> str:
    return f'"{seconds}s"' if seconds else '""'


# What the user may.


def _add_rules(node: Node, question: Question, evidence: Evidence) -> None:
    user, channel = question.user, question.channel
    judged = judge_subscribe(node.config, user, channel)
    setting = node.config.setting_of(channel, "subscribe")
    if channel in node.personal_channels(user):
        personal = node.config.setting_of(channel, "personal")
        evidence.add(
            "permission",
            True,
            f"each connection of the user is subscribed to the channel when it connects: {personal} = true",
            setting=personal,
        )
    elif judged.allowed:
        evidence.add("permission", True, f"the user may subscribe: {judged.by}", setting=setting)
    else:
        text = (
            f"the rules as they are now do not let the user subscribe: {judged.by}. Only the server API, or a token that names the channel, can "
            "subscribe the user"
        )
        evidence.add("permission", False, text, setting=setting)


def _add_tokens(node: Node, question: Question, evidence: Evidence) -> None:
    """Connections are closed when their tokens are revoked, and cannot come back with them."""
    before, until = node.revocations.of_user(question.user)
    if until > time.time():
        text = (
            "the user's tokens that were issued before this time were revoked: connections with such a token were closed with 3500, and the client "
            "needs a newer token to come back"
        )
        evidence.add("token", False, text, at_ms=int(before * 1000))


METHODS = {"why": read_method(why, WhyRequest)}
