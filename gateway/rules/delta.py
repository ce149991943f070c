"""Deltas: a document as a change of the one before it, in the format of Fossil. Pure.

Source: fossil-scm.org, "Delta Format"; docs/reference/wire-protocol.md, Deltas. A delta is text:

    <size of the target>\\n   then any number of   <bytes>@<offset in the source>,   and   <bytes>:<text>   then   <checksum>;

Numbers are written with the 64 digits below. Sizes and offsets count bytes of UTF-8. A delta travels inside a JSON string, so
every inserted text begins and ends where a character does. Source of what readers accept: ``fossil`` in the SDKs, which check sizes and sum.
"""

from __future__ import annotations

__all__ = ["encode_delta"]

_DIGITS = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~"

BLOCK = 16  # bytes in a row that must be equal to be found at another place
BLOCKS_MOST = 4096  # blocks of the source that are searched for; blocks of long documents are longer
TRIES_MOST = 4096  # places of the target at which they are searched for, about 0.1 µs each
TRIES_OF_A_COPY = 32  # a place where a block is found takes about so much longer than one where none is
COPY_LEAST = 8  # bytes: a shorter copy takes as much space as its text

Copy = tuple[int, int, int]  # offset in the source, first byte in the target, the byte after the last


def encode_delta(source: bytes, target: bytes) -> bytes:
    """The delta that makes ``target`` of ``source``, both of them UTF-8. It may be longer than ``target``.

    A common beginning and a common end are found at once, however long they are; the search between them is given up after about
    a millisecond, and what is left then is inserted. Beyond that the time grows with the size: 5 ms for each MB of target.
    """
    parts = [_number(len(target)), b"\n"]
    done = 0
    for offset, first, end in _copies(source, target):
        while first < end and _splits_character(target, first):
            first, offset = first + 1, offset + 1
        while end > first and _splits_character(target, end):
            end -= 1
        if end - first < COPY_LEAST:
            continue
        if done < first:
            parts += _number(first - done), b":", target[done:first]
        parts += _number(end - first), b"@", _number(offset), b","
        done = end
    if done < len(target):
        parts += _number(len(target) - done), b":", target[done:]
    parts += _number(_checksum(target)), b";"
    return b"".join(parts)


def _copies(source: bytes, target: bytes) -> list[Copy]:
    """The parts of the target that the source holds as well, in the target's order."""
    shorter = min(len(source), len(target))
    head = _equal_ahead(source, 0, target, 0, shorter)
    tail = _equal_before(source, len(source), target, len(target), shorter - head)
    end = len(target) - tail
    copies = [(0, 0, head)]
    if end - head >= 2 * BLOCK:
        copies += _moved(source, target, head, end)
    copies.append((len(source) - tail, end, len(target)))
    return copies


def _moved(source: bytes, target: bytes, done: int, end: int) -> list[Copy]:
    """The parts of the target between ``done`` and ``end`` that the source holds at any place: equal blocks, each extended both ways."""
    size = max(BLOCK, max(len(source), len(target)) // BLOCKS_MOST)
    blocks = {source[offset : offset + size]: offset for offset in range(0, len(source) - size + 1, size)}
    copies: list[Copy] = []
    at, last, tries = done, end - size, TRIES_MOST
    while at <= last and tries > 0:
        offset = blocks.get(target[at : at + size])
        if offset is None:
            at, tries = at + 1, tries - 1
            continue
        back = _equal_before(source, offset, target, at, min(offset, at - done))
        stop = at + _equal_ahead(source, offset, target, at, min(len(source) - offset, end - at))
        copies.append((offset - back, at - back, stop))
        at, done, tries = stop, stop, tries - TRIES_OF_A_COPY
    return copies


def _equal_ahead(a: bytes, i: int, b: bytes, j: int, most: int) -> int:
    """How many bytes are equal from ``a[i]`` and ``b[j]`` on, up to ``most``: pieces twice as long each time, then halves."""
    equal, step = 0, BLOCK
    while equal + step <= most and a[i + equal : i + equal + step] == b[j + equal : j + equal + step]:
        equal, step = equal + step, step * 2
    while step := step // 2:
        if equal + step <= most and a[i + equal : i + equal + step] == b[j + equal : j + equal + step]:
            equal += step
    return equal


def _equal_before(a: bytes, i: int, b: bytes, j: int, most: int) -> int:
    """How many bytes before ``a[i]`` and ``b[j]`` are equal, up to ``most``."""
    equal, step = 0, BLOCK
    while equal + step <= most and a[i - equal - step : i - equal] == b[j - equal - step : j - equal]:
        equal, step = equal + step, step * 2
    while step := step // 2:
        if equal + step <= most and a[i - equal - step : i - equal] == b[j - equal - step : j - equal]:
            equal += step
    return equal


def _splits_character(text: bytes, place: int) -> bool:
    return place < len(text) and text[place] & 0xC0 == 0x80


def _number(value: int) -> bytes:
    digits = bytearray()
    while True:
        digits.append(_DIGITS[value & 63])
        value >>= 6
        if not value:
            digits.reverse()
            return bytes(digits)


def _checksum(text: bytes) -> int:
    """The sum of its 32-bit words, the first byte the highest; zeros fill the last word."""
    return (sum(text[::4]) << 24) + (sum(text[1::4]) << 16) + (sum(text[2::4]) << 8) + sum(text[3::4]) & 0xFFFFFFFF
