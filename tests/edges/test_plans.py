"""Plans of publications: what is left out of their making changes nothing."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Config
from gateway.edges.api import plans
from gateway.edges.api.methods import request_of
from gateway.edges.api.plans import EACH_MOST, Call, end_of_run, plan
from gateway.edges.api.publishing import notification_words, publication_words
from gateway.edges.api.requests import NotifyRequest, PublishRequest
from gateway.errors import BadRequest
from gateway.rules.json_text import NEVER_DEEP

NODE: Any = SimpleNamespace(config=Config(), history=SimpleNamespace(commands=SimpleNamespace(sharded=False)), rules=lambda channel: None)
VALUES = st.recursive(
    st.none() | st.integers() | st.text(max_size=9), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner)
)
TEXTS = (
    st.builds(json.dumps, VALUES, ensure_ascii=st.booleans())
    | st.text(max_size=20)
    | st.sampled_from(
        [
            '"\\ud83d"',
            '"\\u00e4"',
            '"ä"',
            "[" * 255 + "]" * 255,
            "[" * 257 + "]" * 257,
            " 1 ",
            "1 2",
            '"\x01"',
            "",
            "01",
            "1.",
            "nul",
            '"\\x"',
            "\ud83d",
        ]
    )
)


@given(TEXTS)
def test_data_that_is_published_directly_is_what_the_application_would_publish(text: str) -> None:
    """A body in ASCII has been read by its decoder, so the data in it is not read again."""
    body = b'{"channel":"c","data":%b}' % text.encode(errors="surrogatepass")
    made = plan(NODE, "publish", body)
    if made is not None:
        assert [call.words for call in made.calls] == [publication_words(NODE, request_of(PublishRequest, body))]


def test_a_field_whose_name_is_written_with_an_escape_is_the_same_field() -> None:
    body = b'{"us\\u0065r":"u","d\\u0061ta":{"\\u0069d":"n"},"idempotency\\u005fkey":"k"}'
    made = plan(NODE, "notify", body)
    assert made is not None
    assert [(call.channel, call.words) for call in made.calls] == [
        ("notifications:u", notification_words(NODE, request_of(NotifyRequest, body)))
    ]


def test_data_that_may_be_too_deep_or_is_not_ascii_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bytes] = []

    def words(node: Any, request: Any) -> list[bytes]:
        looked.append(bytes(request.data))
        raise BadRequest("no")

    monkeypatch.setattr(plans, "publication_words", words)
    for data in (b"1", b"[" * (NEVER_DEEP // 2) + b"]" * (NEVER_DEEP // 2), b"[%b]" % (b"1," * 300 + b"1"), '"ä"'.encode()):
        plan(NODE, "publish", b'{"channel":"c","data":%b}' % data)
    assert [len(data) for data in looked] == [603, 4]


def runs(channels: str, *, sharded: bool = False, odd: str = "") -> list[str]:
    """How calls to these channels, a letter each, are put together; those to ``odd`` have a ttl of their own."""
    calls = [Call(name, [b"1", *(("ttl", 0) if name == odd else ())]) for name in channels]
    found, start = [], 0
    while start < len(calls):
        end = end_of_run(calls, start, sharded=sharded)
        found.append(channels[start:end])
        start = end
    return found


def test_publications_to_several_channels_are_one_call_unless_two_to_one_follow_each_other() -> None:
    assert runs("abca") == ["abca"]
    assert runs("aabbc") == ["aa", "bb", "c"]
    assert runs("abbc") == ["ab", "bc"]
    assert runs("abc", sharded=True) == ["a", "b", "c"]
    assert runs("aab", sharded=True) == ["aa", "b"]
    assert runs("aoobo", odd="o") == ["a", "o", "o", "b", "o"]
    assert [len(run) for run in runs("ab" * EACH_MOST)] == [EACH_MOST, EACH_MOST]
