"""What became of a publication besides the user's connections: in the inbox, and at durable readers."""

from __future__ import annotations

from typing import Any

from ..errors import BadRequest, StoreError
from ..rules.notifications import channel_of, notification_id
from ..session.node import Node
from ..work.reader_calls import DeadLetter, dead_letter
from .evidence import Evidence, Question
from .readers import ReaderRow, groups_of, reader_row

__all__ = ["add_inbox", "add_readers"]

DEAD_LOOKED_AT = 1000  # newest dead letters of a group


async def add_inbox(node: Node, question: Question, evidence: Evidence) -> None:
    """Adds whether the notification is read, if the channel is the user's inbox."""
    if question.publication is None or not _is_own_inbox(question):
        return
    try:
        id = notification_id(question.publication.data)
    except BadRequest:
        evidence.add("inbox", None, "the publication is no notification: it was published, not notified, so the inbox does not list it")
        return
    call = node.history.commands.call
    *_, unread_key, inbox_key = node.history.layout.inbox_keys(question.channel)
    newest = await call(b"ZSCORE", inbox_key, id, repeatable=True)
    if newest is None or (newest.isdigit() and int(newest) < question.offset):
        evidence.add("inbox", None, f"the inbox does not list the notification {id!r}: it was published, not notified")
        return
    unread = await call(b"ZSCORE", unread_key, id, repeatable=True) is not None
    at = newest.decode(errors="replace")  # a whole number, unless another program wrote it
    updated = f", which an update at offset {at} replaced," if at != str(question.offset) else ""
    if unread:
        evidence.add("inbox", None, f"the notification {id!r}{updated} is unread in the user's inbox")
    else:
        text = f"the notification {id!r}{updated} is marked as read: by the user, on any device, or by all being marked as read at once"
        evidence.add("inbox", True, text)


def _is_own_inbox(question: Question) -> bool:
    try:
        return question.channel == channel_of(question.user)
    except ValueError:
        return False


async def add_readers(node: Node, question: Question, evidence: Evidence) -> None:
    """Adds what each group of durable readers did with it. That decides nothing about the user."""
    if not question.offset or evidence.impossible:
        return
    try:
        for group in await groups_of(node, question.channel):
            row = await reader_row(node, group, question.channel)
            await _add_reader(node, question, row, evidence)
    except StoreError as error:
        evidence.add("reader", None, f"durable readers could not be read: {error}")


async def _add_reader(node: Node, question: Question, row: ReaderRow, evidence: Evidence) -> None:
    group, offset = f"the group {row.group} of durable readers", question.offset
    if row.error:
        evidence.add("reader", None, f"{group} could not be read: {row.error}")
    elif (letter := await _letter(node, question, row.group)) is not None:
        text = f"{group} made it a dead letter (deliveries: {letter.deliveries}): {letter.reason or 'without a reason'}"
        evidence.add("reader", False, text)
    elif row.epoch != question.epoch:
        evidence.add(
            "reader",
            None,
            f"{group} is in another epoch of the channel, {row.epoch}" if row.epoch else f"{group} has not begun to read the channel",
        )
    elif offset <= row.offset:
        evidence.add("reader", True, f"{group} has settled it: it is at offset {row.offset}")
    elif (given := await _given(node, question, row.group)) is not None:
        deliveries, idle_ms = given
        evidence.add(
            "reader", None, f"{group} was given it (deliveries: {deliveries}, the last {idle_ms} ms ago), and has not acknowledged it"
        )
    elif await _is_held_since(node, question, row):
        evidence.add("reader", True, f"{group} has settled it, and waits for earlier ones: it is at offset {row.offset}")
    else:
        evidence.add("reader", None, f"{group} was not given it yet: it is at offset {row.offset}, {row.lag} before the newest")


async def _letter(node: Node, question: Question, group: str) -> DeadLetter | None:
    key = node.history.layout.reader(question.channel, group)[3]
    found = await node.history.commands.call(b"XREVRANGE", key, b"+", b"-", b"COUNT", DEAD_LOOKED_AT, repeatable=True)
    letters = (dead_letter(fields) for _, fields in found)
    return next((each for each in letters if each.position == (question.epoch, question.offset)), None)


async def _given(node: Node, question: Question, group: str) -> tuple[int, int] | None:
    """How often it was given to the group and how many ms ago the last time; None if it is not pending."""
    stream = node.history.layout.keys(question.channel)[1]
    first, last = b"%d" % question.offset, b"(%d-0" % (question.offset + 1)
    found: list[Any] = await node.history.commands.call(b"XPENDING", stream, group, first, last, 1, repeatable=True)
    return (int(found[0][3]), int(found[0][2])) if found else None


async def _is_held_since(node: Node, question: Question, row: ReaderRow) -> bool:
    """Whether the group was given the publication: later ones are pending, or it is settled before earlier ones are."""
    stream = node.history.layout.keys(question.channel)[1]
    for group in await node.history.commands.call(b"XINFO", b"GROUPS", stream, repeatable=True):
        fields = dict(zip(group[::2], group[1::2], strict=True))
        if fields.get(b"name") == row.group.encode():
            given = fields.get(b"last-delivered-id", b"0").partition(b"-")[0]
            return given.isdigit() and int(given) >= question.offset
    return False
