"""Work queues: their numbers, their jobs and dead letters, and how they are mended."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from ..edges.api.requests import QueueName, Shape
from ..errors import BadRequest, NotAvailable, Unavailable
from ..rules.json_text import clean, encode
from ..store.access import shard_fault
from ..work.jobs import check_queue_name
from ..work.queues import JobView, Overview, Queues
from .caller import Caller, Empty, read_method, write_method

__all__ = ["METHODS"]

QUEUES_MOST = 200  # that are read for one answer
AT_ONCE = 20  # questions to Valkey; the commands of clients come in between
JOBS_MOST = 50
IDS_MOST = 1000
DATA_BYTES = 2048  # of a job's data in a list; one job is shown whole

JobId = Annotated[str, Meta(min_length=1, max_length=200)]


class _OfQueue(Shape):
    queue: QueueName

    def fault(self) -> str:
        try:
            check_queue_name(self.queue)
        except ValueError as error:
            return str(error)
        return super().fault()


class QueueRequest(_OfQueue, kw_only=True):
    """The jobs of a queue in one state, from number ``first`` on: in the order in which they are taken or come due, the newest dead letters first."""

    state: Literal["ready", "delayed", "running", "dead"]
    first: Annotated[int, Meta(ge=0, le=10**9)] = 0
    limit: Annotated[int, Meta(ge=1, le=JOBS_MOST)] = JOBS_MOST


class JobRequest(_OfQueue, kw_only=True):
    """The job ``id`` of a queue, in whatever state."""

    id: JobId


class RetryRequest(_OfQueue, kw_only=True):
    """Sends these dead letters again, or without ``ids`` the oldest after ``skip`` of them, up to ``most``."""

    ids: Annotated[list[JobId], Meta(max_length=IDS_MOST)] = []
    skip: Annotated[int, Meta(ge=0, le=10**9)] = 0
    most: Annotated[int, Meta(ge=1, le=IDS_MOST)] = IDS_MOST


class PurgeRequest(_OfQueue, kw_only=True):
    """Removes the jobs in ``state``, up to ``most``, the oldest dead letters first. ``confirm`` repeats the queue's name, so that nothing is removed by a slip."""

    state: Literal["ready", "delayed", "dead"]
    confirm: str
    most: Annotated[int, Meta(ge=1, le=IDS_MOST)] = IDS_MOST


async def queues(caller: Caller, request: Empty) -> bytes:
    """The numbers of the first QUEUES_MOST queues by name; ``total`` is how many there are. A queue whose keys in Valkey are of another type,
    or in a shard that is away, has ``error``."""
    every = caller.node.queues
    if fault := shard_fault(every.commands, caller.node.history.layout.queues):
        raise Unavailable(f"the names of the queues cannot be read: {fault}")
    names = await every.names()
    rows: list[dict[str, Any]] = []
    shown = names[:QUEUES_MOST]
    for first in range(0, len(shown), AT_ONCE):
        rows += await asyncio.gather(*[_row(every, name) for name in shown[first : first + AT_ONCE]])
    return encode({"queues": rows, "total": len(names)})


async def _row(every: Queues, name: str) -> dict[str, Any]:
    found = await every.overview_or_fault(name)
    return {"name": name, "error": found} if isinstance(found, str) else {"name": name, **_numbers(found)}


def _queues(caller: Caller, queue: str) -> Queues:
    """For calls about one queue. Raises Unavailable where the shard that has it is away: an operator should know now, as ``require_valkey`` says."""
    if fault := caller.node.queues.shard_fault(queue):
        raise Unavailable(fault)
    return caller.node.queues


def _numbers(overview: Overview) -> dict[str, Any]:
    """The overview. ``dead`` is how many dead letters there are; ``died`` how many jobs became one since the queue began."""
    numbers = msgspec.to_builtins(overview)
    numbers["died"], numbers["dead"] = numbers["dead"], numbers.pop("dead_letters")
    means = {"start_mean_ms": _mean(overview.start_ms, overview.started), "finish_mean_ms": _mean(overview.finish_ms, overview.finished)}
    return {**numbers, **means}


