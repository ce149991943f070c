"""Fields of a request that mean nothing, as in the reference server: those that its method does not have, and those that are null.

The first are ignored, and named in a warning: a misspelled ``idempotencykey`` would otherwise change what a call does without a word. A request
may have a million of them, so only the first NAMED_MOST are named. The second are as if left out: libraries of some languages write every
field of an object.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import cache
from itertools import islice
from typing import Any, get_args

import msgspec

from ...rules.json_text import encode, mend_surrogates

__all__ = ["NAMED_MOST", "inner_shapes", "is_any_json", "unknown_fields", "without_nulls"]

NAMED_MOST = 20  # fields of one request: to look for a similar name takes 20 microseconds
NAME_SHOWN = 60  # characters; a longer name is similar to none

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def unknown_fields(body: bytes, shape: type[msgspec.Struct], path: str = "") -> list[str]:
    """A sentence for each of the first NAMED_MOST fields of ``body``, which is JSON of that shape, that the shape does not have. None for what is
    no object.

    ``path`` is where the object is in the request: "" or "since.".
    """
    return list(islice(_sentences(body, shape, path), NAMED_MOST))


def _sentences(body: bytes, shape: type[msgspec.Struct], path: str) -> Iterator[str]:
    try:
        fields = _decode(mend_surrogates(body) if b"\\u" in body else body or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    known = inner_shapes(shape)
    for name, value in fields.items():
        if name not in known:
            similar = difflib.get_close_matches(name, known, 1) if len(name) <= NAME_SHOWN else []
            yield f"there is no field {path + name[:NAME_SHOWN]!r}" + (f"; did you mean {similar[0]!r}?" if similar else "")
        elif (inner := known[name]) is not None and (text := bytes(value)).startswith(b"{"):
            yield from _sentences(text, inner, f"{path}{name}.")


def without_nulls(body: bytes, shape: type[msgspec.Struct]) -> bytes:
    """The same request without the fields of ``shape`` that are null, but for those that may be any JSON. What is no object stays as it is."""
    try:
        fields = _decode(mend_surrogates(body) if b"\\u" in body else body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body
    known, may_be_null = inner_shapes(shape), _any_json(shape)
    kept = {}
    for name, value in fields.items():
        inner = known.get(name)
        if bytes(value) != b"null" or name in may_be_null or name not in known:
            kept[name] = value if inner is None else msgspec.Raw(without_nulls(bytes(value), inner))
    return encode(kept)


def is_any_json(field: msgspec.structs.FieldInfo) -> bool:
    """Whether the field may be any JSON, null too."""
    return field.default_factory is msgspec.Raw or msgspec.Raw in get_args(field.type)


@cache
def _any_json(shape: type[msgspec.Struct]) -> frozenset[str]:
    return frozenset(each.encode_name for each in msgspec.structs.fields(shape) if is_any_json(each))


@cache
def inner_shapes(shape: type[msgspec.Struct]) -> dict[str, type[msgspec.Struct] | None]:
    """The fields of a shape, each with the shape of its own object, None if it is no object that has one."""
    return {each.encode_name: _shape_of(each.type) for each in msgspec.structs.fields(shape)}


def _shape_of(kind: Any) -> type[msgspec.Struct] | None:
    """The struct in ``Annotated[Struct | None, …]``."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    return next((found for each in get_args(kind) if (found := _shape_of(each)) is not None), None)
