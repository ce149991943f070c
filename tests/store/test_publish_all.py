"""``gateway_publish_all`` and ``gateway_publish_each`` do what calls of ``gateway_publish`` one after another do, whatever is among them."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest
import valkey
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import Config
from gateway.store.history import History

from ..kit.valkeys import opened_history

NAMESPACES = {"one": 1, "three": 3, "all": -1, "none": 0}
CONFIG = Config(
    namespaces={name: {"history_size": size} for name, size in NAMESPACES.items()}
    | {"brief": {"history_size": 5, "history_ttl": 1}, "named": {"index": True}}
)

keys = st.sampled_from(["", "a", "b"])
versions = st.sampled_from(["", "1", "2", "10", "minus one"])
tags = st.sampled_from(["", '{"a":"b"}', "no tags"])
publications = st.builds(
    lambda data, key, version, tags: [
        data,
        *(word for name, value in (("key", key), ("version", version), ("tags", tags)) if value for word in (name, value)),
    ],
    st.sampled_from(["1", '{"n":2}', ""]),
    keys,
    versions,
    tags,
)


@pytest.fixture
async def history(valkey_url: str, prefix: str) -> Any:
    async with opened_history(valkey_url, prefix, CONFIG) as history:
        yield history


def words_of(run: list[list[str]]) -> list[str | int]:
    return [word for words in run for word in (len(words), *words)]


def outcomes(answers: list[Any]) -> list[Any]:
    """Offsets, and the texts of errors."""
    return [answer[0] if isinstance(answer, list) else answer.decode() for answer in answers]


class Channel:
    """A new channel of a namespace, written to by functions; its announcements are kept."""

    def __init__(self, store: valkey.Valkey, prefix: str, namespace: str) -> None:
        self.store = store
        self.base = f"{prefix}:{{{namespace}:{secrets.token_hex(4)}}}"
        self.keys = [f"{self.base}:{part}" for part in ("meta", "stream", "keys")]
        self.announced = store.pubsub(ignore_subscribe_messages=True)
        self.announced.subscribe(self.base)
        self.announced.get_message(timeout=1)

    def singly(self, run: list[list[str]]) -> list[Any]:
        answers: list[Any] = []
        for words in run:
            try:
                answers.append(self.store.fcall("gateway_publish", 3, *self.keys, *words)[0])
            except valkey.ResponseError as error:
                answers.append(str(error).partition(" script:")[0])
        return answers

    def at_once(self, run: list[list[str]]) -> list[Any]:
        return outcomes(self.store.fcall("gateway_publish_all", 3, *self.keys, *words_of(run)))

    def state(self) -> dict[str, Any]:
        """All that there is but epochs and times."""
        meta = {name.decode(): value.decode() for name, value in self.store.hgetall(self.keys[0]).items()}
        stream = [(int(id.partition(b"-")[0]), fields) for id, fields in self.store.xrange(self.keys[1])]
        first, _, more = meta.pop("trimmed", "0-").partition("-")
        known = range(int(first), int(first) + len(more.split()))
        seen = self.store.zrange(self.keys[2], 0, -1, withscores=True)
        return {
            "meta": {name: value for name, value in meta.items() if name not in ("epoch", "ms")},
            "stream": stream,
            "the last that is gone has a time": (stream[0][0] if stream else int(meta.get("offset", 0)) + 1) - 1 in known,
            "keys": {(key, score if score > 0 else "announced") for key, score in seen},
            "lives": [self.store.ttl(key) for key in self.keys],
            "announced": list(self.heard()),
        }

    def heard(self) -> Any:
        while message := self.announced.get_message(timeout=0.02):
            head, _, data = message["data"].partition(b"\n")
            yield head.split(b" ")[0], head.split(b" ")[3:], data

    def close(self) -> None:
        self.announced.close()


@settings(max_examples=60)
@given(
    namespace=st.sampled_from(sorted(NAMESPACES)),
    runs=st.lists(st.lists(publications, min_size=1, max_size=8), min_size=1, max_size=4),
)
async def test_it_is_as_one_after_another(
    history: History, store: valkey.Valkey, prefix: str, namespace: str, runs: list[list[list[str]]]
) -> None:
    singles, all_at_once = Channel(store, prefix, namespace), Channel(store, prefix, namespace)
    try:
        for run in runs:
            assert all_at_once.at_once(run) == singles.singly(run)
        mine, theirs = all_at_once.state(), singles.state()
        lives = zip(mine.pop("lives"), theirs.pop("lives"), strict=True)
        assert all(abs(one - other) <= 1 for one, other in lives)
        assert mine == theirs
    finally:
        singles.close()
        all_at_once.close()


@settings(max_examples=40)
@given(run=st.lists(st.tuples(st.integers(0, 3), publications), min_size=1, max_size=12))
async def test_each_to_its_channel_is_as_one_after_another(
    history: History, store: valkey.Valkey, prefix: str, run: list[tuple[int, list[str]]]
) -> None:
    singles, together = ([Channel(store, prefix, namespace) for namespace in NAMESPACES] for _ in range(2))
    try:
        expected = [singles[number].singly([words])[0] for number, words in run]
        keys = [key for number, _ in run for key in together[number].keys]
        assert outcomes(store.fcall("gateway_publish_each", len(keys), *keys, *words_of([words for _, words in run]))) == expected
        for mine, theirs in zip(together, singles, strict=True):
            one, other = mine.state(), theirs.state()
            assert all(abs(a - b) <= 1 for a, b in zip(one.pop("lives"), other.pop("lives"), strict=True))
            assert one == other
    finally:
        for channel in (*singles, *together):
            channel.close()


async def test_channels_that_are_published_to_together_are_in_the_index(history: History, store: valkey.Valkey, prefix: str) -> None:
    """Another program, which writes no index, was there first: so the answers do not show that the names are missing."""
    channels = ["named:a", "named:b"]
    for channel in channels:
        store.fcall("gateway_publish", 3, *history.layout.keys(channel), "1")
    answered = asyncio.get_running_loop().create_future()
    history.begin_publish_each(answered, [(channel, [b"2"]) for channel in channels])
    assert [offset for offset, _ in await answered] == [2, 2]
    assert set(store.smembers(history.layout.index("named"))) == {b"named:a", b"named:b"}


async def test_each_takes_the_keys_of_its_channel(history: History, store: valkey.Valkey, prefix: str) -> None:
    channel, other = Channel(store, prefix, "three"), Channel(store, prefix, "three")
    try:
        with pytest.raises(valkey.ResponseError, match="takes the three keys"):
            store.fcall("gateway_publish_each", 3, *channel.keys, *words_of([["1"], ["2"]]))
        mixed = [*channel.keys, *channel.keys[:2], other.keys[2]]
        fine, refused = store.fcall("gateway_publish_each", 6, *mixed, *words_of([["1"], ["2"]]))
        assert fine[0] == 1 and b"keys" in refused
    finally:
        channel.close()
        other.close()


async def test_what_history_lets_go_next_has_times_that_are_few_enough_for_a_small_hash(
    history: History, store: valkey.Valkey, prefix: str
) -> None:
    channel = Channel(store, prefix, "three")
    try:
        for number in range(40):
            channel.singly([[str(number)]])
            if number > 3:
                assert channel.state()["the last that is gone has a time"]
            assert store.object("encoding", channel.keys[0]) == b"listpack"
    finally:
        channel.close()


async def test_a_stream_that_is_ahead_begins_a_new_life_in_the_middle_of_a_run(history: History, store: valkey.Valkey, prefix: str) -> None:
    channel = Channel(store, prefix, "three")
    try:
        channel.at_once([["1"], ["2"]])
        store.xadd(channel.keys[1], {"data": "x"}, id="100-1")
        assert channel.at_once([["3"], ["4"]]) == [1, 2]
        state = channel.state()
        assert [offset for offset, _ in state["stream"]] == [1, 2]
        assert store.hmget(channel.keys[0], "trimmed", "offset") == [None, b"2"]
    finally:
        channel.close()


async def test_a_version_from_before_a_new_life_drops_nothing_as_where_they_come_one_after_another(
    history: History, store: valkey.Valkey, prefix: str
) -> None:
    versioned = [["1", "version", "5"], ["2", "version", "6"]]
    singles, all_at_once = Channel(store, prefix, "three"), Channel(store, prefix, "three")
    try:
        for channel, publish in ((singles, singles.singly), (all_at_once, all_at_once.at_once)):
            publish(versioned)
            store.hdel(channel.keys[0], "epoch")  # as another program may
            assert publish(versioned) == [1, 2]
    finally:
        singles.close()
        all_at_once.close()


async def test_what_expired_before_a_run_is_the_newest_that_history_let_go(history: History, store: valkey.Valkey, prefix: str) -> None:
    channel = Channel(store, prefix, "brief")
    try:
        channel.at_once([["1"], ["2"]])
        store.delete(channel.keys[1])
        store.hset(channel.keys[0], "ms", int(store.hget(channel.keys[0], "ms")) - 5000)
        assert channel.at_once([["3"], ["4"]]) == [3, 4]
        assert store.hget(channel.keys[0], "trimmed").startswith(b"2-")
        assert channel.at_once([[str(n)] for n in range(8)]) == list(range(5, 13))
        assert store.hget(channel.keys[0], "trimmed").startswith(b"7-"), "five remain of twelve"
    finally:
        channel.close()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([1, "1", "generation", "other"], "GENERATION"),
        ([0], "after each COUNT"),
        ([2, "1"], "after each COUNT"),
        (["x", "1"], "after each COUNT"),
    ],
)
async def test_what_it_refuses_as_a_whole(history: History, store: valkey.Valkey, prefix: str, words: list[Any], reason: str) -> None:
    channel = Channel(store, prefix, "three")
    try:
        with pytest.raises(valkey.ResponseError, match=reason):
            store.fcall("gateway_publish_all", 3, *channel.keys, *words)
        assert not store.exists(*channel.keys)
        (answer,) = channel.at_once([["1", "size", "3"]])
        assert "for gateway_publish" in answer, "a size of its own is refused alone"
    finally:
        channel.close()
