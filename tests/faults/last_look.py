"""What is read at the end of a run, each until it is as it has to be, or for READ_SECONDS; the verdict has the last reading.

ready      gateway, status, why                of each gateway's ``/health/ready``
presence   gateway, channel, present, connected   client ids, as the gateway lists them and as the clients know them
inbox      user, unread, ids                   the count, and the ids that are listed as unread
jobs       ready, delayed, parked, running, dead, done   numbers of the queue; dead letters by key, with their reason; keys with an effect
outbox     waiting                             rows
history    channel, epoch, entries             of Valkey: offset and number of each document
log        process, text                       a traceback
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from gateway.errors import StoreError
from gateway.work import Queue
from publishers.database import Database
from publishers.publisher import Publisher
from publishers.relay import backlog

from ..kit.waiting import eventually
from .clients import Follower
from .history import Event, History
from .programs import QUEUE
from .publishing import DIRECT
from .stage import PREFIX, GatewayPlace, Stage
from .verdict import judge

__all__ = ["record_end", "record_logs", "record_ready"]

READY_SECONDS = 30.0
READ_SECONDS = 25.0
REQUEST_SECONDS = 10.0
AGAIN_SECONDS = 0.3
DEAD_MOST = 200  # dead letters of one look at the queue
FAILURES = (OSError, StoreError, TimeoutError, ValueError, KeyError)
RELEVANT = ("fault", "notified", "read", "enqueued")


async def record_ready(stage: Stage, history: History) -> None:
    """Each gateway answers that it is ready."""
    await asyncio.gather(*[_record(history, partial(_ready, place), READY_SECONDS) for place in stage.gateways])


async def record_end(stage: Stage, history: History, clients: Sequence[Follower], users: Sequence[str]) -> None:
    """All that needs the processes to run. No client leaves its connection any more."""
    for client in clients:
        client.restless = client.flapping = False
    await asyncio.gather(
        *[_record(history, partial(_presence, place, clients)) for place in stage.gateways],
        *[_record(history, partial(_inbox, stage, user)) for user in users],
    )
    async with Queue(stage.topology.url, prefix=PREFIX) as queue:
        await _record(history, partial(_jobs, stage, queue))
    async with Database(stage.database_url) as database:
        await _record(history, partial(_outbox, database))
    async with Publisher(stage.topology.url, prefix=PREFIX) as publisher:
        for channel in sorted({channel for client in clients for channel in client.followed}):
            history.record(**await _kept(publisher, channel))


async def _record(history: History, read: Callable[[], Awaitable[Event]], seconds: float = READ_SECONDS) -> None:
    """Reads until the verdict finds nothing wrong with it."""
    relevant = [event for event in history.events if event["what"] in RELEVANT]
    last: Event = {}

    async def is_right() -> bool:
        nonlocal last
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                last = await read()
        except FAILURES as error:
            last = last or {"what": "bad", "why": f"{type(error).__name__}: {error}"}
        if not judge([*relevant, {"t": history.now, **last}]):
            return True
        await asyncio.sleep(AGAIN_SECONDS)
        return False

    with contextlib.suppress(AssertionError):  # then the verdict finds it
        await eventually(is_right, "as it has to be", seconds)
    history.record(**last)


async def _ready(place: GatewayPlace) -> Event:
    status, body = await asyncio.to_thread(place.gateway.http, "GET", "/health/ready")
    return {"what": "ready", "gateway": place.name, "status": status, "why": body[:200].decode(errors="replace")}


async def _presence(place: GatewayPlace, clients: Sequence[Follower]) -> Event:
    answer = await asyncio.to_thread(lambda: place.gateway.api("presence", channel=DIRECT))
    connected = [client.id for client in clients if client.id is not None]
    return {
        "what": "presence",
        "gateway": place.name,
        "channel": DIRECT,
        "present": list(answer["result"]["presence"]),
        "connected": connected,
    }


async def _inbox(stage: Stage, user: str) -> Event:
    """All pages of it."""
    gateway = stage.gateways[0].gateway
    head = {"Authorization": f"Bearer {gateway.token(user)}"}
    ids: list[str] = []
    before = ""
    while True:
        status, body = await asyncio.to_thread(gateway.http, "GET", f"/inbox?limit=100{before}", None, head)
        page = json.loads(body)
        if status != 200:
            raise OSError(f"status {status}: {page}")
        ids += [each["id"] for each in page["notifications"] if each["unread"]]
        if page["next"] is None:
            return {"what": "inbox", "user": user, "unread": page["unread"], "ids": ids}
        before = f"&before={page['next']}"


async def _jobs(stage: Stage, queue: Queue) -> Event:
    overview = await queue.queues.overview(QUEUE)
    dead: dict[str, str] = {}
    while views := await queue.queues.jobs(QUEUE, "dead", first=len(dead), limit=DEAD_MOST):
        for view in views:
            key = (view.job.key if view.job is not None else None) or view.id
            dead[key] = view.failures[-1].error if view.failures else ""
    done = stage.effects.read_text().split("\n")[:-1] if stage.effects.exists() else []
    numbers = {name: getattr(overview, name) for name in ("ready", "delayed", "parked", "running")}
    return {"what": "jobs", **numbers, "dead": dead, "done": done}


async def _outbox(database: Database) -> Event:
    return {"what": "outbox", "waiting": await backlog(database)}


async def _kept(publisher: Publisher, channel: str) -> Event:
    page = await publisher.history.read(channel, 0, -1)
    entries = [(each.offset, json.loads(each.data)["n"]) for each in page.publications]
    while entries and entries[-1][0] < page.top.offset:
        more = await publisher.history.read(channel, entries[-1][0], -1)
        entries += [(each.offset, json.loads(each.data)["n"]) for each in more.publications]
    return {"what": "history", "channel": channel, "epoch": page.top.epoch, "entries": entries}


def record_logs(stage: Stage, history: History) -> None:
    """No process may have logged a traceback."""
    for log in stage.logs():
        text = log.read_text(errors="replace") if log.exists() else ""
        if (at := text.find("Traceback")) >= 0:
            history.record("log", process=log.stem, text=text[max(0, at - 300) : at + 2500])
