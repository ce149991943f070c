"""``POST /api/enqueue``: jobs over plain HTTP, as any producer enqueues them, and the same errors."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
import valkey

from gateway.config import Config
from gateway.edges.api.methods import METHODS, answer
from gateway.edges.api.outcomes import together
from gateway.edges.responses import STATUS_OF_ERROR
from gateway.errors import TooManyRequests
from gateway.store.layout import Layout, Word
from gateway.work import Queue
from gateway.work.queues import Queues

from ..kit.gateways import RULES, RunningGateway, Start
from ..kit.valkeys import opened_history


@pytest.fixture(scope="module")
def gateway(start_gateway_once: Start) -> RunningGateway:
    return start_gateway_once(RULES)


@pytest.fixture
async def producer(gateway: RunningGateway, valkey_url: str) -> AsyncIterator[Queue]:
    async with Queue(valkey_url, prefix=gateway.prefix) as queue:
        yield queue


async def test_a_job_is_enqueued_with_all_its_options(gateway: RunningGateway, producer: Queue) -> None:
    at = time.time() + 3600
    options = {"priority": 3, "attempts": 7, "timeout": 2.5, "result_ttl": 60, "channel": "open:1", "serial": "s"}
    result = await gateway.ask("enqueue", name="mail", data={"n": [1, None]}, queue="all", key="k", at=at, expires=30, **options)
    assert result["new"] is True
    view = await producer.queues.job("all", result["id"])
    assert view.state == "delayed" and view.job is not None
    job = view.job
    assert (job.name, job.key, bytes(job.data)) == ("mail", "k", b'{"n": [1, null]}')
    assert {name: getattr(job, name) for name in options} == options
    assert (job.due, job.expires) == (int(at * 1000), int(at * 1000) + 30_000)
    assert await gateway.ask("enqueue", name="mail", queue="all", key="k") == {"id": result["id"], "new": False}


async def test_what_is_left_out_is_as_a_producer_has_it(gateway: RunningGateway, producer: Queue) -> None:
    result = await gateway.ask("enqueue", name="mail")
    theirs, ours = await producer.queues.job("default", result["id"]), await producer.enqueue("mail")
    mine = await ours.look()
    assert theirs.job is not None and mine.job is not None and (theirs.state, mine.state) == ("ready", "ready")
    for name in set(theirs.job.__struct_fields__) - {"enqueued", "due"}:
        assert getattr(theirs.job, name) == getattr(mine.job, name), name


# What is wrong with a request, and the code and words of its error.
REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({}, 107, "name"),
    ({"name": ""}, 107, "name of a job"),
    ({"name": "a\nb"}, 107, "control characters"),
    ({"name": "x", "queue": "{q}"}, 107, "without braces"),
    ({"name": "x", "queue": ""}, 107, "a queue is named by"),
    ({"name": "x", "priority": -1}, 107, "priority"),
    ({"name": "x", "priority": 10}, 107, "priority"),
    ({"name": "x", "delay": 1e12}, 107, "delay"),
    ({"name": "x", "at": 32503680000}, 107, "at is a number"),
    ({"name": "x", "attempts": 0}, 107, "attempts"),
    ({"name": "x", "timeout": 0}, 107, "timeout"),
    ({"name": "x", "expires": 0.0001}, 107, "expires"),
    ({"name": "x", "prioriti": 1, "priority": "1"}, 107, "did you mean 'priority'?"),
    ({"name": "x", "data": "x" * (1 << 20)}, 107, "at most 1048576 bytes"),
    ({"name": "x", "channel": "nowhere:1"}, 102, "nowhere"),
    ({"name": "x", "channel": "a{b"}, 107, "brace"),
]


@pytest.mark.parametrize("request_, code, words", REFUSED, ids=lambda value: str(value)[:60])
def test_a_request_that_cannot_be_a_job_is_refused_with_a_hint(
    gateway: RunningGateway, request_: dict[str, Any], code: int, words: str
) -> None:
    error = gateway.api("enqueue", **request_)["error"]
    assert error["code"] == code and words in error["hint"], error


def test_a_batch_enqueues_and_a_field_that_is_no_option_is_named(gateway: RunningGateway) -> None:
    answer = gateway.api(
        "batch", commands=[{"enqueue": {"name": "x", "queue": "b"}}, {"enqueue": {"name": "x", "delai": 1}}, {"enqueue": {}}]
    )
    one, two, three = answer["replies"]
    assert one["enqueue"]["new"] and two["enqueue"]["new"] and three["error"]["code"] == 107
    assert answer["warnings"] == ["there is no field 'commands[1].enqueue.delai'; did you mean 'delay'?"]


class FullQueues(Queues):
    """Queues that hold one job each."""

    async def enqueue(self, queue: str, words: list[Word], **options: Any) -> tuple[str, bool]:
        return await super().enqueue(queue, [*words, "limit", 1], **options)


async def test_a_full_queue_answers_too_many_requests(valkey_url: str, prefix: str) -> None:
    async with opened_history(valkey_url, prefix, Config()) as history:
        node: Any = SimpleNamespace(queues=FullQueues(history.commands, history.layout))
        await answer(node, METHODS["enqueue"], b'{"name":"x"}')
        with pytest.raises(TooManyRequests, match=r"the queue holds 1 jobs, 0 of them dead letters; its limit is 1$") as refused:
            await answer(node, METHODS["enqueue"], b'{"name":"x"}')
    assert STATUS_OF_ERROR[refused.value.code] == 429 and refused.value.temporary


def test_a_key_of_another_type_is_our_error_and_nothing_else_suffers(gateway: RunningGateway, store: valkey.Valkey) -> None:
    store.set(Layout(gateway.prefix).queue("broken")[1], "text")
    assert gateway.api("enqueue", name="x", queue="broken")["error"]["code"] == 100
    assert gateway.api("enqueue", name="x", queue="sound")["result"]["new"]


async def test_of_a_batch_in_parallel_a_bounded_number_is_under_way() -> None:
    under_way, most = 0, 0

    async def command() -> bytes:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        return b"{}"

    assert len(await together([command() for _ in range(1001)])) == 1001
    assert most == 200
