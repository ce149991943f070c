"""JSON as text: what publishers wrote, checked and cleaned without being rebuilt, and small documents of our own.

Publishers may write any bytes. What is not one JSON document in UTF-8, nested at most ``MAX_DEPTH`` deep, never reaches a
client as JSON; what is one is passed on byte for byte, except for line breaks between its tokens.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import accumulate
from typing import Any, TypeVar

import msgspec

__all__ = [
    "MAX_DEPTH",
    "NEVER_DEEP",
    "UNREADABLE",
    "clean",
    "clean_as",
    "decode_json",
    "encode",
    "is_json",
    "is_utf8",
    "mend_surrogates",
    "raw_object",
]

UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError)  # what a decoder raises for bytes of any kind

Value = TypeVar("Value")

MAX_DEPTH = 256  # of nested arrays and objects; the parsers of common clients give up not far above
NEVER_DEEP = 2 * MAX_DEPTH  # bytes of JSON that cannot be nested any deeper: each array and object begins and ends

_NEWLINE, _RETURN = b"\n\r"  # as numbers: to look for a text of one byte takes CPython 3.11 ten times as long
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")  # as signed bytes: one deeper, or back
_NO_MARKS = bytes(set(range(256)) - set(b'"[]{}'))
_decode_raw = msgspec.json.Decoder(msgspec.Raw).decode


def encode(value: Any) -> bytes:
    """``value`` as JSON on one line. Raises TypeError for what JSON does not have."""
    return msgspec.json.encode(value)


def raw_object(fields: dict[str, bytes]) -> bytes:
    """A JSON object; the values of ``fields`` are JSON already."""
    return b"{%s}" % b",".join([b'"%s":%s' % (name.encode(), value) for name, value in fields.items()])


def decode_json(text: bytes, kind: type[Value]) -> Value:
    """``text`` as a value of type ``kind``; halves of surrogate pairs are mended. Raises msgspec.DecodeError, ValidationError for a wrong type."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError:
        mended = mend_surrogates(text)
        if mended == text:
            raise
        return msgspec.json.decode(mended, type=kind)


def mend_surrogates(text: bytes) -> bytes:
    """Halves of surrogate pairs, as ``\\ud83d`` alone, become U+FFFD.

    JavaScript's strings may hold them, where an emoji was cut in two, and its JSON then does; UTF-8 cannot. What is no UTF-8 stays as it is.
    """
    if _IN_NO_UTF8 in text:
        return text
    return _HALVES.sub(rb"\\ufffd", text.replace(rb"\\", _BACKSLASHES)).replace(_BACKSLASHES, rb"\\")


# Two backslashes are one that is escaped, which begins no escape: they are replaced meanwhile. A step of Python for each took 0.2 s for a MB.
_IN_NO_UTF8 = b"\xff"
_BACKSLASHES = _IN_NO_UTF8 * 2
_HALVES = re.compile(rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F]..)|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]..")


def is_json(data: bytes) -> bool:
    """Whether ``data`` is one JSON document in UTF-8, nested no deeper than ``MAX_DEPTH``."""
    if not _follows_the_grammar(data):
        return False
    return len(data) <= NEVER_DEEP or data.count(b"[") + data.count(b"{") <= MAX_DEPTH or _depth(data) <= MAX_DEPTH


def clean(data: bytes) -> bytes:
    """``data`` as JSON on one line. What is not JSON becomes a JSON string, so that no client ever receives a broken document."""
    if len(data) <= NEVER_DEEP and _NEWLINE not in data and _RETURN not in data and _follows_the_grammar(data):
        return data  # nearly all data: short, and on one line already
    if not is_json(data):
        data = mend_surrogates(data)
        if not is_json(data):
            return encode(data.decode(errors="replace"))
    if _NEWLINE in data or _RETURN in data:  # only ever between tokens: inside strings JSON forbids them
        return data.replace(b"\r", b" ").replace(b"\n", b" ").strip()
    return data


def clean_as(text: bytes, decode: Callable[[bytes], object]) -> bytes | None:
    """``text`` as JSON on one line if it is a document that ``decode``, a decoder for one type, takes; else None."""
    cleaned = clean(text)
    try:
        decode(cleaned)
    except UNREADABLE:
        return None
    return cleaned


def is_utf8(text: bytes) -> bool:
    """Whether ``text`` is UTF-8."""
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _follows_the_grammar(data: bytes) -> bool:
    if not (data.isascii() or is_utf8(data)):
        return False
    try:
        _decode_raw(data)
    except (RecursionError, msgspec.MsgspecError):
        return False
    return True


def _depth(data: bytes) -> int:
    """How deep the JSON in ``data`` is nested, without a step of Python for each byte: 15 ms for a MB, where those took 200.

    Quotes that belong to a text go first, and then all that is neither a quote nor a bracket. A text without brackets is two quotes in a row
    then, which may go as well: what is inside a text stays between quotes."""
    marks = data.replace(rb"\\", b"").replace(rb"\"", b"").translate(_STEPS, _NO_MARKS).replace(b'""', b"")
    steps = b"".join(marks.split(b'"')[::2])
    return max(accumulate(memoryview(steps).cast("b")), default=0)
