"""What other programs write to Valkey: any bytes are read, a bad entry costs itself only, and the functions refuse what clients must not get."""

from __future__ import annotations

import json
from typing import Any

import pytest
import valkey
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Config
from gateway.errors import StoreError
from gateway.publication import MAX_OFFSET, Position, Publication
from gateway.rules.json_text import MAX_DEPTH
from gateway.rules.protocol import publication_json
from gateway.store.access import make_commands
from gateway.store.connect import Address
from gateway.store.history import History
from gateway.store.layout import Announcement, JoinLeave, Layout, Reset, publish_words, read_announcement, read_entry, read_presence
from gateway.store.library import Library, rules_of
from gateway.store.untrusted import Faults

CONFIG = Config()
DEEP = b'{"a":' * 980 + b"1" + b"}" * 980
NOT_AN_OBJECT = [
    *(b"", b"1", b"[]", b'"{}"', b"{", b"{}x", b"{}\x00", b"\xef\xbb\xbf{}", b'{"a":"\xff"}', b'{"a":"\xed\xa0\x80"}'),
    *(b'{"a":"\xc0\x80"}', b'{"a":"\xf4\x90\x80\x80"}', b'{"a":"\x01"}', b'{"a":"x\ny"}', b'{"a":"\t"}', b'{"a":"\\ud800"}'),
    *(b'{"\x1f":"a"}', b'{"a":"1"\x0c}', DEEP),
]
NOT_JSON_NUMBERS = [b"NaN", b"Infinity", b"-Infinity", b"1.", b"-.5", b"01", b"0x10", b"1.e5"]
PIECES = st.sampled_from(
    [
        *(b"@", b"1", b"e1", b" ", b"\n", b"\r", b"-", b'{"tags":', b'{"info":', b"}", b'{"a":"b"}', b'"', b"\xff", b"\x00"),
        *(b"NaN", b"[", DEEP, b"@join ", b"@reset "),
    ]
)
ANY_BYTES = st.binary(max_size=60) | st.lists(PIECES, max_size=12).map(b"".join)
HEADED = st.builds(
    lambda offset, tags, info, data: b'@%d e1 1700000000000 {"tags":%b,"info":%b}\n%b' % (offset, tags, info, data),
    st.integers(1, 10**14),
    ANY_BYTES,
    ANY_BYTES,
    ANY_BYTES,
)


