"""The faults, each a context manager that makes it and mends it when its block ends. ``schedule.KINDS`` has one row for each.

What a block yields names what was hit. ``Absent`` is raised where a fault cannot be made on this machine.
"""

from __future__ import annotations

from . import process_faults, valkey_faults
from .scene import Maker
from .schedule import KINDS

__all__ = ["MAKERS"]

MAKERS: dict[str, Maker] = {
    name: getattr(module, name) for module in (process_faults, valkey_faults) for name in KINDS if hasattr(module, name)
}
