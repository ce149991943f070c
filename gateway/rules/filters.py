"""Tags filters: which publications a subscription wants, by their tags. Pure. Source: docs/reference/wire-protocol.md, Filters.

    {"op": "and", "nodes": [{"key": "lang", "cmp": "in", "vals": ["de", "en"]}, {"key": "price", "cmp": "lt", "val": "20"}]}

A leaf has a key and a comparison: eq neq in nin ex nex sw ew ct compare texts, lt lte gt gte decimal numbers; a value that is no
number never satisfies those. A tag that is not there satisfies neq, nin and nex alone.

A filter is compiled once to functions of the parsed tags. A publication's tags are parsed once, for all filters, and each
of its numbers is read once.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from ..errors import BadRequest
from ..publication import Publication, Tags

__all__ = ["Filter", "read_filter", "tags_of"]

DEPTH_MOST = 8
NODES_MOST = 100
VALUES_MOST = 100

Test = Callable[[Tags], bool]


class _Node(msgspec.Struct):
    op: str = ""
    key: str = ""
    cmp: str = ""
    val: str = ""
    vals: list[str] = []
    nodes: list[_Node] = []


class Filter:
    """A condition on the tags of publications. Filters made of the same JSON are equal and have one hash, so that they can be shared.

    ``nodes`` is how many comparisons and combinations of them it has, at most NODES_MOST; ``size`` is the bytes of its JSON, and it takes some
    25 times as many of memory.
    """

    def __init__(self, text: bytes, nodes: int, test: Test) -> None:
        self.nodes = nodes
        self.size = len(text)
        self._text = text
        self._test = test

    def admits(self, tags: Tags) -> bool:
        """Whether a publication with these tags is wanted."""
        return self._test(tags)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def tags_of(publication: Publication) -> Tags:
    """The publication's tags, parsed at the first call. A value that is not text is no tag; tags that are no JSON object are none."""
    if publication.parsed is None:
        publication.parsed = Tags(_texts(publication.tags) if publication.tags is not None else {})
    return publication.parsed


def _texts(tags: bytes) -> dict[str, str]:
    try:
        return {key: value for key, value in _tags.decode(tags).items() if isinstance(value, str)}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}  # another program published it: it costs its own tags, and no other publication anything


_tags = msgspec.json.Decoder(dict[str, Any])
_node = msgspec.json.Decoder(_Node)

_ON_TEXTS: dict[str, Callable[[str, str], bool]] = {
    "sw": str.startswith,
    "ew": str.endswith,
    "ct": str.__contains__,
}
_ON_NUMBERS: dict[str, Callable[[Decimal, Decimal], bool]] = {
    "lt": Decimal.__lt__,
    "lte": Decimal.__le__,
    "gt": Decimal.__gt__,
    "gte": Decimal.__ge__,
}


def read_filter(text: bytes) -> Filter:
    """The filter that ``text``, JSON, describes. Raises BadRequest where it describes none."""
    try:
        node = _node.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise BadRequest(f"the filter is not understood: {error}") from None
    counted = [0]
    test = _compile(node, 1, counted)
    return Filter(msgspec.json.encode(node), counted[0], test)


def _compile(node: _Node, depth: int, counted: list[int]) -> Test:
    counted[0] += 1
    if depth > DEPTH_MOST or counted[0] > NODES_MOST:
        raise BadRequest(f"a filter has at most {NODES_MOST} nodes, {DEPTH_MOST} deep")
    if node.op == "":
        return _leaf(node)
    tests = [_compile(each, depth + 1, counted) for each in node.nodes]
    if not tests or (node.op == "not" and len(tests) != 1):
        raise BadRequest(f"the filter's {node.op[:20]!r} has {len(tests)} nodes")
    if node.op == "and":
        return _all_of(tests)
    if node.op == "or":
        return _any_of(tests)
    if node.op == "not":
        return _none_of(tests)
    raise BadRequest(f"a filter has no op {node.op[:20]!r}; there are and, or and not")


def _all_of(tests: list[Test]) -> Test:
    def test(tags: Tags) -> bool:
        for each in tests:  # half the time of all() with a generator
            if not each(tags):
                return False
        return True

    return test


def _any_of(tests: list[Test]) -> Test:
    def test(tags: Tags) -> bool:
        for each in tests:
            if each(tags):
                return True
        return False

    return test


def _none_of(tests: list[Test]) -> Test:
    any_of = _any_of(tests)
    return lambda tags: not any_of(tags)


def _leaf(node: _Node) -> Test:
    if not node.key:
        raise BadRequest("a filter's comparison has a key")
    if len(node.vals) > VALUES_MOST:
        raise BadRequest(f"a filter compares with at most {VALUES_MOST} values")
    if make := _SIMPLE.get(node.cmp):
        return make(node)
    if compare := _ON_TEXTS.get(node.cmp):
        return _textual(node.key, compare, node.val)
    if node.cmp in _ON_NUMBERS:
        return _numeric(node.key, _ON_NUMBERS[node.cmp], node.val)
    raise BadRequest(f"a filter has no comparison {node.cmp[:20]!r}")


def _exists(node: _Node) -> Test:
    key = node.key
    return lambda tags: key in tags.texts


def _is_missing(node: _Node) -> Test:
    key = node.key
    return lambda tags: key not in tags.texts


def _equals(node: _Node) -> Test:
    key, value = node.key, node.val
    return lambda tags: tags.texts.get(key) == value


def _differs(node: _Node) -> Test:
    key, value = node.key, node.val
    return lambda tags: tags.texts.get(key) != value


def _is_one_of(node: _Node) -> Test:
    key, values = node.key, frozenset(node.vals)
    return lambda tags: tags.texts.get(key) in values


def _is_none_of(node: _Node) -> Test:
    key, values = node.key, frozenset(node.vals)
    return lambda tags: tags.texts.get(key) not in values


_SIMPLE: dict[str, Callable[[_Node], Test]] = {
    "ex": _exists,
    "nex": _is_missing,
    "eq": _equals,
    "neq": _differs,
    "in": _is_one_of,
    "nin": _is_none_of,
}


def _textual(key: str, compare: Callable[[str, str], bool], value: str) -> Test:
    def test(tags: Tags) -> bool:
        text = tags.texts.get(key)
        return text is not None and compare(text, value)

    return test


def _numeric(key: str, compare: Callable[[Decimal, Decimal], bool], value: str) -> Test:
    bound = _number(value)
    if bound is None:
        raise BadRequest(f"a filter compares numbers with {value[:40]!r}, which is not a number")

    def test(tags: Tags) -> bool:
        if key in tags.numbers:
            number = tags.numbers[key]
        elif key in tags.texts:
            number = tags.numbers[key] = _number(tags.texts[key])
        else:
            return False  # not cached: filters may name any number of tags that are not there
        return number is not None and compare(number, bound)

    return test


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
