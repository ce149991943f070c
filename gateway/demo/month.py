"""What happened in the town in one month, counted day by day from the demo's database. Days are those of UTC."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, date, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from publishers.database import Database
from publishers.faults import Invalid
from publishers.tables import channels, orders, posts, reactions, reviews

__all__ = ["KINDS", "Day", "Month", "Numbers", "Progress", "count_month", "read_month", "this_month"]

KINDS = ("posts", "reviews", "reactions", "orders")
DAY = timedelta(days=1)

Progress = Callable[[float, str], Awaitable[None]]  # is given how much is done, from 0 to 1, and a sentence


class Month(NamedTuple):
    """A month of the calendar; its text is 2026-11."""

    year: int
    number: int

    def __str__(self) -> str:
        return f"{self.year:04}-{self.number:02}"

    @property
    def title(self) -> str:
        """November 2026"""
        return f"{self.first:%B} {self.year}"

    @property
    def first(self) -> date:
        return date(self.year, self.number, 1)

    @property
    def before(self) -> Month:
        last = self.first - DAY
        return Month(last.year, last.month)

    def days(self, until: date) -> list[date]:
        """Its days, up to ``until``."""
        found, day = [], self.first
        while day.month == self.number and day <= until:
            found.append(day)
            day += DAY
        return found


class Day(NamedTuple):
    """How many there were of each of KINDS on one day."""

    date: date
    counts: tuple[int, ...]


class Numbers(NamedTuple):
    """All that a report shows. ``channels`` are (title, posts), ``subjects`` (id, reviews, mean stars), the busiest first."""

    month: Month
    days: list[Day]
    channels: list[tuple[str, int]]
    subjects: list[tuple[str, int, float]]

    @property
    def totals(self) -> list[int]:
        """Of each of KINDS, over all days."""
        return [sum(day.counts[place] for day in self.days) for place in range(len(KINDS))]


def this_month() -> Month:
    now = datetime.now(UTC)
    return Month(now.year, now.month)


def read_month(text: str) -> Month:
    """The month of a text like 2026-11. Raises Invalid for any other text, and for a month that has not begun."""
    match = re.fullmatch(r"(20\d\d)-(0[1-9]|1[0-2])", text)
    if not match:
        raise Invalid("a month is written as in 2026-11")
    month = Month(int(match[1]), int(match[2]))
    if month > this_month():
        raise Invalid(f"{month.title} has not begun")
    return month


async def count_month(database: Database, month: Month, progress: Progress) -> Numbers:
    """Counts one day after the other, and calls ``progress`` after each."""
    dates = month.days(datetime.now(UTC).date())
    days = []
    for done, day in enumerate(dates, 1):
        async with database.reading() as connection:
            days.append(Day(day, await _count_day(connection, day)))
        await progress(done / len(dates), f"counted {day:%A}, {day.day} {day:%B}")
    since, until = _ms(dates[0]), _ms(dates[-1] + DAY)
    async with database.reading() as connection:
        return Numbers(month, days, await _by_channel(connection, since, until), await _by_subject(connection, since, until))


def _ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)


async def _count_day(connection: AsyncConnection, day: date) -> tuple[int, ...]:
    since, until = _ms(day), _ms(day + DAY)
    counted = [
        select(func.count()).where(_between(posts.c.created_at, since, until)),
        select(func.count()).where(_between(reviews.c.created_at, since, until)),
        select(func.count()).where(_between(reactions.c.at, since, until), reactions.c.reaction.is_not(None)),
        select(func.count()).where(_between(orders.c.created_at, since, until)),
    ]
    return tuple([(await connection.execute(each)).scalar_one() for each in counted])


def _between(column: ColumnElement[int], since: int, until: int) -> ColumnElement[bool]:
    return (column >= since) & (column < until)


async def _by_channel(connection: AsyncConnection, since: int, until: int) -> list[tuple[str, int]]:
    number = func.count().label("number")
    wanted = select(channels.c.title, number).join(posts, posts.c.channel == channels.c.name)
    wanted = wanted.where(_between(posts.c.created_at, since, until)).group_by(channels.c.name, channels.c.title)
    return [(row.title, row.number) for row in await connection.execute(wanted.order_by(number.desc()).limit(10))]


async def _by_subject(connection: AsyncConnection, since: int, until: int) -> list[tuple[str, int, float]]:
    number, stars = func.count().label("number"), func.avg(reviews.c.rating).label("stars")
    wanted = select(reviews.c.subject, number, stars).where(_between(reviews.c.created_at, since, until)).group_by(reviews.c.subject)
    return [(row.subject, row.number, float(row.stars)) for row in await connection.execute(wanted.order_by(number.desc()).limit(10))]
