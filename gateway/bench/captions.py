"""When and where a report was measured, in words."""

from __future__ import annotations

from datetime import datetime

from .amounts import byte_count
from .report import Machine

__all__ = ["cores", "day", "machine_words", "moment"]


def moment(began: str) -> str:
    """When a run began, as people write it; as it is in the report if it is no time."""
    try:
        time = datetime.fromisoformat(began)
    except ValueError:
        return began
    return f"{time.day} {time:%B %Y, %H:%M} {time.tzname() or ''}".rstrip()


def day(began: str) -> str:
    return moment(began).split(",")[0]


def machine_words(machine: Machine) -> str:
    """The machine in one line, from what matters most."""
    parts = [cores(machine), byte_count(machine.memory), machine.system, f"Python {machine.python}", f"Valkey {machine.valkey}"]
    return ", ".join(parts)


def cores(machine: Machine) -> str:
    return f"{machine.cores} core{'' if machine.cores == 1 else 's'} of {machine.cpu}"
