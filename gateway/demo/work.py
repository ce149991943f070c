"""The work of the demo: a worker in the demo's process, its handlers, and what the page of the work queue asks for.

demo.report    makes the monthly report of its owner; its progress and its end are published in report:MONTH#OWNER
demo.small     takes half a second
demo.reminder  writes into the inbox of its owner
demo.failing   fails in each attempt, until somebody sends its dead letter again
orders.process processes an order, as publishers/orders.py does; demo.delivery delivers it a little later
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Unpack

import msgspec

from publishers.database import Database
from publishers.faults import Fault, Invalid, NotAllowed, NotFound
from publishers.orders import JOB, Declined, advance, cancel_order, channel_of_order, get_order, list_orders, place_order, register

from ..app import Gateway
from ..channel_rules import ChannelRules
from ..config import Config
from ..errors import QueueFull
from ..work import RunningJob, Worker
from ..work.jobs import JobOptions, job_words
from ..work.queues import JobView, Queues
from .bodies import Answer
from .month import Month, Numbers, count_month, read_month, this_month
from .people import MENU, SUBJECTS
from .queue_view import QueueView, data_of
from .reports import MISSING, Reports

__all__ = ["NAMESPACES", "Work"]

log = logging.getLogger("gateway.demo")

NAMESPACES = {name: ChannelRules() for name in ("work", "report")}  # of the channels that only the demo has
QUEUE = "demo"  # of its own: a Valkey that the demo shares may have workers of other programs
QUEUE_MOST = 500  # jobs, dead letters included
CONCURRENCY = 4
STOP_SECONDS = 2.0  # for jobs that run when the demo ends; then they are given back, and run at the next start
RESULT_SECONDS = 600  # for so long it is known how a report ended
MONTHS = 2  # that the page offers

DAY_SECONDS = 0.12  # added to each day that a report counts, so that a person can see the bar move, and cancel it
SMALL_SECONDS = 0.5
REMINDER_SECONDS = 15
FAILING_ATTEMPTS = 3
BACKOFF_SECONDS = 2.0
BANK_SECONDS = 1.2
KITCHEN_SECONDS = 1.2
ROAD_SECONDS = 4
ORDERS_SHOWN = 4

AMOUNT_MOST = 100_000


class Owned(msgspec.Struct):
    """The data of a job: the member for whom it is done."""

    owner: str


class Delivery(Owned):
    """``order`` is the order's id."""

    order: int


class Report(Owned):
    """``month`` is written as in 2026-11."""

    month: str


class Broken(Exception):
    """What a failing job raises."""


def report_channel(month: Month, owner: str) -> str:
    """Where the owner, and nobody else, follows the report of a month."""
    return f"report:{month}#{owner}"


TITLES: dict[str, Callable[[Answer], str]] = {
    "demo.report": lambda data: f"Report {data.get('month')} for {data.get('owner')}",
    "demo.small": lambda data: f"Small job {data.get('number')}",
    "demo.reminder": lambda data: f"Reminder for {data.get('owner')}",
    "demo.failing": lambda data: "A job that fails",
    "demo.delivery": lambda data: f"Delivery of order {data.get('order')}",
    JOB: lambda data: f"Order {data.get('order')}",
}