def check(publication: Publication) -> dict[str, Any]:
    """Clients get it as one line of JSON in UTF-8."""
    text = publication_json(publication)
    assert b"\n" not in text and b"\r" not in text
    sent = json.loads(text.decode(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert all(isinstance(value, str) for value in sent.get("tags", {}).values())
    assert isinstance(sent.get("info", {}), dict) and 0 <= sent.get("offset", 0) <= MAX_OFFSET
    return sent


@given(ANY_BYTES | HEADED)
def test_any_announcement_is_read_and_can_be_sent_to_clients(payload: bytes) -> None:
    item = read_announcement(payload, Faults(), "c")
    if isinstance(item, Announcement):
        check(item.publication)
        assert item.epoch.replace("-", "").replace("_", "").isalnum() or item.epoch in ("", "-")
    elif isinstance(item, JoinLeave):
        assert b"\n" not in item.info and isinstance(json.loads(item.info.decode()), dict)
    else:
        assert isinstance(item, Reset)


@given(st.lists(st.tuples(st.sampled_from([b"data", b"tags", b"info", b"x"]), ANY_BYTES), max_size=4))
def test_any_stream_entry_is_read_and_can_be_sent_to_clients(fields: list[tuple[bytes, bytes]]) -> None:
    words = [word for pair in fields for word in pair]
    publication = read_entry([b"7-1700000000000", words], Faults(), "c")
    assert check(publication)["offset"] == 7


@given(st.dictionaries(ANY_BYTES, ANY_BYTES, max_size=4))
def test_any_presence_is_read_and_bad_clients_are_left_out(found: dict[bytes, bytes]) -> None:
    words = [word for pair in ({**found, b"good": b'{"user":"u"}'}).items() for word in pair]
    present = read_presence(words, Faults(), "c")
    assert present["good"] == b'{"user":"u"}'
    for info in present.values():
        assert isinstance(json.loads(info.decode()), dict) and b"\n" not in info


HALF_A_PAIR = b'{"a":"\\ud800"}'  # which gateways mend


@pytest.mark.parametrize("tags", [*(text for text in NOT_AN_OBJECT if text != HALF_A_PAIR), b'{"a":1}'], ids=lambda tags: repr(tags[:30]))
def test_a_publication_with_bad_tags_has_its_place_without_them_and_is_counted(tags: bytes) -> None:
    faults = Faults()
    assert check(read_entry([b"7-1700000000000", [b"data", b"1", b"tags", tags]], faults, "c")) == {"data": 1, "offset": 7}
    assert faults.counts == {"tags": 1}


@pytest.mark.parametrize("tags", [b'{"a":"\xff"}', DEEP, b'{"a":1}', b'{"a":"\x01"}'], ids=lambda tags: repr(tags[:30]))
def test_an_announcement_with_bad_tags_has_its_place_without_them_and_is_counted(tags: bytes) -> None:
    faults = Faults()
    item = read_announcement(b'@7 e1 1700000000000 {"tags":%b,"info":{"user":"u"}}\n1' % tags, faults, "c")
    assert isinstance(item, Announcement) and item.epoch == "e1"
    assert check(item.publication)["offset"] == 7 and item.publication.tags is None
    assert sum(faults.counts.values()) == 1


def test_a_fault_is_counted_always_and_logged_once_for_each_place(caplog: pytest.LogCaptureFixture) -> None:
    faults = Faults()
    for place in ("chat:1", "chat:1", "chat:2"):
        faults.found("tags", place, "a line\nof its own\x1b[31m")
    assert faults.counts["tags"] == 3
    assert [record.getMessage().split(":")[1] for record in caplog.records] == ["1'", "2'"]
    assert not any("\n" in record.getMessage() or "\x1b" in record.getMessage() for record in caplog.records)


# The functions.


@pytest.fixture
async def history(valkey_url: str, prefix: str) -> Any:
    commands = make_commands(Address(valkey_url))
    await commands.start()
    await Library(rules_of(CONFIG.channels, CONFIG.namespaces), prefix).install(commands)
    yield History(commands, Layout(prefix))
    await commands.close()


@pytest.mark.parametrize("option", ["tags", "info"])
async def test_the_functions_refuse_tags_and_info_that_are_no_strict_json_object(history: History, option: str) -> None:
    for text in [*NOT_AN_OBJECT, *(b'{"a":{"b":%b}}' % number for number in NOT_JSON_NUMBERS)]:
        with pytest.raises(StoreError, match="GATEWAY"):
            await history.publish("posts:a", [b"1", option, text])
    assert (await history.read("posts:a")).top.offset == 0
    await history.publish("posts:a", [b"1", option, '{\r\n "ä€𝄞\x7f":\t"\\" ü.\\\\" }'.encode()])
    [publication] = (await history.read("posts:a", 0, 1)).publications
    assert check(publication)[option] == {"ä€𝄞\x7f": '" ü.\\'}


async def test_the_functions_refuse_tags_that_are_not_texts_and_take_any_info_but_wrong_names(history: History) -> None:
    for name, text in (("tags", b'{"a":1}'), ("tags", b'{"a":{}}'), ("info", b'{"user":1}'), ("info", b'{"client":null}')):
        with pytest.raises(StoreError, match="texts"):
            await history.publish("posts:a", [b"1", name, text])
    position = await history.publish("posts:a", publish_words(b"1", info={"user": "u", "conn_info": [1.5, -0.25e3, None], "x.": "1."}))
    assert position is not None and position.offset == 1


async def test_the_functions_pass_on_nesting_as_deep_as_clients_take_and_no_deeper(history: History) -> None:
    text = b'{"a":' * (MAX_DEPTH - 1) + b"{}" + b"}" * (MAX_DEPTH - 1)
    await history.publish("posts:a", [b"1", "info", text])
    assert (await history.read("posts:a", 0, 1)).publications[0].info == text
    with pytest.raises(StoreError, match="GATEWAY"):
        await history.publish("posts:a", [b"1", "info", b'{"a":%b}' % text])


@pytest.mark.parametrize(
    "data", [b'{"id":"x","n":NaN}', b'{"id":"x\xff"}', b'{"id":"x\x01"}', DEEP, b"[]"], ids=lambda data: repr(data[:30])
)
async def test_a_notification_that_is_no_strict_json_is_refused(history: History, data: bytes) -> None:
    with pytest.raises(StoreError, match="GATEWAY a notification"):
        await history.notify("notifications:u1", [data])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epoch", b"x\r\ndata: injected"),
        ("epoch", b"\xff"),
        ("epoch", b"-"),
        ("epoch", b"e,1:2"),
        ("offset", b"many"),
        ("offset", b"1e300"),
        ("ms", b""),
    ],
)
async def test_a_position_that_another_program_broke_begins_anew(history: History, store: valkey.Valkey, field: str, value: bytes) -> None:
    first = await history.publish("posts:a", [b"1"])
    store.hset(history.layout.keys("posts:a")[0].decode(), field, value)
    page = await history.read("posts:a", 0, 10)
    assert first is not None and page.top.epoch != first.epoch and page.top.offset == 0 and page.publications == []
    assert await history.publish("posts:a", [b"2"]) == Position(page.top.epoch, 1)


