"""Reviews of subjects (a restaurant), responses to them, and each review's whole story.

``reviews:{subject}`` shows new reviews. ``review:{id}`` holds what became of one, from its first word, for good:

    {"type": "review.created", "review": {"id", "subject", "author", "rating", "text", "created_at", "reactions"}}
    {"type": "response.created", "response": {"id", "review", "author", "text", "created_at"}}
    {"type": "reaction", "target": "review:12", "user", "reaction", "counts"}          (reactions.py)

The author of a review is told in private of responses by others: ``notifications:{author}``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from sqlalchemy import func, insert, select

from gateway.store.history import Page

from .database import Database, Transaction, now_ms, within
from .faults import NotFound, checked_choice, checked_id, checked_name, checked_page, checked_text, checked_user
from .migrator import identity
from .tables import outbox, responses, reviews

if TYPE_CHECKING:
    from .publisher import Publisher

__all__ = ["create_review", "excerpt", "list_reviews", "respond", "review_history", "story_of"]

RATINGS = (1, 2, 3, 4, 5)
EXCERPT = 60  # characters of a text quoted in a notification
PAGE_MOST = 200

_REVIEW = (reviews.c.id, reviews.c.subject, reviews.c.author, reviews.c.rating, reviews.c.text, reviews.c.created_at, reviews.c.counts)
_RESPONSE = (responses.c.id, responses.c.review, responses.c.author, responses.c.text, responses.c.created_at)


def story_of(review: int) -> str:
    """The channel of a review's story."""
    return f"review:{review}"


def excerpt(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT else f"{line[: EXCERPT - 1].rstrip()}…"


async def create_review(database: Database | Transaction, *, subject: str, author: str, rating: int, text: str) -> dict[str, Any]:
    """The review. Raises Invalid."""
    values = {
        "subject": checked_name(subject, "subject"),
        "author": checked_user(author, "author"),
        "rating": checked_choice(rating, RATINGS, "rating"),
        "text": checked_text(text),
        "created_at": now_ms(),
        "counts": "{}",
    }

    async def work(transaction: Transaction) -> dict[str, Any]:
        review = _review((await transaction.execute(insert(reviews).values(**values).returning(*_REVIEW))).one())
        created = {"type": "review.created", "review": review}
        transaction.publish(f"reviews:{review['subject']}", created)
        transaction.publish(story_of(review["id"]), created, keep=True)
        return review

    return await within(database, work)


async def respond(database: Database | Transaction, *, review: int, author: str, text: str) -> dict[str, Any]:
    """The response. Raises Invalid, or NotFound if there is no such review."""
    review, author, text = checked_id(review, "review"), checked_user(author, "author"), checked_text(text)

    async def work(transaction: Transaction) -> dict[str, Any]:
        found = (await transaction.execute(select(*_REVIEW).where(reviews.c.id == review).with_for_update())).first()
        if found is None:
            raise NotFound(f"there is no review {review}")
        values = {"review": review, "author": author, "text": text, "created_at": now_ms()}
        response = dict((await transaction.execute(insert(responses).values(**values).returning(*_RESPONSE))).one()._mapping)
        transaction.publish(story_of(review), {"type": "response.created", "response": response}, keep=True)
        if author != found.author:
            notification = {
                "id": f"response:{response['id']}",
                "type": "response",
                "text": f"{author} responded to your review “{excerpt(found.text)}”: “{excerpt(text)}”",
                "target": story_of(review),
                "subject": found.subject,
                "actors": [author],
                "count": 1,
            }
            transaction.notify(found.author, notification)
        return response

    return await within(database, work)


async def list_reviews(database: Database, *, subject: str, before: int = 0, limit: int = 30) -> list[dict[str, Any]]:
    """The newest reviews of a subject, newest first, each with its ``responses``, oldest first."""
    before, limit = checked_page(before, limit, PAGE_MOST)
    wanted = select(*_REVIEW).where(reviews.c.subject == checked_name(subject, "subject")).order_by(reviews.c.id.desc()).limit(limit)
    if before:
        wanted = wanted.where(reviews.c.id < before)
    async with database.reading() as connection:
        found = [_review(row) | {"responses": []} for row in await connection.execute(wanted)]
        by_id = {review["id"]: review for review in found}
        replies = select(*_RESPONSE).where(responses.c.review.in_(by_id or [0])).order_by(responses.c.id)
        for row in await connection.execute(replies):
            by_id[row.review]["responses"].append(dict(row._mapping))
    return found


async def review_history(review: int, *, database: Database, publisher: Publisher) -> list[dict[str, Any]]:
    """The whole story of a review, oldest first: ``[{"offset", "ms", "data"}]``, read from its stream and no other.

    Should the stream have lost some of it, with Valkey's memory or by trimming, it is written again from the database;
    who follows the channel is then told of a gap. Raises NotFound.
    """
    review = checked_id(review, "review")
    channel, history = story_of(review), publisher.history
    async with database.reading() as connection:
        told = await _told(connection, channel)
    if told.count == 0:
        await _must_exist(database, review)
    page = await history.read(channel, 0, -1, max_bytes=_ALL)
    if not told.is_in(page):
        await _rebuild(database, publisher, channel)
        page = await history.read(channel, 0, -1, max_bytes=_ALL)
    return [{"offset": each.offset, "ms": each.ms, "data": msgspec.json.decode(each.data)} for each in page.publications]


_ALL = 2**31


class _Told(NamedTuple):
    """How much of a story the relay has published, and the first and the last of it."""

    count: int
    first: bytes = b""
    last: bytes = b""

    def is_in(self, page: Page) -> bool:
        """Whether the stream holds it. Counting is not enough: what was published since may stand in for what was lost."""
        there = page.publications
        return self.count == 0 or (len(there) >= self.count and there[0].data == self.first and there[self.count - 1].data == self.last)


async def _told(connection: Any, channel: str) -> _Told:
    mine = (outbox.c.channel == channel, outbox.c.published)
    ends = select(func.count(), func.min(outbox.c.id), func.max(outbox.c.id)).where(*mine)
    count, first, last = (await connection.execute(ends)).one()
    if count == 0:
        return _Told(0)
    rows = await connection.execute(select(outbox.c.data).where(outbox.c.id.in_([first, last])).order_by(outbox.c.id))
    texts = [row.data.encode() for row in rows]
    return _Told(count, texts[0], texts[-1])


async def _must_exist(database: Database, review: int) -> None:
    async with database.reading() as connection:
        if (await connection.execute(select(reviews.c.id).where(reviews.c.id == review))).first() is None:
            raise NotFound(f"there is no review {review}")


async def _rebuild(database: Database, publisher: Publisher, channel: str) -> None:
    """Nobody writes to the channel and no relay publishes to it meanwhile. What still waits for the relay is left to it."""
    whose = await identity(database)
    async with database.alone_with(channel) as transaction:
        wanted = (
            select(outbox.c.id, outbox.c.at, outbox.c.data).where(outbox.c.channel == channel, outbox.c.published).order_by(outbox.c.id)
        )
        rows = (await transaction.execute(wanted)).all()
        page = await publisher.history.read(channel, 0, -1, max_bytes=_ALL)
        if not (await _told(transaction, channel)).is_in(page):  # else somebody else was here before
            await publisher.history.restore(channel, whose, rows[-1].id, [(row.at, row.data) for row in rows])


def _review(row: Any) -> dict[str, Any]:
    fields = dict(row._mapping)
    counts = fields.pop("counts")
    return {**fields, "reactions": msgspec.json.decode(counts)}