class Work:
    """``parts()`` run the worker; the other methods are what the members do. They raise Fault, with a sentence for the member."""

    def __init__(self, config: Config, gateway: Gateway, database: Database, folder: Path) -> None:
        self._database = database
        self._history = gateway.node.history
        self._queues = Queues(self._history.commands, self._history.layout)
        self.reports = Reports(folder)
        self.reports.remove_drafts()
        self._drawing = asyncio.Lock()  # one report at a time: several threads that draw would make the loop wait in turn
        admission = gateway.node.admission
        self.view = QueueView(self._queues, QUEUE, self._history, TITLES, self._left, lambda: len(admission.clients))
        self._worker = Worker(
            queues=[QUEUE], concurrency=CONCURRENCY, url=config.valkey_url, prefix=config.prefix,
            data_dir=config.data_dir, stop_seconds=STOP_SECONDS,
        )  # fmt: skip
        self._worker.middleware(self._observe)
        self._worker.job("demo.report")(self._make_report)
        self._worker.job("demo.small")(self._do_small)
        self._worker.job("demo.reminder")(self._remind)
        self._worker.job("demo.failing", backoff=BACKOFF_SECONDS)(self._fail)
        self._worker.job("demo.delivery")(self._deliver)
        register(self._worker, database, charge=self._charge, ship=self._ship)

    def parts(self) -> list[Coroutine[Any, Any, None]]:
        """What runs until it is cancelled; the worker then gives back what it has not done after STOP_SECONDS."""
        return [self.view.run(), self._worker.run(signals=False)]

    # Handlers. Each job runs at least once: what is done a second time must be the same as once.

    async def _observe(self, job: RunningJob, call_next: Callable[[RunningJob], Awaitable[Any]]) -> Any:
        self.view.changed()
        try:
            return await call_next(job)
        finally:
            self.view.ended()

    async def _make_report(self, job: RunningJob, data: Report) -> Answer:
        month = read_month(data.month)

        async def progress(done: float, sentence: str) -> None:
            await job.progress(0.9 * done, sentence)
            await asyncio.sleep(DAY_SECONDS)

        numbers = await count_month(self._database, month, progress)
        await job.progress(0.95, "draws the pages")
        async with self._drawing:
            content = await asyncio.to_thread(_drawn, numbers, data.owner)
        stored = await asyncio.to_thread(self.reports.write, data.owner, month, content)
        await self._announce(data.owner, month, stored._asdict())
        return {"bytes": stored.bytes}

    async def _announce(self, owner: str, month: Month, stored: Answer) -> None:
        """Both by the outbox, so that each arrives if the other does."""
        link = f"work.html#report-{month}"
        async with self._database.transaction() as transaction:
            transaction.publish(report_channel(month, owner), {"type": "report.ready", "month": str(month), "file": stored})
            text = f"Your report of {month.title} is ready"
            transaction.notify(owner, {"id": f"report:{month}", "type": "report", "text": text, "target": f"report:{month}", "link": link})

    async def _do_small(self, job: RunningJob, data: Answer) -> None:
        await asyncio.sleep(SMALL_SECONDS * random.uniform(0.6, 1.4))

    async def _remind(self, job: RunningJob, data: Owned) -> None:
        async with self._database.transaction() as transaction:
            text = "You asked to be reminded: this came out of the work queue"
            transaction.notify(data.owner, {"id": f"reminder:{job.key}", "type": "reminder", "text": text, "target": "work:reminder"})

    async def _fail(self, job: RunningJob, data: Owned) -> str:
        view = await self._queues.job(QUEUE, job.id)
        if len(view.failures) >= FAILING_ATTEMPTS:
            return "it was a dead letter, and was sent again"
        await asyncio.sleep(SMALL_SECONDS)
        raise Broken("the oven is cold: send this job again once its cause is mended")

    async def _charge(self, order: Answer, key: str) -> None:
        await asyncio.sleep(BANK_SECONDS)
        if order["amount"] > AMOUNT_MOST:
            raise Declined("the bank declined it")

    async def _ship(self, order: Answer, key: str) -> None:
        """The key makes it one delivery, however often this is called."""
        await asyncio.sleep(KITCHEN_SECONDS)
        data = {"owner": order["buyer"], "order": order["id"]}
        await self._enqueue("demo.delivery", data, key=f"delivery-{order['id']}", delay=ROAD_SECONDS)

    async def _deliver(self, job: RunningJob, data: Delivery) -> None:
        await advance(self._database, order=data.order, state="delivered")

    async def _left(self, view: JobView, now: JobView) -> None:
        """Announces that a report was cancelled, by whatever program."""
        if view.job is None or view.job.name != "demo.report" or view.job.channel is None:
            return
        if now.state == "done" and now.result == b'{"error":"cancelled"}':
            async with self._database.transaction() as transaction:
                transaction.publish(view.job.channel, {"type": "report.cancelled", "job": view.id})

    # What members do.

    async def state(self, user: str) -> Answer:
        """All that the page shows; ``positions`` of its channels are from before it was read."""
        position = await self._position(self.view.channel)
        self.view.changed()
        queue = await self.view.state()
        jobs = {
            job["data"].get("month"): job | {"state": state}
            for state, found in queue["jobs"].items()
            for job in found
            if job["name"] == "demo.report" and job["data"].get("owner") == user
        }
        months = [this_month()]
        while len(months) < MONTHS:
            months.append(months[-1].before)
        reports = [await self._report(user, month, jobs) for month in months]
        known = await list_orders(self._database, buyer=user, limit=ORDERS_SHOWN)
        positions = {order["id"]: await self._position(channel_of_order(order["id"])) for order in known}
        # Read again after the positions: what happened meanwhile is in this answer, or follows its positions.
        found = [order for order in await list_orders(self._database, buyer=user, limit=ORDERS_SHOWN) if order["id"] in positions]
        return {
            "queue": queue,
            "position": position,
            "reports": reports,
            "missing": MISSING,
            "menu": [{"id": id, "name": dish.name, "price": f"€ {dish.amount / 100:,.2f}"} for id, dish in MENU.items()],
            "orders": [{"order": order, "position": positions[order["id"]]} for order in found],
        }

    async def _report(self, user: str, month: Month, jobs: dict[str, Answer]) -> Answer:
        channel, stored = report_channel(month, user), self.reports.find(user, month)
        page = await self._history.read(channel, 0, 1, reverse=True)
        newest = msgspec.json.decode(page.publications[0].data) if page.publications else {}
        return {
            "month": str(month),
            "title": month.title,
            "channel": channel,
            "position": str(page.top),
            "file": stored._asdict() if stored else None,
            "job": jobs.get(str(month)),
            "newest": newest,
        }

    async def _position(self, channel: str) -> str:
        return str((await self._history.read(channel)).top)

    async def make_report(self, user: str, month: str) -> Answer:
        """Enqueues it. While it waits or runs, the same request is the same job."""
        if MISSING:
            raise Invalid(MISSING)
        wanted = read_month(month)
        key, channel = f"report:{wanted}:{user}", report_channel(wanted, user)
        data = {"owner": user, "month": str(wanted)}
        return await self._enqueue("demo.report", data, key=key, channel=channel, attempts=3, result_ttl=RESULT_SECONDS)

    async def order(self, user: str, item: str) -> Answer:
        """Places an order of one thing of MENU."""
        if item not in MENU:
            raise NotFound(f"the menu has no {item!r:.60}")
        dish = MENU[item]
        placed = await place_order(self._database, buyer=user, item=dish.name, amount=dish.amount, queue=QUEUE)
        self.view.changed()
        position = await self._position(channel_of_order(placed["id"]))
        return {"order": await get_order(self._database, order=placed["id"]), "position": position}

    async def cancel_order(self, user: str, order: int) -> Answer:
        return {"order": await cancel_order(self._database, order=order, by=user)}

    async def start(self, user: str, kind: str) -> Answer:
        """``kind`` is what the page's buttons start: small, reminder or failing."""
        if kind == "small":
            for number in range(1, 21):
                started = await self._enqueue("demo.small", {"owner": "", "number": number})
            return started
        if kind == "reminder":
            return await self._enqueue("demo.reminder", {"owner": user}, delay=REMINDER_SECONDS)
        if kind == "failing":
            return await self._enqueue("demo.failing", {"owner": user}, attempts=FAILING_ATTEMPTS, result_ttl=RESULT_SECONDS)
        raise Invalid("the kinds of jobs are small, reminder and failing")

    async def _enqueue(self, name: str, data: Answer, **options: Unpack[JobOptions]) -> Answer:
        try:
            id, new = await self._queues.enqueue(QUEUE, [*job_words(name, data, **options), "limit", QUEUE_MOST])
        except QueueFull as error:
            raise Fault(str(error)) from None
        self.view.changed()
        return {"id": id, "new": new}

    async def cancel(self, user: str, id: str) -> Answer:
        """A job that waits or runs is cancelled, a dead letter is removed."""
        view = await self._theirs(user, id)
        if "order" in data_of(view):
            raise NotAllowed("this job is a part of its order: cancel the order, before it is processed")
        outcome = await self._queues.cancel(QUEUE, id)
        self.view.expect(view)
        self.view.changed()
        if outcome == "none":
            raise NotFound("this job has ended")
        return {"outcome": outcome}

    async def resend(self, user: str, id: str) -> Answer:
        await self._theirs(user, id)
        sent, _ = await self._queues.resend(QUEUE, id)
        self.view.changed()
        if not sent:
            raise NotFound("this job is no dead letter any more, or another job has its key")
        return {}

    async def _theirs(self, user: str, id: str) -> JobView:
        """A job that belongs to the user, or to nobody."""
        view = await self._queues.job(QUEUE, id)
        owner = data_of(view).get("owner")
        if owner and owner != user:
            raise NotAllowed(f"this job is {owner}'s: only they can cancel it or send it again")
        return view


def _drawn(numbers: Numbers, owner: str) -> bytes:
    """The PDF. ReportLab is imported by the thread that draws: that takes a quarter of a second, and fails where it is not installed."""
    from .paper import draw

    return draw(numbers, owner, {subject["id"]: subject["name"] for subject in SUBJECTS})
