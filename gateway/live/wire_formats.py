"""Wires: what one round of the fan-out hands to every subscription that speaks alike.

An edge brings a wire of its own; the two here stand in front of any of them, for subscriptions that want something else than
the publications as they are. They are shared too, so that a round makes what it writes once for all who get the same.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from ..publication import Publication
from ..rules.delta import encode_delta
from ..rules.filters import Filter
from ..rules.json_text import encode
from ..rules.protocol import publication_object

if TYPE_CHECKING:
    from .channel import Channel

__all__ = ["NOTHING", "DeltaWire", "FilteredWire", "Wire", "delta_wire"]

NOTHING = b""  # what a round writes to those who want nothing of it
AROUND_DELTA = len(b',"delta":true') + 1  # what a delta takes beside its text: its sign, and the escape of the newline in it


class Wire(Protocol):
    """A wire format: what one round hands to ``write`` of every subscription that speaks it."""

    def join(self, channel: Channel, publications: list[Publication]) -> Any: ...

    def __hash__(self) -> int: ...


class FilteredWire:
    """A wire for subscriptions that want some publications only. Those with the same filter share it, as they do a wire."""

    __slots__ = ("_filter", "_wire")

    def __init__(self, wire: Wire, filter: Filter) -> None:
        self._wire = wire
        self._filter = filter

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FilteredWire) and (other._wire, other._filter) == (self._wire, self._filter)

    def __hash__(self) -> int:
        return hash((self._wire, self._filter))

    def take(self, channel: Channel, publications: list[Publication]) -> list[Publication]:
        return [publication for publication in publications if self._filter.admits(publication.tags)]

    def join(self, channel: Channel, publications: list[Publication]) -> Any:
        wanted = self.take(channel, publications)
        return self._wire.join(channel, wanted) if wanted else NOTHING


class DeltaWire:
    """A wire whose documents come as JSON strings: whole, or as the change of the document before. Source: PROTOCOL.md 1.10.

    There are two of a kind. On ``fresh`` the first document is whole; that is for subscriptions that were given none yet. On
    ``chained`` it may be a change of the channel's ``base``, the publication that came last if it has an offset: whoever stands
    at the channel's position and was given anything since it began was given that one, and nothing after it.

    So one that follows an ephemeral publication is whole, the first of a page of catching up too, and a change, which is
    always one of the predecessor in history, is made once and kept with the publication.
    """

    __slots__ = ("_wire", "chained", "fresh")

    def __init__(self, wire: Wire, fresh: DeltaWire | None = None) -> None:
        self._wire = wire
        self.fresh = self if fresh is None else fresh
        self.chained = DeltaWire(wire, self) if fresh is None else self

    def take(self, channel: Channel, publications: list[Publication]) -> list[Publication]:
        """The same publications as they stand on this wire."""
        before = channel.base if self is self.chained else None
        taken = []
        for publication in publications:
            if before is not None and publication.offset == before.offset + 1:
                json = publication.change or _change(before, publication)
            else:
                json = _whole(publication)
            taken.append(Publication(publication.offset, publication.data, json=json))
            before = publication if publication.offset else None
        return taken

    def join(self, channel: Channel, publications: list[Publication]) -> Any:
        return self._wire.join(channel, self.take(channel, publications))


@cache  # wires are few and live as long as the process
def delta_wire(wire: Wire) -> DeltaWire:
    """The fresh one in front of ``wire``."""
    return DeltaWire(wire)


def _whole(publication: Publication) -> bytes:
    return publication_object(publication, encode(publication.data.decode()))


def _change(before: Publication, publication: Publication) -> bytes:
    delta = encode_delta(before.data, publication.data)
    if len(delta) + AROUND_DELTA < len(publication.data):
        publication.change = publication_object(publication, encode(delta.decode()), delta=True)
    else:
        publication.change = _whole(publication)
    return publication.change
