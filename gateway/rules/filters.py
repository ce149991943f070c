"""Tags filters: which publications a subscription wants, by their tags. Pure. Source: PROTOCOL.md 1.4, FilterNode.

    {"op": "and", "nodes": [{"key": "lang", "cmp": "in", "vals": ["de", "en"]}, {"key": "price", "cmp": "lt", "val": "20"}]}

A leaf has a key and a comparison: eq neq in nin ex nex sw ew ct compare texts, lt lte gt gte decimal numbers; a value that is no
number never satisfies those. A tag that is not there satisfies neq, nin and nex alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation

import msgspec

from ..errors import BadRequest

__all__ = ["Filter", "read_filter"]

DEPTH_MOST = 8
NODES_MOST = 100
VALUES_MOST = 100

Tags = Mapping[str, str]
Test = Callable[[Tags], bool]


class _Node(msgspec.Struct):
    op: str = ""
    key: str = ""
    cmp: str = ""
    val: str = ""
    vals: list[str] = []
    nodes: list[_Node] = []


class Filter:
    """A condition on the tags of publications. Filters made of the same JSON are equal and have one hash, so that they can be shared."""

    def __init__(self, text: bytes, test: Test) -> None:
        self._text = text
        self._test = test

    def admits(self, tags: bytes | None) -> bool:
        """Whether a publication with these tags, raw JSON or None, is wanted."""
        return self._test(_tags.decode(tags) if tags is not None else {})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Filter) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


_tags = msgspec.json.Decoder(dict[str, str])
_node = msgspec.json.Decoder(_Node)

_ON_TEXTS: dict[str, Callable[[str, str], bool]] = {
    "eq": str.__eq__,
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
    test = _compile(node, 1, [0])
    return Filter(msgspec.json.encode(node), test)


def _compile(node: _Node, depth: int, counted: list[int]) -> Test:
    counted[0] += 1
    if depth > DEPTH_MOST or counted[0] > NODES_MOST:
        raise BadRequest(f"a filter has at most {NODES_MOST} nodes, {DEPTH_MOST} deep")
    if node.op == "":
        return _leaf(node)
    tests = [_compile(each, depth + 1, counted) for each in node.nodes]
    if not tests or (node.op == "not" and len(tests) != 1):
        raise BadRequest(f"the filter's {node.op!r} has {len(tests)} nodes")
    if node.op == "and":
        return lambda tags: all(test(tags) for test in tests)
    if node.op == "or":
        return lambda tags: any(test(tags) for test in tests)
    if node.op == "not":
        return lambda tags: not tests[0](tags)
    raise BadRequest(f"a filter has no op {node.op[:20]!r}; there are and, or and not")


def _leaf(node: _Node) -> Test:
    key, value, values = node.key, node.val, frozenset(node.vals)
    if not key:
        raise BadRequest("a filter's comparison has a key")
    if len(node.vals) > VALUES_MOST:
        raise BadRequest(f"a filter compares with at most {VALUES_MOST} values")
    simple: dict[str, Test] = {
        "ex": lambda tags: key in tags,
        "nex": lambda tags: key not in tags,
        "neq": lambda tags: tags.get(key) != value,
        "in": lambda tags: tags.get(key) in values,
        "nin": lambda tags: tags.get(key) not in values,
    }
    if node.cmp in simple:
        return simple[node.cmp]
    if compare := _ON_TEXTS.get(node.cmp):
        return lambda tags: key in tags and compare(tags[key], value)
    if node.cmp in _ON_NUMBERS:
        return _numeric(key, _ON_NUMBERS[node.cmp], value)
    raise BadRequest(f"a filter has no comparison {node.cmp[:20]!r}")


def _numeric(key: str, compare: Callable[[Decimal, Decimal], bool], value: str) -> Test:
    bound = _number(value)
    if bound is None:
        raise BadRequest(f"a filter compares numbers with {value[:40]!r}, which is not a number")

    def test(tags: Tags) -> bool:
        number = _number(tags.get(key, ""))
        return number is not None and compare(number, bound)

    return test


def _number(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None
