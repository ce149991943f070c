"""Tags filters: what they admit, and what comes through a subscription that has one."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from gateway.errors import BadRequest
from gateway.publication import Publication
from gateway.rules.filters import read_filter, tags_of

from ..kit.clients import client
from ..kit.gateways import RunningGateway, shared_gateway

DE = {"lang": "de", "price": "19.90"}


def admits(tree: Any, tags: dict[str, str] | None) -> bool:
    publication = Publication(1, b"{}", tags=None if tags is None else json.dumps(tags).encode())
    return read_filter(json.dumps(tree).encode()).admits(tags_of(publication))


@pytest.mark.parametrize(
    ("cmp", "val", "here", "missing"),
    [
        ("eq", "de", True, False),
        ("eq", "en", False, False),
        ("neq", "en", True, True),
        ("neq", "de", False, True),
        ("in", ["de", "en"], True, False),
        ("nin", ["fr"], True, True),
        ("nin", ["de"], False, True),
        ("ex", "", True, False),
        ("nex", "", False, True),
        ("sw", "d", True, False),
        ("ew", "e", True, False),
        ("ct", "x", False, False),
    ],
)
def test_a_filter_compares_texts(cmp: str, val: Any, here: bool, missing: bool) -> None:
    leaf = {"key": "lang", "cmp": cmp, **({"vals": val} if isinstance(val, list) else {"val": val})}
    assert admits(leaf, DE) is here
    assert admits(leaf, {}) is missing and admits(leaf, None) is missing
    assert admits({"op": "not", "nodes": [leaf]}, DE) is not here


@pytest.mark.parametrize(
    ("cmp", "val", "result"), [("lt", "20", True), ("lte", "19.9", True), ("gt", "19.9", False), ("gte", "19.90", True)]
)
def test_a_filter_compares_decimal_numbers(cmp: str, val: str, result: bool) -> None:
    leaf = {"key": "price", "cmp": cmp, "val": val}
    assert admits(leaf, DE) is result
    for other in ({"price": "cheap"}, {"price": "NaN"}, {}):
        assert not admits(leaf, other)


def test_filters_combine_with_and_or_and_not() -> None:
    german, cheap = {"key": "lang", "cmp": "eq", "val": "de"}, {"key": "price", "cmp": "lt", "val": "10"}
    assert not admits({"op": "and", "nodes": [german, cheap]}, DE)
    assert admits({"op": "or", "nodes": [german, cheap]}, DE)


def test_tags_are_parsed_once_and_each_number_is_read_once() -> None:
    publication = Publication(1, b"{}", tags=json.dumps(DE).encode())
    tags = tags_of(publication)
    assert tags_of(publication) is tags
    for key in ("price", "lang", "size"):
        read_filter(json.dumps({"key": key, "cmp": "lt", "val": "20"}).encode()).admits(tags)
    assert tags.numbers == {"price": Decimal("19.90"), "lang": None}, "what is no tag is not stored: filters may name anything"


@pytest.mark.parametrize("tags", [b'{"lang":"de","n":1,"deep":{"lang":"en"}}', b'{"lang":"de","list":["de"]}'])
def test_a_tag_that_is_no_text_is_none(tags: bytes) -> None:
    assert tags_of(Publication(1, b"{}", tags=tags)).texts == {"lang": "de"}


@pytest.mark.parametrize("tags", [b"not JSON", b'{"lang":"\xff"}', b"[1]", b'{"a":' + b"[" * 5000, b"NaN"])
def test_tags_that_cannot_be_read_are_none(tags: bytes) -> None:
    publication = Publication(1, b"{}", tags=tags)
    assert tags_of(publication).texts == {}
    assert read_filter(b'{"key":"lang","cmp":"nex"}').admits(tags_of(publication))


DEEP: dict[str, Any] = {"key": "a", "cmp": "ex"}
for _ in range(9):
    DEEP = {"op": "not", "nodes": [DEEP]}


@pytest.mark.parametrize(
    "tree",
    [
        {},
        {"key": "a"},
        {"key": "a", "cmp": "like"},
        {"cmp": "eq", "val": "x"},
        {"op": "xor", "nodes": [{"key": "a", "cmp": "ex"}]},
        {"op": "and"},
        {"op": "not", "nodes": [{"key": "a", "cmp": "ex"}] * 2},
        {"op": "or", "nodes": [{"key": "a", "cmp": "ex"}] * 101},
        {"key": "a", "cmp": "lt", "val": "cheap"},
        {"key": "a", "cmp": "in", "vals": ["x"] * 101},
        {"key": 1, "cmp": "ex"},
        [],
        DEEP,
    ],
)
def test_a_malformed_filter_is_refused(tree: Any) -> None:
    with pytest.raises(BadRequest):
        read_filter(json.dumps(tree).encode())


gateway = shared_gateway("[namespaces.news]\ntags_filter = true\n[namespaces.chat]\n")


GERMAN = {"key": "lang", "cmp": "eq", "val": "de"}


async def test_a_filtered_subscription_gets_only_matching_publications_live_and_caught_up(gateway: RunningGateway) -> None:
    languages = ["de", "en", "de", None]
    first = gateway.publish("news:1", 0, tags={"lang": "de"})
    async with client(gateway) as one, client(gateway) as two, client(gateway) as everything:
        for wire in (one, two):
            await wire.result("subscribe", channel="news:1", tf=GERMAN)
        await everything.result("subscribe", channel="news:1")
        for number, lang in enumerate(languages, 1):
            gateway.publish("news:1", number, **({"tags": {"lang": lang}} if lang else {}))
        for wire in (one, two):
            assert [pub["offset"] for pub in await wire.publications(2)] == [2, 4]
        assert [pub["offset"] for pub in await everything.publications(4)] == [2, 3, 4, 5]
    async with client(gateway) as late:
        result = await late.result("subscribe", channel="news:1", tf=GERMAN, recover=True, epoch=first["epoch"], offset=1)
        assert result["recovered"] is True
        assert [pub["offset"] for pub in result["publications"]] == [2, 4]
        gateway.publish("news:1", "now", tags={"lang": "de"})
        assert (await late.publication())["offset"] == 6


async def test_a_filter_is_a_bad_request_where_the_rules_do_not_allow_it(gateway: RunningGateway) -> None:
    async with client(gateway) as wire:
        assert await wire.error("subscribe", channel="chat:1", tf=GERMAN) == 107
        assert await wire.error("subscribe", channel="news:1", tf={"key": "a", "cmp": "like"}) == 107
