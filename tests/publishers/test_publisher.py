"""Publishers, with and without asyncio, on a real Valkey whose connections break."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw

from gateway.errors import StoreError, Unavailable
from gateway.publication import Position
from gateway.store import plain_connection
from gateway.store.embedded import EmbeddedServer, socket_path
from publishers import Publisher, SyncPublisher

from ..kit.topologies import Store, listening
from ..kit.valkeys import OwnValkey
from ..kit.waiting import PATIENCE, wait_until

EVERY_VALKEY = pytest.mark.every_valkey


async def data_of(publisher: Publisher, channel: str) -> list[tuple[int, bytes]]:
    return [(p.offset, p.data) for p in (await publisher.history.read(channel, 0, -1)).publications]


@EVERY_VALKEY
async def test_a_publish_is_acknowledged_with_its_position(publisher: Publisher) -> None:
    first = await publisher.publish("posts:a", {"title": "…"}, tags={"lang": "de"})
    again = await publisher.publish("posts:a", '{"raw":1}', raw=True, idempotency_key="k")
    assert first and again == Position(first.epoch, 2)
    assert await publisher.publish("posts:a", "other", idempotency_key="k") == again
    assert await data_of(publisher, "posts:a") == [(1, '{"title":"…"}'.encode()), (2, b'{"raw":1}')]


@EVERY_VALKEY
async def test_many_publications_arrive_in_order(publisher: Publisher) -> None:
    positions = await publisher.publish_many("review:a", range(500))
    assert [position.offset for position in positions if position] == list(range(1, 501))
    assert await data_of(publisher, "review:a") == [(n + 1, b"%d" % n) for n in range(500)]


def test_a_publisher_is_used_in_the_event_loop_that_it_connected_in(valkey_url: str, prefix: str) -> None:
    """In another one it published, and waited for ever for the reply."""
    publisher = Publisher(valkey_url, prefix=prefix)
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(publisher.connect())
        for call in (publisher.publish("posts:a", 1), publisher.notify("u1", {"id": "n"}), publisher.connect()):
            with pytest.raises(RuntimeError, match="event loop that it connected in"):
                second.run(call)
        first.run(publisher.connect())  # it is connected already
        assert first.run(publisher.publish("posts:a", 1)).offset == 1
        first.run(publisher.close())
        second.run(publisher.connect())
        assert second.run(publisher.publish("posts:a", 2)).offset == 2
        second.run(publisher.close())


async def test_tasks_that_connect_a_publisher_at_once_leave_one_connection(valkey_url: str, prefix: str) -> None:
    """As where each request connects it that finds it unconnected: all but the last were never closed."""
    before = len(asyncio.all_tasks())
    publisher = Publisher(valkey_url, prefix=prefix)
    await asyncio.gather(*(publisher.connect() for _ in range(3)))
    assert (await publisher.publish("posts:a", 1)).offset == 1
    await publisher.close()
    assert len(asyncio.all_tasks()) == before


async def test_a_publisher_that_is_closed_refuses_at_once(valkey_url: str, prefix: str) -> None:
    """It waited ten seconds, and then there was no connection to Valkey."""
    async with Publisher(valkey_url, prefix=prefix) as publisher:
        pass
    with pytest.raises(RuntimeError, match="not connected"):
        await publisher.publish("posts:a", 1)


@EVERY_VALKEY
async def test_versions_that_were_under_way_when_the_connection_broke_are_repeated_in_order(valkey_url: str, prefix: str) -> None:
    """A later one must not be repeated first: the earlier would not be newer then, and be dropped in silence."""
    async with Publisher(valkey_url, prefix=prefix) as publisher, Publisher(valkey_url, prefix=prefix) as killer:
        assert publisher._commands is not None and killer._commands is not None
        shard, other = (each._commands.shard(b"{review:a}") for each in (publisher, killer))
        for round_ in range(3):
            own = await shard.call("CLIENT", "ID")
            first = round_ * 100 + 1
            under_way = [asyncio.ensure_future(publisher.publish("review:a", n, version=n)) for n in range(first, first + 100)]
            await asyncio.sleep(0)
            await other.call("CLIENT", "KILL", "ID", own)
            await asyncio.gather(*under_way)
        assert await data_of(publisher, "review:a") == [(n, b"%d" % n) for n in range(1, 301)]
        assert not shard.queue.waiting and not shard.queue.refused, "nothing is left waiting"


@pytest.mark.parametrize("channel", ["", "a{b}", "x" * 256])
async def test_an_impossible_channel_is_refused_before_it_leaves(publisher: Publisher, channel: str) -> None:
    with pytest.raises(ValueError, match="channel"):
        await publisher.publish(channel, 1)


async def test_data_that_is_no_json_is_refused_before_it_leaves(publisher: Publisher) -> None:
    with pytest.raises(TypeError):
        await publisher.publish("posts:a", object())


@EVERY_VALKEY
async def test_an_ephemeral_publication_is_announced_only(publisher: Publisher, store: Store, prefix: str) -> None:
    with listening(store, f"{prefix}:{{posts:a}}") as announced:
        await publisher.publish_ephemeral("posts:a", {"typing": "u1"})
        payload = announced(PATIENCE)
    assert payload is not None and payload.startswith(b"@0 - ") and payload.endswith(b'{"typing":"u1"}')
    assert await data_of(publisher, "posts:a") == []


@EVERY_VALKEY
def test_the_plain_publisher_is_shared_between_threads(valkey_url: str, prefix: str) -> None:
    with SyncPublisher(valkey_url, prefix=prefix) as publisher:
        offsets: list[int] = []

        def work() -> None:
            for n in range(50):
                position = publisher.publish("posts:a", n)
                assert position is not None
                offsets.append(position.offset)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(offsets) == list(range(1, 201))


@pytest.mark.parametrize("where", ["as it connects", "in the pool"])
def test_a_signal_handler_publishes_whatever_it_interrupted(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    publisher = SyncPublisher(valkey_url, prefix=prefix)
    published: list[Any] = []

    def handle(*_: Any) -> None:
        published.append(publisher.publish("posts:a", "going"))

    class InterruptedPool(list[Any]):
        """The connections that are free. They are taken with the pool's lock held."""

        def pop(self, *at: Any) -> Any:
            if not published:
                signal.raise_signal(signal.SIGUSR1)
            return super().pop(*at)

    def interrupted(*where: Any) -> str:
        if not published:
            published.append(None)
            signal.raise_signal(signal.SIGUSR1)
        return valkey_url

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        if where == "in the pool":
            publisher.publish("posts:b", "first")
            publisher._connection.commands._client.connection_pool._available_connections = InterruptedPool()  # type: ignore[attr-defined]
        else:
            monkeypatch.setattr(plain_connection, "find_url", interrupted)
        position = publisher.publish("posts:a", "interrupted")
    finally:
        signal.signal(signal.SIGUSR1, before)
        publisher.close()
    assert position is not None and position.offset == 2 and published[-1].offset == 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # which Python warns of where there are threads
