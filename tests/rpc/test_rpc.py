"""Clients ask, services answer: real gateways, a real Valkey, services in Python and by hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import valkey

from gateway.errors import StoreError, Unavailable
from gateway.rpc import Caller, Failure, Service
from gateway.rpc import service as service_module
from gateway.store.embedded import socket_path

from ..kit.clients import client
from ..kit.gateways import RunningGateway, Start, shared_gateway
from ..kit.services import ByHand, lease_of_all, lists, running, service_process
from ..kit.waiting import until

IMPATIENT = "rpc_seconds = 2\n[limits]\nrpc_bytes = 1000\nrpc_queue = 3\n"

gateway = shared_gateway()


@pytest.fixture(scope="module")
def impatient(start_gateway_once: Start, gateway: RunningGateway) -> RunningGateway:
    """Another process on the same Valkey, where everything has a limit that is soon reached."""
    return start_gateway_once(IMPATIENT)


@pytest.fixture
def service(gateway: RunningGateway, valkey_url: str) -> Service:
    return Service(valkey_url, prefix=gateway.prefix)


def serve(service: Service, method: str, answer: Callable[[Any], Any]) -> list[Any]:
    """The service answers each call by its data. Returns the list of what was asked, which grows."""
    asked: list[Any] = []

    @service.method(method)
    async def answering(caller: Caller, data: Any) -> Any:
        asked.append(data)
        return answer(data)

    return asked


# What a call is.


async def test_a_service_answers_and_knows_the_caller(gateway: RunningGateway, service: Service, method: str) -> None:
    asked: list[tuple[Caller, Any]] = []

    @service.method(method)
    async def cancel(caller: Caller, data: Any) -> Any:
        asked.append((caller, data))
        return {"cancelled": data["order"], "text": "ä\n\u2028"}

    async with running(service), client(gateway, token=gateway.token("ann", info={"role": "clerk"}, meta={"tenant": 7})) as wire:
        before = time.time()
        result = await wire.result("rpc", method=method, data={"order": 17})
        assert result == {"data": {"cancelled": 17, "text": "ä\n\u2028"}}
        ((caller, data),) = asked
        with pytest.raises(RuntimeError):
            service.method("too.late")
        assert (caller.user, caller.client) == ("ann", wire.connected["client"])
        assert (caller.info, caller.meta) == ({"role": "clerk"}, {"tenant": 7})
        assert data == {"order": 17} and before + 4.4 < caller.deadline < time.time() + 5.5


async def test_missing_data_and_a_missing_result_are_null(gateway: RunningGateway, service: Service, method: str) -> None:
    @service.method(method)
    async def nothing(caller: Caller, data: Any) -> None:
        assert data is None and caller.info is None

    async with running(service), client(gateway) as wire:
        assert await wire.result("rpc", method=method) == {"data": None}


async def test_plain_functions_run_in_threads_several_at_once_and_bounded(gateway: RunningGateway, valkey_url: str, method: str) -> None:
    service, together, most = Service(valkey_url, prefix=gateway.prefix, threads=3), threading.Barrier(3), [0, 0]

    @service.method(method)
    def blocking(caller: Caller, data: int) -> dict[str, Any]:
        most[0] += 1
        most[1] = max(most)
        together.wait(10)  # passes only if three run at the same time
        most[0] -= 1
        return {"user": caller.user, "number": data, "main thread": threading.current_thread() is threading.main_thread()}

    @service.method(f"{method}.refused")
    def refuses(caller: Caller, data: Any) -> None:
        raise Failure(409, "it was shipped")

    @service.method(f"{method}.partial")
    def makes_a_coroutine(caller: Caller, data: Any) -> Any:
        return asyncio.sleep(0, "awaited")

    async with running(service), client(gateway, token=gateway.token("ann")) as wire:
        answers = await ask_many(wire, method, range(6))
        assert answers == {n: {"data": {"user": "ann", "number": n, "main thread": False}} for n in range(6)}
        assert most[1] == 3
        error = (await wire.ask("rpc", method=f"{method}.refused"))["error"]
        assert (error["code"], error["message"]) == (409, "it was shipped")
        assert await wire.result("rpc", method=f"{method}.partial") == {"data": "awaited"}


async def test_the_loop_goes_on_while_a_plain_function_waits(gateway: RunningGateway, service: Service, method: str) -> None:
    may_end = threading.Event()

    @service.method(method)
    def blocking(caller: Caller, data: Any) -> str:
        assert may_end.wait(10)
        return "done"

    @service.method(f"{method}.quick")
    async def quick(caller: Caller, data: Any) -> None:
        may_end.set()

    async with running(service), client(gateway) as wire, client(gateway) as other:
        waiting = asyncio.create_task(wire.result("rpc", method=method))
        assert await other.result("rpc", method=f"{method}.quick") == {"data": None}
        assert await waiting == {"data": "done"}


@pytest.mark.every_valkey
async def test_instances_share_the_work_and_each_request_is_served_once(gateway: RunningGateway, valkey_url: str, method: str) -> None:
    served: list[Counter[int]] = []

    def instance() -> Service:
        service, mine = Service(valkey_url, prefix=gateway.prefix, concurrency=4), Counter[int]()
        served.append(mine)

        @service.method(method)
        async def count(caller: Caller, data: int) -> int:
            mine[data] += 1
            await asyncio.sleep(0.005)
            return -data

        return service

    async with running(instance(), instance()), client(gateway) as wire:
        answers = await ask_many(wire, method, range(200))
        assert answers == {number: {"data": -number} for number in range(200)}
        assert served[0] + served[1] == Counter(range(200))
        assert all(len(mine) > 20 for mine in served), "both work"


async def ask_many(wire: Any, method: str, numbers: range) -> dict[int, Any]:
    """All at once; what came back, by the number that was asked."""
    await wire.send(*({"id": 1_000_000 + number, "rpc": {"method": method, "data": number}} for number in numbers))
    answers = [await wire.next() for _ in numbers]
    return {answer["id"] - 1_000_000: answer.get("rpc") or answer for answer in answers}


async def test_a_thousand_calls_from_two_gateways(
    gateway: RunningGateway, start_gateway_once: Start, service: Service, method: str
) -> None:
    """A busy machine may take longer for all of them than the seconds that a call has otherwise."""
    both = [await asyncio.to_thread(start_gateway_once, "rpc_seconds = 60\n", beside=gateway) for _ in range(2)]
    seen = Counter[tuple[str, int]]()

    @service.method(method)
    async def who(caller: Caller, data: int) -> list[Any]:
        seen[caller.user, data] += 1
        return [caller.user, data]

    async with running(service), contextlib.AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(client(both[n % 2], f"u{n}")) for n in range(20)]
        answers = await asyncio.gather(*(ask_many(wire, method, range(50)) for wire in wires))
        for n, theirs in enumerate(answers):
            assert theirs == {number: {"data": [f"u{n}", number]} for number in range(50)}, "nobody gets another's reply"
        assert len(seen) == 1000 and set(seen.values()) == {1}


@pytest.mark.every_valkey
async def test_no_method_starves_another(gateway: RunningGateway, valkey_url: str, store: valkey.Valkey, method: str) -> None:
    service, order = Service(valkey_url, prefix=gateway.prefix, concurrency=1), []
    for name in ("a", "b"):

        @service.method(f"{method}.{name}")
        async def take(caller: Caller, data: str) -> None:
            order.append(data)

    for name in ("a", "b"):
        request = json.dumps({"id": "x", "reply_to": "nowhere", "deadline": int(time.time() * 1000) + 60_000, "data": name})
        store.lpush(lists(gateway, f"{method}.{name}")[0], *[request] * 20)
    async with running(service):
        await until(lambda: len(order) == 40, "all served")
        assert Counter(order[:20]) == {"a": 10, "b": 10}


# Who may call.


async def test_anonymous_clients_may_call_only_where_rpc_is_open_to_anyone(start_gateway: Start, valkey_url: str, method: str) -> None:
    closed = await asyncio.to_thread(start_gateway, '[channels]\nsubscribe = "anyone"\n')
    opened = await asyncio.to_thread(start_gateway, 'rpc = "anyone"\n', beside=closed)
    shut = await asyncio.to_thread(start_gateway, 'rpc = "nobody"\n', beside=closed)
    service = Service(valkey_url, prefix=closed.prefix)

    @service.method(method)
    async def who(caller: Caller, data: Any) -> str:
        return caller.user

    async with running(service):
        async with client(closed, token="") as wire:
            assert await wire.error("rpc", method=method) == 103
        async with client(opened, token="") as wire:
            assert await wire.result("rpc", method=method) == {"data": ""}
        async with client(shut, "ann") as wire:
            assert await wire.error("rpc", method=method) == 103
            await wire.result("rpc", method="gateway.time")


# What goes wrong, and its code.


async def test_a_call_where_no_service_serves_anything_is_not_available(gateway: RunningGateway, store: valkey.Valkey, method: str) -> None:
    store.delete(lease_of_all(gateway))  # the tests before this one had services
    async with client(gateway) as wire:
        assert (await wire.ask("rpc", method=method))["error"] == {"code": 108, "message": "not available"}
        assert not store.exists(lists(gateway, method)[0])
        assert await wire.error("rpc", method="gateway.nothing") == 104, "methods of such names the gateway serves itself"


async def test_methods_are_not_found_again_where_a_service_serves_another(gateway: RunningGateway, service: Service, method: str) -> None:
    serve(service, f"{method}.other", lambda data: None)
    async with running(service), client(gateway) as wire:
        assert await wire.error("rpc", method=method) == 104


async def test_a_call_of_a_method_without_a_service_fails_at_once(gateway: RunningGateway, store: valkey.Valkey, method: str) -> None:
    store.set(lease_of_all(gateway), "another service", ex=30)
    async with client(gateway) as wire:
        begun = time.monotonic()
        assert (await wire.ask("rpc", method=method))["error"] == {"code": 104, "message": "method not found"}
        assert time.monotonic() - begun < 4, "rpc_seconds is 4.5"
        assert not store.exists(lists(gateway, method)[0]), "nothing waits for a service that may never come"


@pytest.mark.parametrize("name", ["", "a b", "a{b}", "a\nb", "ä", "x" * 101, "gateway.nothing", "inbox.nothing"])
async def test_an_invalid_or_reserved_method_name_is_refused(gateway: RunningGateway, service: Service, name: str) -> None:
    with pytest.raises(ValueError):
        service.method(name)
    async with client(gateway) as wire:
        assert await wire.error("rpc", method=name) == 104


async def test_a_call_past_its_deadline_is_a_temporary_error_and_its_method_is_cancelled(
    gateway: RunningGateway, impatient: RunningGateway, service: Service, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    begun, ended = list[str](), list[str]()

    @service.method(method)
    async def dream(caller: Caller, data: Any) -> None:
        begun.append("begun")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async with running(service), client(impatient) as wire:
        while not begun:  # on a busy machine a call may come to the service after its deadline, and is dropped
            answer = await wire.ask("rpc", method=method)
            assert answer["error"] == {"code": 100, "message": "internal server error", "temporary": True}
        await until(lambda: ended, "the method is cancelled at its deadline")
    assert f"{method}: no reply within rpc_seconds, 2" in impatient.log()
    assert f"{method} was cancelled at its deadline" in caplog.text


ERRORS = {
    "a code of the application": ((409, "it was shipped"), {"code": 409, "message": "it was shipped"}),
    "the highest, for a while": ((1999, "later", True), {"code": 1999, "message": "later", "temporary": True}),
    "a message without an end": ((400, "ä" * 10_000), {"code": 400, "message": "ä" * 500}),
    "half an emoji": ((400, "\ud83d"), {"code": 400, "message": "?"}),
    "a code of the gateway": ((103, "permission denied"), {"code": 100, "message": "internal server error", "temporary": True}),
    "a code past the application's": ((2000, "x"), {"code": 100, "message": "internal server error", "temporary": True}),
    "a negative code": ((-1, "x"), {"code": 100, "message": "internal server error", "temporary": True}),
}


@pytest.mark.parametrize("what", ERRORS)
async def test_an_applications_error_reaches_the_client(gateway: RunningGateway, service: Service, method: str, what: str) -> None:
    (code, message, *temporary), expected = ERRORS[what]

    @service.method(method)
    async def refuse(caller: Caller, data: Any) -> None:
        raise Failure(code, message, temporary=bool(temporary))

    async with running(service), client(gateway) as wire:
        assert (await wire.ask("rpc", method=method))["error"] == expected


async def test_a_method_may_fail_alone(gateway: RunningGateway, service: Service, method: str, caplog: pytest.LogCaptureFixture) -> None:
    deep: list[Any] = []
    deep.append(deep)  # deeper than any version of Python lets an encoder go

    @service.method(method)
    async def fail(caller: Caller, data: str) -> Any:
        if data == "raise":
            raise RuntimeError("a secret")
        return {"not json": object(), "deep": deep, "fine": 1, "too deep": json.loads("[" * 300 + "]" * 300)}[data]

    async with running(service), client(gateway) as wire:
        for data in ("raise", "not json", "deep", "too deep"):
            answer = await wire.ask("rpc", method=method, data=data)
            assert answer["error"] == {"code": 100, "message": "internal server error", "temporary": True}, data
            assert await wire.result("rpc", method=method, data="fine") == {"data": 1}
    assert f"{method} failed" in caplog.text and "a secret" in caplog.text


async def test_too_large_requests_and_replies_are_refused(
    gateway: RunningGateway, impatient: RunningGateway, service: Service, method: str
) -> None:
    asked = serve(service, method, lambda data: "x" * data)
    async with running(service), client(impatient) as wire:
        assert await wire.result("rpc", method=method, data=998) == {"data": "x" * 998}
        assert (await wire.ask("rpc", method=method, data=999))["error"] == {"code": 106, "message": "limit exceeded"}
        assert await wire.error("rpc", method=method, data="x" * 999) == 106
        assert asked == [998, 999], "a request that is too large does not reach the service"


async def test_calls_past_a_full_queue_are_refused_and_the_queue_expires(
    gateway: RunningGateway, impatient: RunningGateway, store: valkey.Valkey, method: str
) -> None:
    queue, lease = lists(gateway, method)
    store.set(lease, "by hand", ex=30)
    async with client(impatient) as wire:
        await wire.send(*({"id": number, "rpc": {"method": method}} for number in range(1, 6)))
        errors = [(await wire.next())["error"] for _ in range(5)]
    assert Counter(error["code"] for error in errors) == {111: 2, 100: 3}
    assert errors[0] == {"code": 111, "message": "too many requests", "temporary": True}
    await until(lambda: not store.exists(queue), "what nobody took goes away")


async def test_a_service_drops_requests_whose_deadline_is_over(
    gateway: RunningGateway, service: Service, store: valkey.Valkey, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    served = serve(service, method, lambda data: None)
    now = int(time.time() * 1000)
    for number, deadline in enumerate((now - 1, 0, now + 60_000)):
        store.lpush(lists(gateway, method)[0], json.dumps({"id": "x", "reply_to": "nowhere", "deadline": deadline, "data": number}))
    async with running(service):
        await until(lambda: served == [2], "the one in time is served")
    assert caplog.text.count("deadline is over") == 2


BAD_REQUESTS = {
    "not JSON": b"{",
    "not UTF-8": b'{"id":"\xff","reply_to":"x","deadline":1}',
    "nothing": b"",
    "a list": b"[]",
    "deep": b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "no id": b'{"reply_to":"x","deadline":1}',
    "an endless deadline": b'{"id":"x","reply_to":"x","deadline":1' + b"0" * 400 + b"}",
}


@pytest.mark.parametrize("bad", BAD_REQUESTS)
async def test_a_request_that_cannot_be_read_does_not_affect_other_calls(
    gateway: RunningGateway, service: Service, store: valkey.Valkey, method: str, bad: str, caplog: pytest.LogCaptureFixture
) -> None:
    serve(service, method, lambda data: "fine")
    store.lpush(lists(gateway, method)[0], BAD_REQUESTS[bad])
    async with running(service), client(gateway) as wire:
        assert await wire.result("rpc", method=method) == {"data": "fine"}
    assert f"{method}: a request that cannot be read" in caplog.text


async def test_data_that_the_service_cannot_read_is_a_bad_request(gateway: RunningGateway, service: Service, method: str) -> None:
    serve(service, method, lambda data: data)
    async with running(service), client(gateway) as wire:
        await wire.connection.send(f'{{"id":1,"rpc":{{"method":"{method}","data":1e999}}}}')
        assert (await wire.next())["error"] == {"code": 107, "message": "bad request"}
        await wire.connection.send(f'{{"id":2,"rpc":{{"method":"{method}","data":{"[" * 300 + "]" * 300}}}}}')
        assert (await wire.next())["error"] == {"code": 107, "message": "bad request"}
        await wire.connection.send(f'{{"id":3,"rpc":{{"method":"{method}","data":"\\ud83d"}}}}')
        assert (await wire.next())["rpc"] == {"data": "\ufffd"}


# By hand: the documented lists, and whatever such a service may reply.


async def test_a_service_can_be_written_with_plain_valkey_commands(gateway: RunningGateway, store: valkey.Valkey, method: str) -> None:
    hand = ByHand(store, gateway, method)
    async with client(gateway, token=gateway.token("ann", info={"role": "clerk"})) as wire:
        asking = asyncio.create_task(wire.ask("rpc", method=method, data={"order": 17}))
        request = await hand.request()
        assert request["method"] == method and request["data"] == {"order": 17} and request["limit"] == 65536
        assert (request["user"], request["client"], request["info"]) == ("ann", wire.connected["client"], {"role": "clerk"})
        seconds, micros = store.time()
        assert 0 < request["deadline"] - seconds * 1000 - micros / 1000 <= 4500
        assert hand.reply(request, data={"cancelled": [17]}) == 1
        assert (await asking)["rpc"] == {"data": {"cancelled": [17]}}, "on one line, however it was written"


REPLIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "neither data nor error": ({}, {"rpc": {"data": None}}),
    "an error that is null": ({"data": 1, "error": None}, {"rpc": {"data": 1}}),
    "data and an error": ({"data": 1, "error": {"code": 404, "message": "no"}}, {"error": {"code": 404, "message": "no"}}),
    "an error without a message": ({"error": {"code": 404}}, {"error": {"code": 404, "message": ""}}),
    "an error that is none": ({"error": "bad"}, {"error": {"code": 100, "message": "internal server error", "temporary": True}}),
    "a code that is none": ({"error": {"code": "404"}}, {"error": {"code": 100, "message": "internal server error", "temporary": True}}),
    "data past the limit": ({"data": "x" * 65535}, {"error": {"code": 106, "message": "limit exceeded"}}),
    "half an emoji": ({"data": "\ud83d"}, {"rpc": {"data": "\ufffd"}}),
    "an answer to a survey, too": ({"data": 1, "answer": 2}, {"rpc": {"data": 1}}),
}


@pytest.mark.parametrize("what", REPLIES)
async def test_each_kind_of_reply_arrives_as_documented(gateway: RunningGateway, store: valkey.Valkey, method: str, what: str) -> None:
    reply, expected = REPLIES[what]
    hand = ByHand(store, gateway, method)
    async with client(gateway) as wire:
        asking = asyncio.create_task(wire.ask("rpc", method=method))
        hand.reply(await hand.request(), **reply)
        answer = await asking
        assert {key: value for key, value in answer.items() if key != "id"} == expected


async def test_late_repeated_foreign_and_malformed_replies_are_ignored(
    gateway: RunningGateway, impatient: RunningGateway, store: valkey.Valkey, method: str
) -> None:
    hand = ByHand(store, gateway, method)
    async with client(impatient, "ann") as ann, client(impatient, "bob") as bob:
        assert await ann.error("rpc", method=method) == 100
        late = await hand.request()
        hand.reply(late, data="late")
        for nonsense in ("", "x", "[]", '{"id":1}', '{"id":"1"}', '{"id":null,"data":1}', "\udcff", "[" * 100_000, json.dumps(late)[:50]):
            store.publish(late["reply_to"], nonsense.encode(errors="surrogateescape"))
        asking = asyncio.create_task(ann.ask("rpc", method=method))
        request = await hand.request()
        hand.reply(late, data="another's")
        for data in ("first", "second", "third"):
            hand.reply(request, data=data)
        assert (await asking)["rpc"] == {"data": "first"}
        asking = asyncio.create_task(bob.ask("rpc", method=method))
        own = await hand.request()
        assert own["id"] != request["id"] and len(own["id"]) == 32
        hand.reply(request, data="for ann")
        hand.reply(own, data="for bob")
        assert (await asking)["rpc"] == {"data": "for bob"}
        assert not ann.rest and not bob.rest
        assert impatient.api("info")["result"]["nodes"], "surveys go on, on the same channel"


async def test_a_reply_for_a_client_that_disconnected_is_ignored(gateway: RunningGateway, store: valkey.Valkey, method: str) -> None:
    hand = ByHand(store, gateway, method)
    async with client(gateway) as wire:
        await wire.send({"id": 1, "rpc": {"method": method}})
        request = await hand.request()
    hand.reply(request, data=1)
    async with client(gateway) as wire:
        await wire.result("rpc", method="gateway.time")


# Faults.


async def served(store: valkey.Valkey, gateway: RunningGateway, method: str) -> None:
    await until(lambda: store.exists(lists(gateway, method)[1]), "the lease is there")


async def test_calls_fail_at_once_when_the_lease_of_a_dead_service_is_over(
    gateway: RunningGateway, impatient: RunningGateway, store: valkey.Valkey, method: str
) -> None:
    with service_process(gateway, store, method) as service:
        async with client(impatient) as wire:
            await served(store, gateway, method)
            service.allow()
            assert await wire.result("rpc", method=method) == {"data": "done"}
            service.kill()
            lease = lists(gateway, method)[1]
            store.set(lease, "the lease of the dead one", ex=30)
            assert await wire.error("rpc", method=method) == 100, "until its lease is over, it may only be slow"
            store.pexpire(lease, 1)
            await until(lambda: not store.exists(lease), "its lease is over")
            store.set(lease_of_all(gateway), "another service", ex=30)
            assert await wire.error("rpc", method=method) == 104


async def test_another_instance_serves_after_a_crash(gateway: RunningGateway, store: valkey.Valkey, service: Service, method: str) -> None:
    serve(service, method, lambda data: "the other")
    with service_process(gateway, store, method) as crashing:
        await served(store, gateway, method)
        crashing.kill()
        # Until Valkey knows that it is dead, it may give it a request, which then is lost: at most once.
        await until(lambda: not store.info("clients")["blocked_clients"], "nobody waits for requests")
        store.set(lists(gateway, method)[1], "the lease of the dead one", ex=30)  # a real one outlives a restart
        async with client(gateway) as wire:
            asking = asyncio.create_task(wire.ask("rpc", method=method))
            async with running(service):
                assert (await asking)["rpc"] == {"data": "the other"}, "what waits for a restart is served after it"


async def test_a_service_that_gets_sigterm_finishes_its_calls_and_ends(gateway: RunningGateway, store: valkey.Valkey, method: str) -> None:
    with service_process(gateway, store, method) as service:
        async with client(gateway) as wire:
            await served(store, gateway, method)
            asking = asyncio.create_task(wire.ask("rpc", method=method, data="first"))
            assert await service.received() == "first"
            service.process.terminate()
            service.allow()
            assert (await asking)["rpc"] == {"data": "done"}
            assert await service.received() == "ended"
            await until(lambda: service.process.exitcode == 0, "the program ended")


async def test_each_call_is_served_at_most_once_while_connections_are_killed(
    gateway: RunningGateway, impatient: RunningGateway, store: valkey.Valkey, service: Service, method: str
) -> None:
    served = serve(service, method, lambda data: data)
    async with running(service), client(impatient) as wire:
        number = answered = killed = 0
        async with asyncio.timeout(30):
            while answered < 30:
                number += 1
                asking = asyncio.create_task(wire.ask("rpc", method=method, data=number))
                if answered // 3 >= killed:
                    killed += 1
                    for kind in ("pubsub", "normal"):
                        store.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
                answer = await asking
                assert answer.get("rpc") == {"data": number} or answer["error"]["code"] in (100, 104), answer
                answered += "rpc" in answer
        assert len(set(served)) == len(served), "at most once"


@pytest.mark.parametrize("fault", ["killed", "emptied"])
async def test_a_service_works_on_after_valkey_was_killed_or_emptied(start_gateway: Start, tmp_path: Path, method: str, fault: str) -> None:
    data_dir = tmp_path / "own"
    gateway = await asyncio.to_thread(start_gateway, "rpc_seconds = 1\n", valkey_url=None, data_dir=data_dir)
    service = Service(prefix=gateway.prefix, data_dir=data_dir)  # without a URL, as on one's own machine
    serve(service, method, lambda data: "here")
    async with running(service), client(gateway) as wire:
        with valkey.Valkey(unix_socket_path=str(socket_path(data_dir))) as own:
            if fault == "killed":
                assert await wire.result("rpc", method=method) == {"data": "here"}
                os.kill(int(own.info("server")["process_id"]), signal.SIGKILL)
                answers = [await wire.ask("rpc", method=method) for _ in range(3)]
                assert all("rpc" in answer or answer["error"]["code"] in (100, 104, 108) for answer in answers)
            else:
                own.flushall()
                own.execute_command("FUNCTION", "FLUSH")
                own.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        async with asyncio.timeout(20):
            while "rpc" not in await wire.ask("rpc", method=method):
                await asyncio.sleep(0.05)


async def test_a_service_that_reaches_no_valkey_raises_unavailable(tmp_path: Path) -> None:
    for service in (Service(f"unix://{tmp_path}/nothing.sock"), Service(data_dir=tmp_path)):
        with pytest.raises(ValueError, match="no method"):
            await service.run()
        service.method("x")(lambda caller, data: asyncio.sleep(0))
        with pytest.raises(Unavailable):
            await service.run()


async def test_leases_that_cannot_be_renewed_are_logged_once_and_so_is_their_return(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As while Valkey's disk is full: it is tried each second."""
    outcomes = iter([True, False, False, True, True])

    async def renew(commands: Any) -> None:
        outcome = next(outcomes, None)
        if outcome is None:
            raise asyncio.CancelledError
        if not outcome:
            raise StoreError("MISCONF Errors writing to the AOF file")

    service = Service()
    monkeypatch.setattr(service_module, "RENEW_SECONDS", 0)
    monkeypatch.setattr(service, "_renew", renew)
    with caplog.at_level(logging.INFO), pytest.raises(asyncio.CancelledError):
        await service._renew_leases(Mock())
    assert caplog.messages == [
        "the leases were not renewed: MISCONF Errors writing to the AOF file; trying again",
        "the leases are renewed again",
    ]
