"""The rules of bridges: what an entry becomes, and which configurations cannot work."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bridging import slot_tag
from gateway.config import Config, examine
from gateway.rules.json_text import is_json
from gateway.work.mapping import Entry, Mapped, Mapping, Unpublishable
from gateway.work.source import failure

from ..kit.programs import forked
from ..kit.valkeys import opened_history


def _mapping(**rules: Any) -> Mapping:
    config = Config(bridges=[{"list": "a", **rules}])  # type: ignore[list-item]  # pydantic reads plain objects
    return Mapping(config.bridges[0], config.rules)


@pytest.mark.parametrize(
    "rules, content, channel, data, key",
    [
        ({"channel": "posts:a"}, b'{"a":\n 1}', "posts:a", b'{"a":  1}', ""),
        ({"channel": "posts:a"}, b"plain \xc3\xa9", "posts:a", '"plain é"'.encode(), ""),
        ({"channel": "posts:a"}, b"", "posts:a", b'""', ""),
        ({"channel": "posts:{a.b}-{c}", "key": "k{c}"}, b'{"a": {"b": "x"}, "c": 2}', "posts:x-2", b'{"a": {"b": "x"}, "c": 2}', "k2"),
        ({"channel": "posts:{items.1.id}"}, b'{"items": [0, {"id": 9}]}', "posts:9", b'{"items": [0, {"id": 9}]}', ""),
        ({"channel": "{to}"}, b'{"to": "notifications:u1", "id": "n"}', "notifications:u1", b'{"to": "notifications:u1", "id": "n"}', ""),
        ({"channel": "posts:a"}, b'"\\ud83d"', "posts:a", b'"\\ufffd"', ""),
    ],
)
def test_an_entry_becomes_a_publication(rules: dict[str, str], content: bytes, channel: str, data: bytes, key: str) -> None:
    assert _mapping(**rules).publication(Entry("1", content)) == Mapped(channel, data, key, channel.startswith("notifications:"))


@pytest.mark.parametrize(
    "content, data",
    [
        ([b"a", b"1", b"b", b"x"], {"a": "1", "b": "x"}),
        ([b"data", b'{"a": 1}'], {"a": 1}),
        ([b"data", b"text"], "text"),
        ([b"data", b"1", b"more", b"2"], {"data": "1", "more": "2"}),
        ([b"a", b"1", b"a", b"2"], "it has a field twice"),
        ([b"a", b"\xff"], "it is not UTF-8"),
    ],
)
def test_fields_of_a_streams_entry_become_an_object_unless_the_only_one_is_data(content: list[bytes], data: object) -> None:
    entry = Entry("1", content)
    if isinstance(data, str) and data.startswith("it "):
        with pytest.raises(Unpublishable, match=data):
            _mapping(channel="posts:a").publication(entry)
    else:
        assert json.loads(_mapping(channel="posts:a").publication(entry).data) == data


STRANGE = [
    _mapping(**rules)
    for rules in ({"channel": "posts:a"}, {"channel": "posts:{a}", "key": "{b}"}, {"channel": "posts:a", "json_only": True})
]


@given(st.binary(max_size=200) | st.lists(st.binary(max_size=20), max_size=6).map(lambda words: words * 2))
def test_whatever_an_entry_holds_it_is_published_as_json_or_recorded_with_a_reason(content: bytes | list[bytes]) -> None:
    for mapping in STRANGE:
        try:
            mapped = mapping.publication(Entry("1", content))
        except Unpublishable as error:
            record = json.loads(failure(Entry("1", content), "events", str(error)))
            assert record["reason"] and record.keys() == {"at", "source", "id", "reason", "entry"}
        else:
            assert is_json(mapped.data) and b"\n" not in mapped.data


def test_the_star_of_a_pattern_names_the_channel() -> None:
    config = Config(bridges=[{"pattern": "news.*.eu", "channel": "posts:{*}"}])  # type: ignore[list-item]
    mapping = Mapping(config.bridges[0], config.rules)
    assert mapping.publication(Entry("1", b"no JSON", star="sport")).channel == "posts:sport"


@pytest.mark.parametrize(
    "key, tag", [("events", "events"), ("a{b}c", "b"), ("a{b", "a{b"), ("{}a", ""), ("a}b", ""), ("{{a}}", "{a"), ("{a}{b}", "a")]
)
def test_keys_of_a_bridge_are_in_the_slot_of_its_source(key: str, tag: str) -> None:
    assert slot_tag(key) == tag


IMPOSSIBLE = {
    "no source": ('channel = "posts:a"', "bridges.0: exactly one of pubsub, pattern, list, stream names what is bridged; here it is none"),
    "two sources": ('list = "a"\nstream = "b"\nchannel = "posts:a"', "here it is list and stream"),
    "no channel": ('list = "a"', "bridges.0.channel: Field required"),
    "an unknown key": ('list = "a"\nchanel = "posts:a"\nchannel = "posts:a"', "'bridges.0.chanel'; did you mean 'bridges.0.channel'?"),
    "half a field": ('list = "a"\nchannel = "posts:{a"', "bridges.0.channel: 'posts:{a' has a brace without its partner"),
    "an impossible channel": ('list = "a"\nchannel = "posts:\\n"', "bridges.0.channel: the channel's name holds a brace, a control"),
    "an unknown namespace": ('list = "a"\nchannel = "nothing:{a}"', "bridges.0.channel: there is no namespace 'nothing'"),
    "take from a stream": ('stream = "a"\ntake = "left"\nchannel = "posts:a"', "bridges.0: take is for bridges from a list"),
    "start of a list": ('list = "a"\nstart = "new"\nchannel = "posts:a"', "bridges.0: start is for bridges from a stream"),
    "the star of a list": ('list = "a"\nchannel = "posts:{*}"', "bridges.0: {*} is what the star of a pattern matched"),
    "one star of two": ('pattern = "a*b*"\nchannel = "posts:{*}"', "bridges.0: {*} is what the star of a pattern matched"),
    "a stray brace": ('list = "a}b"\nchannel = "posts:a"', "bridges.0.list: 'a}b' holds a brace that marks no hash slot"),
    "its own channel": (
        'pubsub = "gw:{posts:a}"\nchannel = "posts:a"',
        "bridges.0.pubsub: 'gw:{posts:a}' is written by the gateway itself",
    ),
    "its own stream": ('stream = "gw:{posts:a}:stream"\nchannel = "posts:b"', "so the bridge would be a loop"),
    "a pattern for its own channels": ('pattern = "gw:*"\nchannel = "posts:a"', "bridges.0.pattern: 'gw:*' is written by the gateway"),
    "changes of keys": ('pattern = "__keyspace@0__:*"\nchannel = "posts:a"', "announces changes of keys, which the bridge makes itself"),
    "its own failures": ('list = "a"\nfailed = "a"\nchannel = "posts:a"', "bridges.0.failed: 'a' is the source of a bridge"),
    "one list twice": (
        'list = "a"\nchannel = "posts:a"\n[[bridges]]\nname = "b"\nlist = "a"\nchannel = "posts:b"',
        "take from the same list",
    ),
    "one name twice": (
        'stream = "a"\nchannel = "posts:a"\n[[bridges]]\nstream = "a"\nchannel = "posts:b"',
        "bridges.1.name: another bridge",
    ),
    "one key of two": (
        'list = "{app}:jobs"\nchannel = "posts:a"\n[[bridges]]\nlist = "{app}:jobs:failed"\nchannel = "posts:b"',
        "bridges.0.name: the key of another bridge would be '{app}:jobs:failed', which is also one of this bridge",
    ),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_configuration_that_cannot_work_is_an_error_that_names_the_key(tmp_path: Path, name: str) -> None:
    text, sentence = IMPOSSIBLE[name]
    file = tmp_path / "gateway.toml"
    file.write_text(f"[[bridges]]\n{text}\n")
    config, faults = examine(file)
    assert config is None and any(sentence in fault for fault in faults), faults


async def test_check_shows_the_bridges_and_a_source_of_another_type(tmp_path: Path, valkey_url: str, store: Any, prefix: str) -> None:
    async with opened_history(valkey_url, prefix, Config(prefix=prefix)):
        store.set(f"{prefix}:text", "no list")
        text = f"""
    valkey_url = "{valkey_url}"
    bridges = [{{stream = "Reviews", channel = "reviews:{{product}}"}}, {{list = "{prefix}:text", channel = "posts:a"}}]
    """
        outcome = await asyncio.to_thread(forked(tmp_path / "check", "check", text=text))
    assert "bridge Reviews  fine (stream Reviews to reviews:{product})" in outcome.out
    outcome.fails(1, f"bridge {prefix}:text: the key '{prefix}:text' is no list but a string")