async def test_what_was_appended_past_the_newest_position_is_no_history(history: History, store: valkey.Valkey) -> None:
    await history.publish("posts:a", [b"1"])
    store.xadd(history.layout.keys("posts:a")[1].decode(), {"data": "2"}, id="2-1")
    assert [p.offset for p in (await history.read("posts:a", 0, 10)).publications] == [1]
    assert [p.offset for p in (await history.read("posts:a", 0, 10, reverse=True)).publications] == [1]


async def test_an_inbox_whose_sets_another_program_wrote_to_is_still_listed(history: History, store: valkey.Valkey) -> None:
    await history.notify("notifications:u1", [b'{"id":"good"}'])
    keys = [key.decode() for key in history.layout.inbox_keys("notifications:u1")]
    store.zadd(keys[4], {"far": 1e300, "half": 1.5})
    *_, entries, _ = await history.call(b"gateway_inbox", history.layout.inbox_keys("notifications:u1"), 0, 10, 10_000)
    assert [entry[3] for entry in entries] == [b"good"]
    store.hset(keys[0], "inbox", "many")
    await history.notify("notifications:u1", [b'{"id":"next"}'])
    store.delete(keys[3])
    store.set(keys[3], "text")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        await history.notify("notifications:u1", [b'{"id":"lost"}'])
    assert (await history.read("notifications:u1")).top.offset == 2, "a notification that failed was not published"


# The stored rules.


@pytest.mark.parametrize(
    "stored", [b"", b"\xff", b"[]", b"{}", b'{"":{"size":"x"}}', b'{"":{"size":1,"ttl":-1,"meta_ttl":1}}', DEEP], ids=repr
)
async def test_stored_rules_that_are_none_count_as_forgotten(history: History, store: valkey.Valkey, prefix: str, stored: bytes) -> None:
    library = Library(None, prefix)
    call = history.commands.call
    assert not await library.is_forgotten(call)
    store.set(f"{prefix}:rules", stored)
    assert await library.is_forgotten(call)
    store.delete(f"{prefix}:rules")
    store.rpush(f"{prefix}:rules", "x")
    assert await library.is_forgotten(call)


async def test_no_name_of_a_namespace_ends_the_string_that_the_rules_are_in(history: History, prefix: str) -> None:
    rules = {**rules_of(CONFIG.channels, CONFIG.namespaces), ']==] error("injected") --': {"size": 1, "ttl": 0, "meta_ttl": 0, "index": 0}}
    library = Library(rules, prefix)
    await library.install(history.commands)
    assert await library.agrees(history.commands)
