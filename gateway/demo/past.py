"""What the simulated people did before the demo was first started, so that a report of a month has something to show.

The rows are written as they would be there: with their times, with the counts of their reactions, and each review with its story.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import insert

from publishers.database import Transaction
from publishers.reactions import REACTIONS
from publishers.reviews import story_of
from publishers.tables import orders, posts, reactions, reviews

__all__ = ["write_past"]

MORNING, HOURS = timedelta(hours=7), 15.0  # people are awake
DAY = timedelta(days=1)
POSTS, REVIEWS, ORDERS = 1.5, 0.7, 1.2  # on a day, about


class _Day:
    """One day in the lives of ``people``."""

    def __init__(self, transaction: Transaction, chance: random.Random, day: date, people: Sequence[str]) -> None:
        self._transaction = transaction
        self._chance = chance
        self._begins = datetime(day.year, day.month, day.day, tzinfo=UTC) + MORNING
        self._people = people
        self._busy = 1.6 if day.weekday() >= 4 else 1.0  # from Friday to Sunday

    def times(self, mean: float) -> list[int]:
        """When something happens that happens about ``mean`` times on such a day: unix milliseconds, in order."""
        number = round(self._chance.uniform(0, 2 * mean * self._busy))
        moments = (self._begins + timedelta(hours=self._chance.uniform(0, HOURS)) for _ in range(number))
        return sorted(int(moment.timestamp() * 1000) for moment in moments)

    async def post(self, at: int, channel: str, text: str) -> None:
        author = self._chance.choice(self._people)
        reacted = self._reactions(author)
        values = {"channel": channel, "author": author, "text": text, "created_at": at, "counts": _counts(reacted)}
        id = (await self._transaction.execute(insert(posts).values(**values).returning(posts.c.id))).scalar_one()
        await self._react(f"post:{id}", reacted, at)

    async def review(self, at: int, subject: str, rating: int, text: str) -> None:
        author = self._chance.choice(self._people)
        reacted = self._reactions(author)
        values = {"subject": subject, "author": author, "rating": rating, "text": text, "created_at": at}
        row = insert(reviews).values(**values, counts=_counts(reacted)).returning(reviews.c.id)
        id = (await self._transaction.execute(row)).scalar_one()
        created = {"type": "review.created", "review": {"id": id, **values, "reactions": {}}}
        self._transaction.publish(story_of(id), created, keep=True)
        await self._react(story_of(id), reacted, at)

    def _reactions(self, author: str) -> dict[str, str]:
        """User → reaction."""
        others = [each for each in self._people if each != author]
        return {user: self._chance.choice(REACTIONS) for user in self._chance.sample(others, self._chance.choice((0, 1, 1, 2, 3, 5)))}

    async def _react(self, target: str, reacted: Mapping[str, str], at: int) -> None:
        rows = [
            {"target": target, "user": user, "reaction": reaction, "at": at + self._chance.randrange(3_600_000)}
            for user, reaction in reacted.items()
        ]
        if rows:
            await self._transaction.execute(insert(reactions), rows)

    async def order(self, at: int, item: str, amount: int) -> None:
        values = {"buyer": self._chance.choice(self._people), "item": item, "quantity": 1, "amount": amount, "state": "delivered"}
        await self._transaction.execute(insert(orders).values(**values, created_at=at, changed_at=at + 1_500_000))


def _counts(reacted: Mapping[str, str]) -> str:
    return json.dumps(Counter(reacted.values()))


async def write_past(
    transaction: Transaction,
    people: Sequence[str],
    sentences: Mapping[str, Sequence[str]],
    opinions: Mapping[str, Sequence[tuple[int, str]]],
    dishes: Sequence[tuple[str, int]],
) -> None:
    """Writes from the first day of last month to yesterday. ``sentences`` are those of posts by channel, ``opinions`` those of reviews by subject."""
    chance = random.Random()
    today = datetime.now(UTC).date()
    day = (today.replace(day=1) - DAY).replace(day=1)
    while day < today:
        lived = _Day(transaction, chance, day, people)
        for at in lived.times(POSTS):
            channel = chance.choice(list(sentences))
            await lived.post(at, channel, chance.choice(sentences[channel]))
        for at in lived.times(REVIEWS):
            subject = chance.choice(list(opinions))
            await lived.review(at, subject, *chance.choice(opinions[subject]))
        for at in lived.times(ORDERS):
            await lived.order(at, *chance.choice(dishes))
        day += DAY
