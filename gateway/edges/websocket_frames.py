"""Frames as nearly every client sends them: whole messages in whole frames. Source: RFC 6455, 5.2.

``websockets``' protocol reads any frames, but takes 2 KiB a connection and 20 µs for its first frame. It is made for the first read that is
anything else: a fragment, a ping, a close frame, a part of a frame, a mistake.
"""

from __future__ import annotations

try:
    from websockets.speedups import apply_mask
except ImportError:  # a wheel without the part in C
    from websockets.utils import apply_mask

__all__ = ["whole_messages"]

_WHOLE = (0x81, 0x82)  # the last fragment, which is the first too, of text or of binary data
_MASKED = 0x80
_MASK_BYTES = 4


def whole_messages(data: bytes, most: int, together: int) -> list[bytes] | None:
    """The messages in ``data``, if it is nothing but whole, masked frames of a message each, of ``most`` bytes at most; else None.

    Several messages have ``together`` bytes at most. Of more bytes only the first frame is looked at: one read may bring forty thousand frames.
    """
    messages = []
    at, end = 0, len(data)
    while at < end:
        if end - at < 2 or data[at] not in _WHOLE or data[at + 1] < _MASKED:
            return None
        length = data[at + 1] - _MASKED
        at += 2
        if length >= 126:
            size = 2 if length == 126 else 8
            length = int.from_bytes(data[at : at + size])
            at += size
        start = at + _MASK_BYTES
        if length > most or start + length > end or start + length < end > together:
            return None
        mask = data[at:start]
        message, at = data[start : start + length], start + length
        messages.append(apply_mask(message, mask) if mask != b"\0\0\0\0" else message)
    return messages
