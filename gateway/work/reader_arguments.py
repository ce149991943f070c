"""What a reader may be given, checked before it connects. Every error is a sentence that names the mistake."""

from __future__ import annotations

from datetime import datetime

from ..publication import MAX_OFFSET, Position, channel_fault

__all__ = ["Start", "check_reader", "start_word"]

Start = Position | str | datetime | int | None
LEASE_MOST = 3600  # seconds; gateway_reader_beat takes no longer one


def start_word(start: Start) -> str:
    """A start as the functions take it. Raises ValueError for what is none, TypeError for another type."""
    if start is None:
        return ""
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise ValueError("a time to start from needs a time zone: datetime.now(UTC)")
        return f"@{max(int(start.timestamp() * 1000), 0)}"
    if isinstance(start, int) and not isinstance(start, bool):
        if not 0 <= start <= MAX_OFFSET:
            raise ValueError(f"an offset to start from is a number from 0, not {start}")
        return f":{start}"
    if not isinstance(start, str | Position):
        raise TypeError(f"a start is a Position, its text, an offset or a datetime, not {start!r}")
    position = Position.parse(start) if isinstance(start, str) else start
    if not (position.epoch.isalnum() or position.epoch == "") or len(position.epoch) > 64 or position.offset < 0:
        raise ValueError(f"{str(position)[:80]!r} is not a position of a channel")
    return str(position)


def check_reader(group: str, channels: list[str], namespace: str, deliveries: int, unacknowledged: int, lease: float) -> None:
    """Raises ValueError with a sentence that names the mistake."""
    if fault := channel_fault(group):
        raise ValueError(fault.replace("channel", "group"))
    if bool(channels) == bool(namespace):
        raise ValueError("a reader follows either channels or a namespace")
    for channel in channels:
        if fault := channel_fault(channel):
            raise ValueError(f"{channel!r}: {fault}")
    if namespace and (":" in namespace or channel_fault(namespace)):
        raise ValueError(f"{namespace!r} is not the name of a namespace")
    if deliveries < 1 or unacknowledged < 1:
        raise ValueError("deliveries and unacknowledged are at least 1")
    if not 0.1 <= lease < LEASE_MOST:
        raise ValueError(f"a lease is from 0.1 to {LEASE_MOST} seconds, not {lease}")
