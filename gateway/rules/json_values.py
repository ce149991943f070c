"""Values of Python as JSON, checked before anything is sent: each mistake raises an error with a sentence that names it.

Valkey and the clients would find most of it, but later, elsewhere, or not at all: JSON has no NaN, and an encoder that writes
``null`` in its place changes what was published.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec

from .json_text import MAX_DEPTH, is_json, mend_surrogates

__all__ = ["json_of", "kind_of", "raw_json_of"]


def json_of(data: Any, what: str = "the data") -> bytes:
    """``data`` as JSON; ``msgspec.Raw`` is JSON already, as it is. Raises TypeError for what JSON does not have, ValueError for NaN, infinity and nesting that is too deep."""
    try:
        text = msgspec.json.encode(data)
    except RecursionError:
        raise ValueError(f"{what} is nested too deep") from None
    except TypeError as error:
        raise TypeError(f"{what} is not JSON: {error}") from None
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH and not is_json(text):
        raise ValueError(f"{what} is nested too deep")
    if b"null" in text and not isinstance(data, msgspec.Raw):  # the encoder's form of NaN, of infinity, and of None; Raw is JSON already
        _refuse_no_number(msgspec.to_builtins(data), what)
    return text


def _refuse_no_number(value: Any, what: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{what} holds {value}, which JSON does not have; publish None or a text instead")
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return
    for each in value:
        _refuse_no_number(each, what)


def raw_json_of(data: Any) -> bytes:
    """``data``, which is JSON text already. Raises TypeError for what is no text, ValueError for text that is not JSON."""
    if not isinstance(data, str | bytes):
        raise TypeError(f"with raw=True the data is JSON text, str or bytes, not {kind_of(data)}")
    text = data.encode() if isinstance(data, str) else data
    if not is_json(mend_surrogates(text)):
        raise ValueError(f"with raw=True the data is JSON text, which {text[:60]!r} is not")
    return text


def kind_of(value: Any) -> str:
    """What a value is, for an error message: its beginning and its type."""
    return f"{value!r:.60} ({type(value).__name__})"
