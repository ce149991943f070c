"""Fields of a request that its method does not have: they are ignored, as in the reference server, and named in a warning.

A misspelled ``idempotencykey`` would otherwise change what a call does without a word.
"""

from __future__ import annotations

import difflib
from functools import cache
from typing import Any, get_args

import msgspec

from ...rules.json_text import mend_surrogates

__all__ = ["unknown_fields"]

_decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def unknown_fields(body: bytes, shape: type[msgspec.Struct], path: str = "") -> list[str]:
    """A sentence for each field of ``body``, which is JSON of that shape, that the shape does not have. None for what is no object.

    ``path`` is where the object is in the request: "" or "since.".
    """
    try:
        fields = _decode(mend_surrogates(body) if b"\\u" in body else body or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return []
    known = _fields(shape)
    found: list[str] = []
    for name, value in fields.items():
        if name not in known:
            similar = difflib.get_close_matches(name, known, 1)
            found.append(f"there is no field {path + name[:60]!r}" + (f"; did you mean {similar[0]!r}?" if similar else ""))
        elif (inner := known[name]) is not None and (text := bytes(value)).startswith(b"{"):
            found += unknown_fields(text, inner, f"{path}{name}.")
    return found


@cache
def _fields(shape: type[msgspec.Struct]) -> dict[str, type[msgspec.Struct] | None]:
    """The fields of a shape, each with the shape of its own object, None if it is no object that has one."""
    return {each.encode_name: _shape_of(each.type) for each in msgspec.structs.fields(shape)}


def _shape_of(kind: Any) -> type[msgspec.Struct] | None:
    """The struct in ``Annotated[Struct | None, …]``."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return kind
    return next((found for each in get_args(kind) if (found := _shape_of(each)) is not None), None)
