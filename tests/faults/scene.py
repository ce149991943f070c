"""What the faults act on, and how one of several is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, TypeVar

from .clients import Follower
from .publishing import Producers
from .schedule import Fault
from .stage import Stage

__all__ = ["Absent", "Maker", "Scene", "pick"]

Item = TypeVar("Item")


class Absent(Exception):
    """This fault cannot be made here."""


class Scene(NamedTuple):
    """What faults act on."""

    stage: Stage
    clients: Sequence[Follower]
    producers: Producers


Maker = Callable[[Scene, Fault], AbstractAsyncContextManager[str]]


def pick(items: Sequence[Item], fault: Fault) -> Item:
    """Raises Absent if there is nothing to choose from."""
    if not items:
        raise Absent("there is none")
    return items[int(fault.chance * len(items)) % len(items)]