def test_a_process_that_was_forked_while_a_thread_connected_publishes(
    valkey_url: str, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = SyncPublisher(valkey_url, prefix=prefix)
    connects, goes_on = threading.Event(), threading.Event()

    def slowly(*_: Any) -> str:
        connects.set()
        goes_on.wait()
        return valkey_url

    monkeypatch.setattr(plain_connection, "find_url", slowly)
    thread = threading.Thread(target=publisher.publish, args=("posts:a", 1))
    thread.start()
    connects.wait()
    if not (child := os.fork()):
        signal.alarm(30)  # of a child that waits for ever
        plain_connection.find_url = lambda *_: valkey_url
        os._exit(publisher.publish("posts:a", 2).offset)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    goes_on.set()
    thread.join()
    publisher.close()
    assert ended == 1, "the child published"


@EVERY_VALKEY
async def test_the_plain_publisher_loads_lost_functions_inside_a_loop_too(valkey_url: str, store: Store, prefix: str) -> None:
    store.execute_command("FUNCTION FLUSH")
    with SyncPublisher(valkey_url, prefix=prefix) as publisher:
        position = publisher.publish("posts:a", 1, idempotency_key="k")
        assert position is not None and position.offset == 1


def test_what_valkey_refuses_raises_a_store_error(valkey_url: str, prefix: str) -> None:
    with SyncPublisher(valkey_url, prefix=prefix) as publisher, pytest.raises(StoreError, match="version is a whole number"):
        publisher.publish("posts:a", 1, version=-1)


# What is refused before anything is sent, by both publishers.

DEEP: list[Any] = []
for _ in range(300):
    DEEP = [DEEP]


@dataclass
class Price:
    amount: float


MISTAKES = {
    "channel that is a number": (lambda p: p.publish(17, 1), TypeError, "the channel is a text, not 17"),
    "number of thousands of digits": (
        lambda p: p.publish("posts:a", 1, version=10**5000),
        ValueError,
        "version is a whole number, of at most 64 bits",
    ),
    "empty idempotency key": (lambda p: p.publish("posts:a", 1, idempotency_key=""), ValueError, "idempotency_key is empty"),
    "Raw that is no JSON": (lambda p: p.publish("posts:a", {"a": Raw(b"")}), ValueError, "the data holds a msgspec.Raw that is not JSON"),
    "NaN": (lambda p: p.publish("posts:a", {"a": [1, math.nan]}), ValueError, "the data holds nan, which JSON does not have"),
    "infinity in a dataclass": (lambda p: p.publish("posts:a", Price(-math.inf)), ValueError, "the data holds -inf"),
    "nested too deep": (lambda p: p.publish("posts:a", DEEP), ValueError, "nested too deep"),
    "raw data that is no text": (lambda p: p.publish("posts:a", {}, raw=True), TypeError, "with raw=True the data is JSON text"),
    "raw data that is no JSON": (lambda p: p.publish("posts:a", "NaN", raw=True), ValueError, "which b'NaN' is not"),
    "tags of numbers": (lambda p: p.publish("posts:a", 1, tags={"a": 1}), TypeError, "tags are texts, but 'a': 1 is among them"),
    "tags that are a list": (lambda p: p.publish("posts:a", 1, tags=["a"]), TypeError, "tags is a mapping"),
    "info that is a text": (lambda p: p.publish("posts:a", 1, info="u1"), TypeError, "info is a mapping"),
    "info with NaN": (lambda p: p.publish("posts:a", 1, info={"x": math.nan}), ValueError, "info holds nan"),
    "ttl that is a text": (lambda p: p.publish("posts:a", 1, ttl="5m"), TypeError, "ttl is a whole number of seconds, not '5m'"),
    "ttl that is half": (lambda p: p.publish("posts:a", 1, ttl=0.5), TypeError, "ttl is a whole number of seconds, not 0.5"),
    "size that is a truth": (lambda p: p.publish("posts:a", 1, size=True), TypeError, "size is a whole number of publications"),
    "version that is a text": (lambda p: p.publish("posts:a", 1, version="7"), TypeError, "version is a whole number"),
    "key that is a number": (lambda p: p.publish("posts:a", 1, idempotency_key=17), TypeError, "idempotency_key is a text, not 17"),
    "option that does not exist": (
        lambda p: p.publish("posts:a", 1, key="k"),
        TypeError,
        "no option 'key'; the options are idempotency_key,",
    ),
    "user that is a number": (lambda p: p.notify(17, {"id": "a"}), TypeError, "the user is a text, not 17"),
    "notification that is a text": (lambda p: p.notify("u1", "hello"), ValueError, 'a notification is a JSON object with an "id"'),
    "notification with NaN": (lambda p: p.notify("u1", {"id": "a", "x": math.nan}), ValueError, "the notification holds nan"),
    "notification whose id is a number": (lambda p: p.notify("u1", {"id": 17}), ValueError, '"id", a text'),
    "notification's key that is a number": (lambda p: p.notify("u1", {"id": "a"}, idempotency_key=1), TypeError, "is a text, not 1"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
async def test_a_mistake_is_refused_in_a_sentence_by_both_publishers(publisher: Publisher, valkey_url: str, mistake: str) -> None:
    call, error, words = MISTAKES[mistake]
    for each in (publisher, SyncPublisher(valkey_url)):
        with pytest.raises(error, match=re.escape(words)) as raised:
            result = call(each)
            assert isinstance(each, Publisher), "a thread gets its error at once"
            await result
        assert "\n" not in str(raised.value)


async def test_null_and_numbers_like_any_others_are_published(publisher: Publisher) -> None:
    data = {"none": None, "text": "null and NaN", "number": 1e308, "price": Price(1.5)}
    assert await publisher.publish("posts:a", data)
    ((_, stored),) = await data_of(publisher, "posts:a")
    assert json.loads(stored) == data | {"price": {"amount": 1.5}}


# Without asyncio: when it connects, and how long it waits.


def test_the_plain_publisher_is_made_before_its_server_is_and_finds_it_later(tmp_path: Path) -> None:
    publisher = SyncPublisher(data_dir=tmp_path, patience=0.2)
    SyncPublisher("http://nowhere")
    with pytest.raises(Unavailable, match="no gateway runs on"):
        publisher.publish("posts:a", 1)
    server = EmbeddedServer(tmp_path)
    server.start()

    def published() -> Any:
        with contextlib.suppress(Unavailable):  # a busy machine takes longer than its patience to load the functions
            return publisher.publish("posts:a", 1)

    try:
        wait_until(published, "it finds its server")
    finally:
        publisher.close()
        server.stop()


def once_within(seconds: float, wait: Callable[[], float]) -> bool:
    """Whether one of five attempts took no longer. A busy machine delays some, but cannot hasten any."""
    return any(wait() < seconds for _ in range(5))


def waited(publisher: SyncPublisher, **options: str) -> float:
    """The seconds until a publish fails."""
    began = time.monotonic()
    with pytest.raises(Unavailable):
        publisher.publish("posts:a", 1, **options)
    return time.monotonic() - began


@pytest.mark.parametrize("options", [{}, {"idempotency_key": "k"}], ids=["once", "repeated"])
def test_the_plain_publisher_waits_two_seconds_at_most_for_a_valkey_that_does_not_answer(options: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        publisher = SyncPublisher(f"valkey://127.0.0.1:{silent.getsockname()[1]}")
        assert once_within(2.5, lambda: waited(publisher, **options))


def test_the_plain_publisher_waits_two_seconds_at_most_for_an_embedded_valkey_that_hangs(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(socket_path(tmp_path)))
        silent.listen()
        assert once_within(2.5, lambda: waited(SyncPublisher(data_dir=tmp_path)))


@pytest.mark.parametrize("listens", [False, True], ids=["to its end", "and is silent later"])
def test_the_plain_publisher_uses_its_patience_while_valkey_refuses_connections(listens: bool) -> None:
    def wait() -> float:
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))  # nobody is admitted before it listens
            publisher = SyncPublisher(f"valkey://127.0.0.1:{server.getsockname()[1]}", patience=1.0)
            later = threading.Timer(0.8, server.listen)
            if listens:
                later.start()
            seconds = waited(publisher, idempotency_key="k")
            later.cancel()
            if listens:
                later.join()
            assert seconds > 0.85
            return seconds

    assert once_within(1.45, wait)


def test_the_plain_publisher_uses_its_patience_while_valkey_has_too_few_replicas(own: OwnValkey) -> None:
    """It has none for a moment after each failover."""
    with SyncPublisher(own.url, patience=5.0) as publisher:
        publisher.publish("posts:a", 1)
        own.ask("CONFIG", "SET", "min-replicas-to-write", 1)
        with pytest.raises(Unavailable, match="NOREPLICAS"):
            publisher.publish("posts:a", 2)
        later = threading.Timer(0.2, own.ask, ("CONFIG", "SET", "min-replicas-to-write", 0))
        later.start()
        position = publisher.publish("posts:a", 2, idempotency_key="k")
        later.join()
    assert position is not None and position.offset == 2


@pytest.mark.parametrize("patience", [0, -1, math.nan])
def test_a_plain_publisher_without_patience_is_a_mistake_that_is_named(patience: float) -> None:
    """Valkey could not be reached then, "Operation now in progress"."""
    with pytest.raises(ValueError, match="patience is a number of seconds above 0"):
        SyncPublisher("valkey://localhost", patience=patience)


async def test_a_publisher_uses_its_patience_while_valkey_refuses_connections(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    server.start()
    async with Publisher(server.url, patience=1.0) as publisher:
        await publisher.publish("posts:a", 1)
        server.stop()
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await publisher.publish("posts:a", 2, idempotency_key="k")
        assert 0.9 < time.monotonic() - began < 9, "sooner than after the ten seconds that it has otherwise"
