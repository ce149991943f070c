"""Frames and commands, under whatever bytes come: docs/reference/wire-protocol.md."""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.edges.websocket import text_frame
from gateway.errors import Disconnect, PermissionDenied, TooManyRequests
from gateway.publication import MAX_OFFSET, Position, Publication, channel_fault
from gateway.rules.json_text import MAX_DEPTH, clean, is_json, mend_surrogates
from gateway.rules.protocol import (
    METHODS,
    PONG,
    decode,
    error_reply,
    history_result,
    publication_json,
    push,
    push_prefix,
    reply,
    subscribe_result,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_commands_or_a_bad_request(message: bytes) -> None:
    try:
        commands = decode(message)
    except Disconnect as disconnect:
        assert disconnect.code == 3501
    else:
        assert commands


@given(st.dictionaries(st.sampled_from(["id", *METHODS, "other"]), JSON, max_size=4))
def test_any_json_object_is_a_command_or_a_bad_request(command: dict) -> None:
    try:
        [decoded] = decode(json.dumps(command).encode())
        decoded.method()
    except Disconnect as disconnect:
        assert disconnect.code == 3501


def test_one_message_holds_several_commands_and_may_end_with_a_newline() -> None:
    connect, subscribe, pong = decode(b'{"id":1,"connect":{}}\n{"id":2,"subscribe":{"channel":"c"}}\n{}\n')
    assert (connect.id, connect.method(), subscribe.method(), subscribe.subscribe.channel) == (1, "connect", "subscribe", "c")
    assert pong is PONG


def test_an_empty_object_with_spaces_is_a_pong_too() -> None:
    assert all(command is PONG for command in decode(b"{ }\n {}\n{}\r"))


@pytest.mark.parametrize(
    "message", [b"", b"\n", b"{}\n\n", b"[]", b"null", b"1", b'{"id":1', b'{"id":-1}', b'{"id":4294967296}', b'{"id":"1"}']
)
def test_a_message_that_is_no_command_is_a_bad_request(message: bytes) -> None:
    with pytest.raises(Disconnect) as raised:
        decode(message)
    assert raised.value.code == 3501


@pytest.mark.parametrize("command", [b'{"id":1}', b'{"id":1,"nonsense":{}}', b'{"id":1,"connect":{},"ping":{}}'])
def test_a_command_names_exactly_one_method(command: bytes) -> None:
    with pytest.raises(Disconnect):
        decode(command)[0].method()


def test_null_means_the_zero_value() -> None:
    [command] = decode(b'{"id":1,"subscribe":{"channel":"c","recover":null,"epoch":null,"offset":null,"token":null}}')
    assert command.subscribe.position == Position("", 0)


def test_data_nested_deeper_than_the_interpreter_can_follow_is_a_bad_request() -> None:
    deep = b"[" * 1_000_000 + b"]" * 1_000_000  # Python 3.11 follows a thousand, 3.14 as many as its stack holds
    with pytest.raises(Disconnect, match=r"nested too deep|recursion"):
        decode(b'{"id":1,"publish":{"channel":"c","data":%b}}' % deep)


def test_zero_values_are_left_out_of_replies() -> None:
    assert subscribe_result(None) == b"{}"
    assert json.loads(subscribe_result(Position("e", 0))) == {"recoverable": True, "positioned": True, "epoch": "e"}
    assert reply(3, "publish") == b'{"id":3,"publish":{}}'
    assert error_reply(1, PermissionDenied()) == b'{"id":1,"error":{"code":103,"message":"permission denied"}}'
    assert json.loads(error_reply(1, TooManyRequests()))["error"]["temporary"] is True


def test_fields_that_clients_require_are_always_present() -> None:
    assert json.loads(history_result(Position("", 0), [])) == {"publications": [], "epoch": "", "offset": 0}


def test_a_publication_is_encoded_as_the_protocol_defines() -> None:
    assert json.loads(publication_json(Publication(7, b'{"a":1}', 1))) == {"data": {"a": 1}, "offset": 7}
    assert json.loads(publication_json(Publication(0, b"1"))) == {"data": 1}
    full = Publication(7, b"1", 1, tags=b'{"k":"v"}', info=b'{"user":"u","client":"c"}')
    assert json.loads(publication_json(full)) == {"data": 1, "offset": 7, "tags": {"k": "v"}, "info": {"user": "u", "client": "c"}}


@given(st.text(min_size=1, max_size=20), JSON, st.integers(0, MAX_OFFSET))
def test_a_push_is_one_line_of_json_for_any_channel_and_data(channel: str, data: object, offset: int) -> None:
    channel = channel.encode(errors="ignore").decode() or "c"
    publication = Publication(offset, clean(json.dumps(data).encode()))
    text = b"%b%b}}" % (push_prefix(channel), publication_json(publication))
    assert b"\n" not in text
    assert text == push(channel, "pub", publication_json(publication))
    pushed = json.loads(text)["push"]
    assert pushed["channel"] == channel and pushed["pub"].get("offset", 0) == offset


@given(st.binary(max_size=100))
def test_any_data_is_cleaned_to_one_line_of_json(data: bytes) -> None:
    cleaned = clean(data)
    json.loads(cleaned)
    assert b"\n" not in cleaned and b"\r" not in cleaned
    cleaned.decode()


@given(JSON, st.sampled_from([None, 1, "\t"]))
def test_cleaning_does_not_change_what_json_means(data: object, indent: int | str | None) -> None:
    assert json.loads(clean(json.dumps(data, indent=indent).encode())) == data


@pytest.mark.parametrize("data", [b"NaN", b"Infinity", b"{", b"", b'"\xff"', b"'a'", b"01", b"1 2", b"\xef\xbb\xbf1"])
def test_data_that_is_not_json_becomes_a_string(data: bytes) -> None:
    assert not is_json(data)
    assert isinstance(json.loads(clean(data)), str)


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        (b'"\\ud83d"', b'"\\ufffd"'),
        (b'"\\uDE00 x"', b'"\\ufffd x"'),
        (b'"\\ud83d\\ude00"', b'"\\ud83d\\ude00"'),
        (b'"\\\\ud83d"', b'"\\\\ud83d"'),
        (b'"\\\\\\ud83d"', b'"\\\\\\ufffd"'),
        (b'"\\ud83d\\ud83d\\ude00"', b'"\\ufffd\\ud83d\\ude00"'),
        (b'"\\ud83d\\ude00\\ude00"', b'"\\ud83d\\ude00\\ufffd"'),
        (b'"\\\\ud83d\\ude00"', b'"\\\\ud83d\\ufffd"'),
    ],
)
def test_half_an_emoji_of_javascript_is_mended_and_a_whole_one_left_alone(text: bytes, mended: bytes) -> None:
    assert clean(text) == mended
    [command] = decode(b'{"id":1,"publish":{"channel":"c","data":%b}}' % text)
    assert bytes(command.publish.data) == mended


