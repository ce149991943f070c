"""Which connections of a user there are now, and whether they were given a publication."""

from __future__ import annotations

import msgspec

from ..control.questions import ConnectionReport, DeliveryReport, DeliverySearch, SubscriptionRow
from .caller import Caller, answers_of
from .evidence import Evidence, Question, was_confirmed

__all__ = ["add_present"]


async def add_present(caller: Caller, question: Question, evidence: Evidence) -> list[DeliveryReport]:
    """Adds what the processes know of the user's connections. Returns what they answered."""
    publication = question.publication
    tags = msgspec.Raw(publication.tags or b"null") if publication is not None else msgspec.Raw(b"null")
    asked = DeliverySearch(question.user, question.channel, question.offset, publication is not None, tags)
    caller.console.require_others()
    expected = await caller.node.control.living() | {caller.node.uid}  # Valkey may have forgotten which processes there are
    reports = sorted(await answers_of(caller, "delivery", DeliveryReport, asked), key=lambda each: each.name)
    if silent := expected - {report.node for report in reports}:
        text = (
            f"{len(silent)} of {len(expected)} processes did not answer: their connections are not known. One that was killed is missed "
            "for some seconds: ask again in a moment"
        )
        evidence.doubt("process", text)
    if not any(report.total for report in reports):
        evidence.add("connection", False, "the user has no connection now")
    for report in reports:
        _add_report(question, report, evidence)
    return reports


def _add_report(question: Question, report: DeliveryReport, evidence: Evidence) -> None:
    for each in report.connections:
        if each.subscription is not None:
            _add_subscription(question, each, each.subscription, evidence)
        else:
            text = f"client {each.client} ({each.transport}) is connected, and not subscribed to the channel"
            evidence.add("connection", False, text, at_ms=each.since_ms, client=each.client)
    if report.total > len(report.connections):
        text = f"the user has {report.total} connections in the process {report.name}, of which {len(report.connections)} were looked at"
        evidence.doubt("connection", text)
    if report.most and report.total >= report.most:
        text = f"the user has {report.total} connections in the process {report.name}, as many as a user may have: a further one is refused with 3504"
        evidence.add("limit", None, text, setting=f"limits.connections_per_user = {report.most}")


def _add_subscription(question: Question, each: ConnectionReport, at: SubscriptionRow, evidence: Evidence) -> None:
    who = f"client {each.client} ({each.transport})"
    side = ", subscribed from the server's side," if at.side == "server" else ""
    if not question.offset:
        evidence.add(
            "subscription", None, f"{who}{side} is subscribed to the channel now: {at.state}", at_ms=at.since_ms, client=each.client
        )
    elif at.epoch != question.epoch:
        place = (
            f"is at {at.epoch}:{at.offset}, in another epoch of the channel than this publication" if at.epoch else "is about to subscribe"
        )
        text = f"{who}{side} {place}"
        evidence.add("subscription", False, text, at_ms=at.since_ms, client=each.client)
    elif question.offset <= at.after:
        evidence.add("subscription", False, f"{who}{side} {_later(at)}", at_ms=at.since_ms, client=each.client)
    elif each.admitted is False:
        text = f"{who}{side} is subscribed with a tags filter, which does not admit the tags of this publication: it is left out"
        evidence.add("filter", False, text, at_ms=at.since_ms, client=each.client)
    elif question.offset > at.offset:
        text = (
            f"{who}{side} has not been given it yet: it is {at.state} at offset {at.offset}, {question.offset - at.offset} before this one"
        )
        full = f"; its socket is full, and the client must read the {each.unconfirmed_bytes} bytes that wait for it" if each.paused else ""
        evidence.add("subscription", False, text + full, at_ms=at.since_ms, client=each.client)
    else:
        _add_written(question, each, at, f"{who}{side}", evidence)


def _later(at: SubscriptionRow) -> str:
    """How it came to begin after the publication."""
    if at.recovered is not None:
        return (
            f"came back with the position {at.after}, which is not before the publication, and recovered what followed: so the client had this one "
            "already, from another connection or from elsewhere, or it asked with a position that it had not reached"
        )
    if at.gap:
        return (
            f"went on at offset {at.after} after a gap: history did not hold any more what it had missed, and the gap was announced to it"
        )
    return f"subscribed later, at offset {at.after}, and did not recover what was before it"


def _add_written(question: Question, each: ConnectionReport, at: SubscriptionRow, who: str, evidence: Evidence) -> None:
    covered = f"every publication from {at.after + 1} to {at.offset}{' that its tags filter admits' if at.filtered else ''}"
    if each.admitted is None:
        text = f"{who} is subscribed with a tags filter, and the tags of this publication are not known any more: whether it was left out is not known"
        evidence.doubt("filter", text, at_ms=at.since_ms, client=each.client)
    elif not was_confirmed(question.offset, at.offset, each.unconfirmed_bytes, filtered=at.filtered):
        text = (
            f"{who} was written {covered}, and its machine has not confirmed the last {each.unconfirmed_bytes} bytes: whether this one is among "
            "them is not known. Ask again in a moment"
        )
        evidence.doubt("subscription", text, at_ms=at.since_ms, client=each.client)
    else:
        recovered = "; it recovered from there" if at.recovered is not None else ""
        evidence.proof("subscription", f"{who} was written {covered}{recovered}", at_ms=at.since_ms, client=each.client)
