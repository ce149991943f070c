"""Publishers, with and without asyncio, on a real Valkey whose connections break."""

from __future__ import annotations

import asyncio
import threading

import pytest
import valkey

from gateway.errors import StoreError, Unavailable
from gateway.publication import Position
from publishers import Publisher, SyncPublisher

from ..kit.waiting import until


async def data_of(publisher: Publisher, channel: str) -> list[tuple[int, bytes]]:
    return [(p.offset, p.data) for p in (await publisher.history.read(channel, 0, -1)).publications]


async def test_a_publish_is_acknowledged_with_its_position(publisher: Publisher) -> None:
    first = await publisher.publish("posts:a", {"title": "…"}, tags={"lang": "de"})
    again = await publisher.publish("posts:a", '{"raw":1}', raw=True, idempotency_key="k")
    assert first and again == Position(first.epoch, 2)
    assert await publisher.publish("posts:a", "other", idempotency_key="k") == again
    assert await data_of(publisher, "posts:a") == [(1, '{"title":"…"}'.encode()), (2, b'{"raw":1}')]


async def test_many_publications_arrive_in_order(publisher: Publisher) -> None:
    positions = await publisher.publish_many("review:a", range(500))
    assert [position.offset for position in positions if position] == list(range(1, 501))
    assert await data_of(publisher, "review:a") == [(n + 1, b"%d" % n) for n in range(500)]


async def test_versions_that_were_under_way_when_the_connection_broke_are_repeated_in_order(valkey_url: str, prefix: str) -> None:
    """A later one must not be repeated first: the earlier would not be newer then, and be dropped in silence."""
    async with Publisher(valkey_url, prefix=prefix) as publisher, Publisher(valkey_url, prefix=prefix) as killer:
        assert publisher._commands is not None and killer._commands is not None
        for round_ in range(3):
            own = await publisher._commands.call("CLIENT", "ID")
            first = round_ * 100 + 1
            under_way = [asyncio.ensure_future(publisher.publish("review:a", n, version=n)) for n in range(first, first + 100)]
            await asyncio.sleep(0)
            await killer._commands.call("CLIENT", "KILL", "ID", own)
            await asyncio.gather(*under_way)
        assert await data_of(publisher, "review:a") == [(n, b"%d" % n) for n in range(1, 301)]
        assert not publisher._commands._queue and not publisher._commands._refused, "nothing is left waiting"


async def test_a_publisher_that_reaches_no_valkey_raises_unavailable(valkey_url: str, unused_tcp_port: int) -> None:
    with pytest.raises(Unavailable, match="no Valkey at"):
        await Publisher(f"valkey://127.0.0.1:{unused_tcp_port}").connect()


@pytest.mark.parametrize("channel", ["", "a{b}", "x" * 256])
async def test_an_impossible_channel_is_refused_before_it_leaves(publisher: Publisher, channel: str) -> None:
    with pytest.raises(ValueError, match="channel"):
        await publisher.publish(channel, 1)


async def test_data_that_is_no_json_is_refused_before_it_leaves(publisher: Publisher) -> None:
    with pytest.raises(TypeError):
        await publisher.publish("posts:a", object())


async def test_an_ephemeral_publication_is_announced_only(publisher: Publisher, store: valkey.Valkey, prefix: str) -> None:
    announced: list[bytes] = []
    pubsub = store.pubsub()
    pubsub.subscribe(f"{prefix}:{{posts:a}}")
    await publisher.publish_ephemeral("posts:a", {"typing": "u1"})

    def receive() -> bool:
        message = pubsub.get_message()
        if message is not None and message["type"] == "message":
            announced.append(message["data"])
        return bool(announced)

    await until(receive, "it is announced")
    assert announced[0].startswith(b"@0 - ") and announced[0].endswith(b'{"typing":"u1"}')
    assert await data_of(publisher, "posts:a") == []
    pubsub.close()


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


async def test_the_plain_publisher_loads_the_functions_where_valkey_lost_them_inside_a_loop_too(
    valkey_url: str, store: valkey.Valkey, prefix: str
) -> None:
    store.execute_command("FUNCTION", "FLUSH")
    with SyncPublisher(valkey_url, prefix=prefix) as publisher:
        position = publisher.publish("posts:a", 1, idempotency_key="k")
        assert position is not None and position.offset == 1


def test_what_valkey_refuses_raises_a_store_error(valkey_url: str, prefix: str) -> None:
    with SyncPublisher(valkey_url, prefix=prefix) as publisher, pytest.raises(StoreError, match="version is a whole number"):
        publisher.publish("posts:a", 1, version=-1)
