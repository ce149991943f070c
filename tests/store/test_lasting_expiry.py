"""Publications that follow each other at once share an expiry and what the first of them wrote, and lose neither to other programs."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import valkey

from gateway.config import Config
from gateway.store.history import History
from gateway.store.layout import publish_words

from ..kit.valkeys import opened_history

CONFIG = Config(namespaces={"long": {"history_ttl": 2000, "history_size": 3}, "forever": {"history_ttl": ""}})
FOREVER = -1  # as Valkey answers


class Channel:
    """A channel with one publication, written to by transactions: no time passes between their commands."""

    def __init__(self, store: valkey.Valkey, base: str) -> None:
        self.store = store
        self.meta, self.stream, self.keys = (f"{base}:{part}" for part in ("meta", "stream", "keys"))
        self.together(self.publish())

    def publish(self, *options: object) -> tuple[object, ...]:
        return ("FCALL", "gateway_publish", 3, self.meta, self.stream, self.keys, "1", *options)

    def together(self, *commands: tuple[object, ...]) -> list[Any]:
        with self.store.pipeline(transaction=True) as transaction:
            for command in commands:
                transaction.execute_command(*command)
            return transaction.execute()

    def lives(self) -> list[int]:
        return [self.store.ttl(self.meta), self.store.ttl(self.stream)]


@pytest.fixture
async def history(valkey_url: str, prefix: str) -> Any:
    async with opened_history(valkey_url, prefix, CONFIG) as history:
        yield history


@pytest.fixture
def channel(history: History, store: valkey.Valkey, prefix: str) -> Channel:
    return Channel(store, f"{prefix}:{{long:a}}")


async def test_an_expiry_is_set_again_only_after_a_part_of_it(channel: Channel) -> None:
    channel.together(channel.publish(), ("PERSIST", channel.stream), channel.publish())
    assert channel.store.ttl(channel.stream) == FOREVER
    async with asyncio.timeout(10):
        while channel.store.ttl(channel.stream) == FOREVER:
            channel.together(channel.publish())
            await asyncio.sleep(0.1)
    assert 1990 < channel.store.ttl(channel.stream) <= 2000


@pytest.mark.parametrize("options", [(), ("tags", '{"a":"b"}'), ("size", "-1")])
async def test_a_stream_that_another_program_deleted_in_between_expires(channel: Channel, options: tuple[str, ...]) -> None:
    (first, *_), _, (offset, *_) = channel.together(channel.publish(), ("DEL", channel.stream), channel.publish(*options))
    assert offset == first + 1
    assert [id.partition(b"-")[0] for id, _ in channel.store.xrange(channel.stream)] == [b"%d" % offset]
    assert 1990 < channel.store.ttl(channel.stream) <= 2000


async def test_a_ttl_of_its_own_is_set_at_once_and_so_is_the_rules_after_it(channel: Channel) -> None:
    channel.together(channel.publish(), channel.publish("ttl", 60))
    assert 50 < channel.store.ttl(channel.stream) <= 60
    channel.together(channel.publish("ttl", 60), channel.publish("ttl", -1))
    assert channel.lives() == [FOREVER, FOREVER]
    channel.together(channel.publish("ttl", -1), channel.publish())
    assert FOREVER not in channel.lives()
    assert 1990 < channel.store.ttl(channel.stream) <= 2000


async def test_the_counter_that_an_announcement_made_live_for_ever_expires_again(channel: Channel) -> None:
    channel.together(channel.publish(), channel.publish("ttl", 0, "version", 1), channel.publish())
    assert FOREVER not in channel.lives()


async def test_a_version_of_what_is_only_announced_is_remembered_as_long_as_the_rules_say(
    history: History, store: valkey.Valkey, prefix: str
) -> None:
    """A channel for each client that types is no hash for ever; and a counter that lives longer is left alone."""
    await history.publish("long:typing", publish_words(b"1", ttl=0, version=1))
    await history.publish("forever:typing", publish_words(b"1", ttl=0, version=1))
    await history.publish("long:own", publish_words(b"1", ttl=40 * 86400))
    await history.publish("long:own", publish_words(b"1", ttl=0, version=1))
    assert 29 * 86400 < store.ttl(f"{prefix}:{{long:typing}}:meta") <= 30 * 86400
    assert store.ttl(f"{prefix}:{{forever:typing}}:meta") == FOREVER
    assert store.ttl(f"{prefix}:{{long:own}}:meta") > 39 * 86400
    assert await history.publish("long:typing", publish_words(b"1", ttl=0, version=1)) is None


async def test_a_version_of_what_is_only_announced_is_remembered_as_long_where_the_channel_is_followed(
    history: History, store: valkey.Valkey, prefix: str
) -> None:
    """A gateway compares its position with Valkey each minute, and makes the counter live on. It lived for an hour from then on."""
    for name in "long:followed", "forever:followed":
        await history.publish(name, publish_words(b"1", ttl=0, version=1))
        top = (await history.read(name)).top
        await history.read(name, seen=(top, 0))
    assert store.ttl(f"{prefix}:{{long:followed}}:meta") > 29 * 86400
    assert store.ttl(f"{prefix}:{{forever:followed}}:meta") == FOREVER
    unused = (await history.read("long:unused")).top
    store.expire(f"{prefix}:{{long:unused}}:meta", 60)
    await history.read("long:unused", seen=(unused, 0))
    assert store.ttl(f"{prefix}:{{long:unused}}:meta") > 3590


async def test_the_counter_that_a_reader_made_live_for_ever_expires_again(history: History, store: valkey.Valkey, prefix: str) -> None:
    channel = Channel(store, f"{prefix}:{{forever:a}}")
    read = ("FCALL", "gateway_history", 3, channel.meta, channel.stream, channel.keys, 0, 0, 0, "", store.hget(channel.meta, "epoch"), 0, 0)
    own = channel.publish("ttl", 2000)
    channel.together(own, ("EXPIRE", channel.meta, 60), read, own)  # an expiry that is near is what a reader puts off
    assert FOREVER not in channel.lives()


async def test_a_history_that_never_expires_is_made_so_where_its_stream_is_new(history: History, store: valkey.Valkey, prefix: str) -> None:
    channel = Channel(store, f"{prefix}:{{forever:a}}")
    channel.together(channel.publish(), ("EXPIRE", channel.stream, 60), channel.publish("ttl", 60), channel.publish())
    assert channel.lives() == [FOREVER, FOREVER]


async def test_a_position_that_another_program_wrote_in_between_counts(channel: Channel) -> None:
    answers = channel.together(channel.publish(), ("HSET", channel.meta, "offset", "41"), channel.publish())
    assert answers[-1][0] == 42
    answers = channel.together(channel.publish(), ("HSET", channel.meta, "epoch", "another"), channel.publish())
    assert answers[-1] == [44, b"another"]


async def test_a_counter_that_another_program_wrote_anew_in_between_expires(channel: Channel) -> None:
    written = ("HSET", channel.meta, "epoch", "another", "offset", "41", "ms", "1")
    answers = channel.together(channel.publish(), ("DEL", channel.meta), written, channel.publish())
    assert answers[-1] == [42, b"another"]
    assert FOREVER not in channel.lives()


async def test_a_counter_that_another_program_deleted_in_between_begins_anew_and_expires(channel: Channel) -> None:
    answers = channel.together(channel.publish(), ("DEL", channel.meta), channel.publish())
    assert answers[-1][0] == 1 and answers[-1][1] != answers[0][1]
    assert FOREVER not in channel.lives()
    assert channel.store.xlen(channel.stream) == 1


async def test_a_stream_that_is_ahead_begins_anew_and_expires(channel: Channel) -> None:
    answers = channel.together(channel.publish(), ("XADD", channel.stream, "99-1", "data", "1"), channel.publish())
    assert answers[-1][0] == 1
    assert FOREVER not in channel.lives()
