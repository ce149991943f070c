"""Wire formats: what one round of the fan-out writes to all subscriptions of one kind, made once for all of them.

Each edge has a wire format of its own. The two kinds here are put around any of those, for subscriptions that do not get
the publications as they are: ``FilteredWire`` leaves some out, ``DeltaWire`` sends changes. They are shared as well, so
that a round makes its payload once for all subscriptions that get the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import Protocol

from ..publication import Publication, Tags
from ..rules.delta import encode_delta
from ..rules.filters import Filter, tags_of
from ..rules.json_text import encode
from ..rules.protocol import publication_object

__all__ = ["NOTHING", "ChainedDeltaWire", "ChannelView", "DeltaWire", "FilteredWire", "FreshDeltaWire", "Wire", "delta_wire"]

NODES_PER_WRITE = 16  # nodes of a filter that take about as long as one write to a subscriber: 7 µs
NOTHING = b""  # the payload of a round that has no publication for the subscriptions of a wire
AROUND_DELTA = (
    len(b',"delta":true') + 1
)  # bytes that a delta adds to its text: the field that marks it, and the escape of the newline in it


class ChannelView(Protocol):
    """What a wire format reads of a channel. ``epoch`` and ``offset`` are its position after the publications that are joined.

    ``push_prefix`` is what begins every push of the channel; ``base`` is the publication before those that are joined, for
    deltas: None if it is unknown or has no offset.
    """

    @property
    def name(self) -> str: ...

    @property
    def push_prefix(self) -> bytes: ...

    @property
    def base(self) -> Publication | None: ...

    @property
    def epoch(self) -> str: ...

    @property
    def offset(self) -> int: ...


class Wire(Protocol):
    """A wire format. ``join`` makes one payload of publications that follow each other; it is ``write`` of the wire's own
    subscriptions that takes it, so its type is known to the edge alone.
    """

    def join(self, channel: ChannelView, publications: list[Publication]) -> object: ...

    def __hash__(self) -> int: ...


class FilteredWire:
    """A wire format for subscriptions that want some of the publications only. Those with equal filters share one.

    ``work`` is about how long its filter takes for one publication, in writes to a subscriber, and ``size`` is the bytes of the filter's JSON.
    ``admitted`` is how many publications are in the payload that it made last.
    """

    __slots__ = ("_filter", "_wire", "admitted", "size", "work")

    def __init__(self, wire: Wire, filter: Filter) -> None:
        self.admitted = 0
        self._wire = wire
        self._filter = filter
        self.work = 1 + filter.nodes // NODES_PER_WRITE
        self.size = filter.size

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FilteredWire) and (other._wire, other._filter) == (self._wire, self._filter)

    def __hash__(self) -> int:
        return hash((self._wire, self._filter))

    def admits(self, tags: Tags) -> bool:
        """Whether the filter admits a publication with these tags."""
        return self._filter.admits(tags)

    def take(self, channel: ChannelView, publications: list[Publication]) -> list[Publication]:
        """The publications that the filter admits."""
        admits = self._filter.admits
        return [publication for publication in publications if admits(tags_of(publication))]

    def join(self, channel: ChannelView, publications: list[Publication]) -> object:
        """The payload of the publications that the filter admits; NOTHING if it admits none."""
        wanted = self.take(channel, publications)
        self.admitted = len(wanted)
        return self._wire.join(channel, wanted) if wanted else NOTHING


class DeltaWire(ABC):
    """A wire format whose documents are JSON strings: whole, or the change of the document before. Source: docs/reference/wire-protocol.md, Deltas.

    There are two, a pair for each wire format of an edge. On the *fresh* one the first document is whole: it is for
    subscriptions that were given no document yet. On the *chained* one the first may be a change of the channel's ``base``.
    A subscription that is at the channel's position, and was given a document since it began, was given the base last.

    Only the predecessor in history is changed. So a document that follows an ephemeral one is whole, as is the first of a
    page of catching up. A change is made once, and is stored with the publication.
    """

    __slots__ = ("_wire",)

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @abstractmethod
    def before(self, channel: ChannelView) -> Publication | None:
        """The document that all subscriptions of this wire were given last; None if they need a whole one."""

    def take(self, channel: ChannelView, publications: list[Publication]) -> list[Publication]:
        """The same publications, with ``json`` as this wire format writes it."""
        before = self.before(channel)
        taken = []
        for publication in publications:
            if before is not None and publication.offset == before.offset + 1:
                json = publication.change or _change(before, publication)
            else:
                json = _whole(publication)
            taken.append(Publication(publication.offset, publication.data, json=json))
            before = publication if publication.offset else None
        return taken

    def join(self, channel: ChannelView, publications: list[Publication]) -> object:
        return self._wire.join(channel, self.take(channel, publications))


class FreshDeltaWire(DeltaWire):
    """For subscriptions that were given no document yet. ``chained`` is the wire that follows it once they were."""

    __slots__ = ("chained",)

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self.chained = ChainedDeltaWire(wire, self)

    def before(self, channel: ChannelView) -> Publication | None:
        return None


class ChainedDeltaWire(DeltaWire):
    """For subscriptions that were given the channel's ``base``. ``fresh`` is the wire to go back to after a gap."""

    __slots__ = ("fresh",)

    def __init__(self, wire: Wire, fresh: FreshDeltaWire) -> None:
        super().__init__(wire)
        self.fresh = fresh

    def before(self, channel: ChannelView) -> Publication | None:
        return channel.base


@cache  # there are few wire formats, and they live as long as the process
def delta_wire(wire: Wire) -> FreshDeltaWire:
    """The fresh wire for deltas around ``wire``; one for each."""
    return FreshDeltaWire(wire)


def _whole(publication: Publication) -> bytes:
    return publication_object(publication, encode(publication.data.decode()))


def _change(before: Publication, publication: Publication) -> bytes:
    delta = encode_delta(before.data, publication.data)
    if len(delta) + AROUND_DELTA < len(publication.data):
        publication.change = publication_object(publication, encode(delta.decode()), delta=True)
    else:
        publication.change = _whole(publication)
    return publication.change
