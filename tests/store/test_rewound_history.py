"""A Valkey that comes back older than a gateway knew it, and counts on from there: the gateway must notice, always.

The naive model: a gateway saw ``SEEN`` publications; the last ``lost`` of them are gone, ``new`` others took their offsets
and more. Whatever ``history_size`` trims, the gateway must learn of the loss by a new epoch or by a hole after its position,
and where nothing was lost it must get what history holds, in the same epoch.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import valkey

from gateway.config import Config
from gateway.store.history import History, Page
from gateway.store.layout import publish_words
from gateway.store.library import BUILT_IN_RULES, VERSION, Library

from ..kit.topologies import everywhere
from ..kit.valkeys import opened_history
from ..kit.waiting import until

SIZES = (1, 2, 3, 10, -1)
NAMESPACES = {"brief": {"history_ttl": 1}, "brief3": {"history_ttl": 1, "history_size": 3}}
CONFIG = Config(namespaces={f"size{size}": {"history_size": size} for size in (*SIZES, 128, 129)} | NAMESPACES)
PARTS = ("meta", "stream")


@pytest.fixture
async def history(valkey_url: str, prefix: str) -> AsyncIterator[History]:
    async with opened_history(valkey_url, prefix, CONFIG) as history:
        yield history


async def publish(history: History, channel: str, count: int) -> None:
    for _ in range(count):
        await history.publish(channel, publish_words(b"1"))


async def come_back_older(history: History, store: valkey.Valkey, channel: str, kept: int, lost: int, new: int) -> tuple[Page, Page]:
    """What the gateway saw before the loss, and what it reads after it."""
    base = history.layout.channel(channel).decode()
    await publish(history, channel, kept)
    for part in PARTS:
        store.copy(f"{base}:{part}", f"{base}:{part}:saved", replace=True)
    await publish(history, channel, lost)
    seen = await history.read(channel)
    time_of_loss = store.time()
    while store.time()[1] // 1000 == time_of_loss[1] // 1000:  # no two servers write at once: the new life begins later
        continue
    if lost:
        for part in PARTS:
            store.copy(f"{base}:{part}:saved", f"{base}:{part}", replace=True)
    await publish(history, channel, new)
    return seen, await history.read(channel, seen.top.offset, 256, seen=(seen.top, seen.ms))


@pytest.mark.parametrize("size", SIZES)
async def test_a_loss_is_a_new_epoch_or_a_hole_and_nothing_else_is(history: History, store: valkey.Valkey, size: int) -> None:
    longest = 12 if size < 0 else size + 2
    for lost in (0, 1, 2, 5) if longest > 5 else range(longest):
        for new in range(lost + longest + 2):
            channel = f"size{size}:{lost}-{new}"
            seen, page = await come_back_older(history, store, channel, longest + 1, lost, new)
            offsets = [publication.offset for publication in page.publications]
            whole = offsets == list(range(seen.top.offset + 1, page.top.offset + 1))
            same = page.top.epoch == seen.top.epoch
            if lost:
                assert not same or not whole, f"lost {lost}, new {new}: nothing shows that publications were skipped"
            else:
                assert same, f"nothing was lost, new {new}: the epoch was renewed without a reason"
                assert whole == (size < 0 or new <= size), f"new {new}: {offsets}"


async def test_where_an_older_library_trimmed_nothing_can_be_verified_so_the_epoch_is_renewed(
    history: History, store: valkey.Valkey, prefix: str
) -> None:
    await publish(history, "size1:a", 1)
    seen = await history.read("size1:a")
    await publish(history, "size1:a", 1)
    store.hdel(f"{prefix}:{{size1:a}}:meta", "trimmed")
    assert (await history.read("size1:a", 1, 10, seen=(seen.top, seen.ms))).top.epoch != seen.top.epoch


async def test_a_restored_history_proves_its_positions_too(history: History, store: valkey.Valkey) -> None:
    await history.restore("size3:a", "x", 4, [(100 * n, "1") for n in range(1, 5)])
    page = await history.read("size3:a", 1, -1)
    first = page.publications[0]
    assert first.offset == 2, "the oldest is trimmed"
    unchanged = await history.read("size3:a", 1, -1, seen=(page.top._replace(offset=1), 100))
    assert unchanged.top == page.top, "the time of the trimmed one is kept"
    other = await history.read("size3:a", 1, -1, seen=(page.top._replace(offset=1), 101))
    assert other.top.epoch != page.top.epoch


@pytest.mark.parametrize("channel", ["size3:removed", "brief:expired"])
async def test_removed_and_expired_history_proves_its_positions_too(history: History, store: valkey.Valkey, channel: str) -> None:
    await publish(history, channel, 2)
    seen = await history.read(channel)
    if channel == "size3:removed":
        await history.remove(channel)
    else:
        await until(lambda: not store.exists(history.layout.keys(channel)[1]), "the history expires")
    await publish(history, channel, 2)
    page = await history.read(channel, 2, 10, seen=(seen.top, seen.ms))
    assert page.top == seen.top._replace(offset=4) and [p.offset for p in page.publications] == [3, 4]


async def test_a_long_history_that_is_removed_proves_its_position_too(history: History) -> None:
    for count in range(9, 28):  # the ids of what history lets go are written ahead: each place in that
        channel = f"size10:{count}"
        await publish(history, channel, count)
        seen = await history.read(channel)
        await history.remove(channel)
        for new in range(1, 12):
            await publish(history, channel, 1)
            page = await history.read(channel, count, 256, seen=(seen.top, seen.ms))
            assert page.top == seen.top._replace(offset=count + new)
            assert [p.offset for p in page.publications] == list(range(count + 1 + max(new - 10, 0), count + 1 + new))


@pytest.mark.parametrize("count", [17, 18])
async def test_a_history_that_another_primary_removed_proves_its_position_too(history: History, count: int) -> None:
    """Each of two primaries, which take turns, knows what its own functions did: they are two copies of them in one server here."""
    await everywhere(history.commands, b"FUNCTION", b"LOAD", Library(None, "").source({"": BUILT_IN_RULES}).replace("gateway_", "another_"))
    try:
        await publish(history, f"size10:{count}", count)
        seen = await history.read(f"size10:{count}")
        await history.call(b"another_remove", history.layout.keys(f"size10:{count}"))
        for new in range(1, 4):
            await publish(history, f"size10:{count}", 1)
            page = await history.read(f"size10:{count}", count, 256, seen=(seen.top, seen.ms))
            assert page.top == seen.top._replace(offset=count + new)
    finally:
        await everywhere(history.commands, b"FUNCTION", b"DELETE", f"another_{VERSION}")


@pytest.mark.parametrize("size", [10, 128, 129])
async def test_the_newest_publication_that_history_let_go_is_proven_each_time(history: History, size: int) -> None:
    channel, seen = f"size{size}:a", list[Page]()
    while len(seen) < 2 * size + 60:
        if len(seen) in (20, 2 * size + 20):
            await history.call(b"gateway_publish_all", history.layout.keys(channel), *[1, b"1"] * 3)
        else:
            await publish(history, channel, 1)
        newest = await history.read(channel)
        for offset in range(len(seen) + 1, newest.top.offset + 1):  # those of one call are of one time
            seen.append(newest._replace(top=newest.top._replace(offset=offset)))
        if len(seen) > size:
            gone = seen[-size - 1]
            page = await history.read(channel, gone.top.offset, 1, seen=(gone.top, gone.ms))
            assert page.top == newest.top


@pytest.mark.parametrize("at_once", [False, True])
async def test_a_history_that_expired_by_the_ttl_of_its_last_publication_proves_its_positions_too(
    history: History, store: valkey.Valkey, at_once: bool
) -> None:
    channel, keys = "size10:own", history.layout.keys("size10:own")
    meta, stream, _ = keys
    await history.publish(channel, publish_words(b"1", ttl=1))
    seen = await history.read(channel)
    store.pexpire(stream, 1)
    await until(lambda: not store.exists(stream), "the history expires")
    age(store, meta, 1000)
    seen = seen._replace(ms=seen.ms - 1000)
    await (history.call(b"gateway_publish_all", keys, 1, b"2") if at_once else history.publish(channel, publish_words(b"2")))
    page = await history.read(channel, 1, 10, seen=(seen.top, seen.ms))
    assert page.top == seen.top._replace(offset=2) and [p.offset for p in page.publications] == [2]


async def test_a_history_that_lives_on_by_the_ttl_of_its_last_publication_proves_its_positions_too(
    history: History, store: valkey.Valkey
) -> None:
    for _ in range(2):
        await history.publish("brief3:own", publish_words(b"1", ttl=60))
    seen = await history.read("brief3:own")
    await history.publish("brief3:own", publish_words(b"1", ttl=60))
    await history.publish("brief3:own", publish_words(b"1", ttl=60))
    age(store, history.layout.keys("brief3:own")[0], 1000)  # which is the ttl of the rules
    await history.publish("brief3:own", publish_words(b"1", ttl=60))
    page = await history.read("brief3:own", 2, 10, seen=(seen.top, seen.ms))
    assert page.top == seen.top._replace(offset=5) and [p.offset for p in page.publications] == [3, 4, 5]


async def test_two_lives_that_begin_in_one_transaction_have_two_epochs(history: History, store: valkey.Valkey) -> None:
    """Its time stands still: the publications of both had the same position, and gateways took the second for a repeat."""
    keys = history.layout.keys("size10:twice")
    with store.pipeline() as transaction:
        for _ in range(2):
            transaction.delete(*keys)
            transaction.fcall("gateway_publish", 3, *keys, "1")
        _, first, _, second = transaction.execute()
    assert first != second


def age(store: valkey.Valkey, meta: str, ms: int) -> None:
    """The newest publication was made so much earlier."""
    time, *known = store.hget(meta, "ms").split()
    store.hset(meta, "ms", b" ".join([b"%d" % (int(time) - ms), *known]))
