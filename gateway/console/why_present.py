"""Which connections of a user there are now, and whether they were given a publication."""

from __future__ import annotations

import msgspec

from ..control.questions import Circumstances, SubscriptionRow, Testimony, Witness
from .caller import Caller, answers_of
from .evidence import Evidence, Question

__all__ = ["add_present"]


async def add_present(caller: Caller, question: Question, evidence: Evidence) -> list[Witness]:
    """Adds what the processes know of the user's connections. Returns what they answered."""
    publication = question.publication
    tags = msgspec.Raw(publication.tags or b"null") if publication is not None else msgspec.Raw(b"null")
    asked = Circumstances(question.user, question.channel, question.offset, publication is not None, tags)
    expected = await caller.node.control.living()
    witnesses = sorted(await answers_of(caller, "witness", Witness, asked), key=lambda each: each.name)
    if len(witnesses) < expected:
        text = f"{expected - len(witnesses)} of {expected} processes did not answer: their connections are not known"
        evidence.doubt("process", text)
    if not any(witness.total for witness in witnesses):
        evidence.add("connection", False, "the user has no connection now")
    for witness in witnesses:
        _add_witness(question, witness, evidence)
    return witnesses


def _add_witness(question: Question, witness: Witness, evidence: Evidence) -> None:
    for each in witness.connections:
        if each.subscription is not None:
            _add_subscription(question, each, each.subscription, evidence)
        else:
            text = f"client {each.client} ({each.transport}) is connected, and not subscribed to the channel"
            evidence.add("connection", False, text, at_ms=each.since_ms, client=each.client)
    if witness.total > len(witness.connections):
        text = f"the user has {witness.total} connections in the process {witness.name}, of which {len(witness.connections)} were looked at"
        evidence.doubt("connection", text)
    if witness.most and witness.total >= witness.most:
        text = f"the user has {witness.total} connections in the process {witness.name}, as many as one may: a further one is refused with 3504"
        evidence.add("limit", None, text, setting=f"limits.connections_per_user = {witness.most}")


def _add_subscription(question: Question, each: Testimony, at: SubscriptionRow, evidence: Evidence) -> None:
    who = f"client {each.client} ({each.transport})"
    side = ", subscribed from the server's side," if at.side == "server" else ""
    if not question.offset:
        evidence.add(
            "subscription", None, f"{who}{side} is subscribed to the channel now: {at.state}", at_ms=at.since_ms, client=each.client
        )
    elif at.epoch != question.epoch:
        text = f"{who}{side} is subscribed to the epoch {at.epoch or 'that Valkey has not answered yet'}, in which this publication is not"
        evidence.add("subscription", False, text, at_ms=at.since_ms, client=each.client)
    elif question.offset <= at.after:
        evidence.add("subscription", False, f"{who}{side} {_later(at)}", at_ms=at.since_ms, client=each.client)
    elif question.offset > at.offset:
        text = f"{who}{side} has not been given it yet: it is {at.state} at offset {at.offset}, {at.lag} publications before the newest"
        full = f"; its socket is full, {each.waiting_bytes} bytes wait for it" if each.paused else ""
        evidence.add("subscription", False, text + full, at_ms=at.since_ms, client=each.client)
    else:
        _add_written(each, at, f"{who}{side}", evidence)


def _later(at: SubscriptionRow) -> str:
    """How it came to begin after the publication."""
    if at.recovered is not None:
        return (
            f"came back with the position {at.after}, which is not before the publication, and recovered what followed it: what it had until "
            "then it was given by another connection, or not at all"
        )
    if at.gap:
        return f"missed it, and history did not hold it any more: the gap was announced to it, and it went on at offset {at.after}"
    return f"subscribed later, at offset {at.after}, and did not recover what was before it"


def _add_written(each: Testimony, at: SubscriptionRow, who: str, evidence: Evidence) -> None:
    covered = f"every publication from {at.after + 1} to {at.offset}"
    if each.admitted is False:
        text = f"{who} is subscribed with a tags filter, which does not admit the tags of this publication: it was left out"
        evidence.add("filter", False, text, at_ms=at.since_ms, client=each.client)
    elif each.admitted is None:
        text = f"{who} is subscribed with a tags filter, and the tags of this publication are not known any more: whether it was left out is not known"
        evidence.doubt("filter", text, at_ms=at.since_ms, client=each.client)
    elif each.waiting_bytes:
        text = (
            f"{who} was written {covered}, and {each.waiting_bytes} bytes wait for its socket: whether this one is among them is not known"
        )
        evidence.doubt("subscription", text, at_ms=at.since_ms, client=each.client)
    else:
        recovered = "; it recovered from there" if at.recovered is not None else ""
        evidence.proof("subscription", f"{who} was written {covered}{recovered}", at_ms=at.since_ms, client=each.client)