@pytest.mark.parametrize(("depth", "fine"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, False), (900, False), (100_000, False)])
def test_data_nested_too_deep_is_not_json(depth: int, fine: bool) -> None:
    assert is_json(b"[" * depth + b"]" * depth) is fine


def test_brackets_inside_strings_are_not_nesting() -> None:
    assert is_json(json.dumps(["[{" * 1000, '"\\"[' * 500]).encode())


DEEP = st.recursive(
    st.text('\\"[]{},n', max_size=6) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('\\"[]{}', max_size=3), inner, max_size=3),
    max_leaves=30,
)


def nesting(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(nesting, inner), default=0)


@given(DEEP, st.integers(0, 4))
def test_the_nesting_of_a_document_is_counted_whatever_its_texts_hold(value: Any, missing: int) -> None:
    """The document is as deep as it may be but for ``missing``, and one array deeper than that is refused."""
    around = MAX_DEPTH - nesting(value)
    filling = ["[" * 600]  # a document with few brackets is not counted at all
    outer = b"[%b,%b" % (json.dumps(filling).encode(), b"[" * (around - 1 - missing))
    document = b"%b%b%b" % (outer, json.dumps(value).encode(), b"]" * (around - missing))
    assert is_json(document)
    assert is_json(b"[" * missing + document + b"]" * missing)
    assert not is_json(b"[" * (missing + 1) + document + b"]" * (missing + 1))


def test_the_nesting_of_a_large_document_is_found_in_as_many_steps_as_that_of_a_smaller_one() -> None:
    """Every process checks each document that is published, in its loop; a step of Python for each byte took 0.2 s for a MB."""
    products = [{"id": number, "name": f"product {number}", "prices": [number, 2]} for number in range(3000)]
    assert _steps(is_json, json.dumps(products).encode()) == _steps(is_json, json.dumps(products[:1000]).encode())


def test_half_an_emoji_is_mended_in_as_many_steps_in_a_large_document_as_in_a_smaller_one() -> None:
    """Every message of a client that has half of one is mended; a step of Python for each backslash took 0.2 s for a MB of them."""
    some = b'"\\\\ \\ud83d\\ude00 \\ude00"'
    assert _steps(mend_surrogates, some * 1000) == _steps(mend_surrogates, some * 10)


def _steps(read: Callable[[bytes], object], document: bytes) -> int:
    """How many lines of Python it takes to read the document."""
    steps = 0

    def count(*_: Any) -> Any:
        nonlocal steps
        steps += 1
        return count

    before = sys.gettrace()
    gc.disable()  # a search for garbage calls functions as well
    sys.settrace(count)
    try:
        read(document)
    finally:
        sys.settrace(before)
        gc.enable()
    return steps


@given(st.binary(max_size=70_000))
def test_a_text_frame_is_encoded_as_rfc_6455_defines(payload: bytes) -> None:
    frame = text_frame(payload)
    assert frame[0] == 0x81 and not frame[1] & 0x80
    length, header = frame[1], 2
    if length == 126:
        length, header = int.from_bytes(frame[2:4]), 4
        assert length > 125
    elif length == 127:
        length, header = int.from_bytes(frame[2:10]), 10
        assert length > 65535
    assert length == len(payload) and frame[header:] == payload


@given(st.text(st.characters(exclude_characters=":", exclude_categories=["Cs"]), max_size=20), st.integers(0, MAX_OFFSET))
def test_a_position_in_text_is_read_back(epoch: str, offset: int) -> None:
    assert Position.parse(str(Position(epoch, offset))) == Position(epoch, offset)


@pytest.mark.parametrize("text", ["", "e", "e:", "e:-1", "e:1.0", "e:9007199254740992", "e:99999999999999999999", "e:١"])
def test_a_text_that_is_no_position_is_named_in_the_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"position|past"):
        Position.parse(text)


@pytest.mark.parametrize("name", ["posts:tech", "a", "#u1", "x" * 255, "Straße:1", "日本"])
def test_ordinary_channel_names_are_valid(name: str) -> None:
    assert channel_fault(name) == ""


@pytest.mark.parametrize("name", ["", "x" * 256, "a{b", "a}b", "a\nb", "a\x00", "a\x7f", "a\x85", "\ud800"])
def test_impossible_channel_names_are_refused(name: str) -> None:
    assert channel_fault(name)