def _mean(sum_ms: int, count: int) -> float | None:
    return sum_ms / count if count else None


async def queue(caller: Caller, request: QueueRequest) -> bytes:
    """Some jobs of a queue, and its numbers. Data longer than DATA_BYTES is left out, with ``data_bytes``; ``failures`` has the last one alone, of
    ``failed``."""
    every = _queues(caller, request.queue)
    found, overview = await asyncio.gather(
        every.jobs(request.queue, request.state, first=request.first, limit=request.limit), every.overview(request.queue)
    )
    return encode({"jobs": [_row_of(view) for view in found], "numbers": _numbers(overview)})


def _row_of(view: JobView) -> dict[str, Any]:
    last = [msgspec.structs.replace(failure, error=failure.error[:DATA_BYTES]) for failure in view.failures[-1:]]
    return {**_fields(view, DATA_BYTES), "failures": last, "failed": len(view.failures)}


async def job(caller: Caller, request: JobRequest) -> bytes:
    """All of one job, wherever it is. Raises NotAvailable if the queue does not have it."""
    view = await _queues(caller, request.queue).job(request.queue, request.id)
    if view.state == "none":
        raise NotAvailable(f"queue {request.queue} has no job {request.id}")
    return encode(_fields(view))


def _fields(view: JobView, data_most: int = 0) -> dict[str, Any]:
    """A job with what Valkey has of it; what another program wrote has no more than an id and a state. ``data_most`` 0 is no limit."""
    fields: dict[str, Any] = {"id": view.id, "state": view.state, "ms": view.ms}
    if view.job is not None:
        fields |= {name: getattr(view.job, name) for name in view.job.__struct_fields__ if name != "data"}
        size = len(view.job.data)
        fields |= {"data_bytes": size} if 0 < data_most < size else {"data": msgspec.Raw(clean(bytes(view.job.data)))}
    fields["failures"] = view.failures
    if view.result:
        fields["outcome"] = msgspec.Raw(clean(view.result))
    return fields


async def queue_retry(caller: Caller, request: RetryRequest) -> bytes:
    """Sends dead letters again. ``refused`` are no dead letters any more, or another job has their unique key; of the oldest, a further call goes on
    with ``skip``."""
    every = _queues(caller, request.queue)
    if not request.ids:
        sent, refused, skip = await every.resend_oldest(request.queue, request.most, skip=request.skip)
        return encode({"sent": sent, "refused": refused, "skip": skip})
    sent, refused = await every.resend(request.queue, *request.ids)
    return encode({"sent": sent, "refused": refused})


async def queue_cancel(caller: Caller, request: JobRequest) -> bytes:
    """``outcome``: cancelled, running (its worker will end it), removed (a dead letter). Raises NotAvailable if the queue does not have it."""
    outcome = await _queues(caller, request.queue).cancel(request.queue, request.id)
    if outcome == "none":
        raise NotAvailable(f"queue {request.queue} has no job {request.id}")
    return encode({"outcome": outcome})


async def queue_purge(caller: Caller, request: PurgeRequest) -> bytes:
    """Removes jobs; ``left`` are to be removed by further calls. Raises BadRequest where the queue's name is not confirmed."""
    if request.confirm != request.queue:
        raise BadRequest(f"confirm has to be the queue's name, {request.queue}")
    removed, left = await _queues(caller, request.queue).purge(request.queue, request.state, request.most)
    return encode({"removed": removed, "left": left})


METHODS = {
    "queues": read_method(queues, Empty),
    "queue": read_method(queue, QueueRequest),
    "job": read_method(job, JobRequest),
    "queue_retry": write_method(queue_retry, RetryRequest),
    "queue_cancel": write_method(queue_cancel, JobRequest),
    "queue_purge": write_method(queue_purge, PurgeRequest),
}
