"""The events of a stream as bytes: publications with their ids, the events of its beginning, gaps and refusals.

The event of a publication without its id is the same in all streams, so it is made once. A stream of one channel shares the id too;
a stream of several writes ids of its own, which hold the positions of all its channels.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ...live.wire_formats import ChannelView
from ...publication import Position, Publication
from ...rules.json_text import encode, raw_object
from ...rules.recovery import NEVER_WAS
from ..outlets import chunk

__all__ = [
    *("CHUNKED", "PLAIN", "SEVERAL", "Start", "about", "event", "gap_event", "mark_of", "opening_events", "publication_event"),
    *("refusal", "retry", "several_ids"),
]

RETRY_MS = 1000  # after an ordinary loss
RETRY_SPREAD_MS = (2000, 12000)  # after a refusal or a drain, so that all do not come back at once


def event(name: str, data: bytes, id: bytes = b"") -> bytes:
    """An event of the stream; one without an id leaves the last id of the client as it is."""
    line = b"id: %b\n" % id if id else b""
    return b"%bevent: %b\ndata: %b\n\n" % (line, name.encode(), data)


def retry(refused: bool = False) -> bytes:
    """After how many milliseconds the client opens the stream again, if it ends."""
    return b"retry: %d\n" % (random.randint(*RETRY_SPREAD_MS) if refused else RETRY_MS)


def publication_event(channel: ChannelView, publication: Publication) -> bytes:
    """The event without its id: shared by all streams."""
    if publication.sse is None:
        fields = {"channel": encode(channel.name)}
        if publication.offset:
            fields["offset"] = b"%d" % publication.offset
        fields["data"] = publication.data
        if publication.tags is not None:
            fields["tags"] = publication.tags
        if publication.info is not None:
            fields["info"] = publication.info
        publication.sse = b"data: %b\n\n" % raw_object(fields)
    return publication.sse


def mark_of(position: Position) -> bytes:
    """A position inside an id; a channel without history has none."""
    return str(position).encode() if position.offset or position.epoch not in ("", "-") else b"-"


def several_ids(marks: Iterable[bytes]) -> bytes:
    """The id that holds the positions of several channels, in the order of the request, of which these are the marks; of one channel, its mark."""
    return b",".join(marks)


class SingleWire:
    """One channel: every stream gets the same bytes. ``chunked``: framed for HTTP already."""

    def __init__(self, chunked: bool) -> None:
        self._chunked = chunked

    def join(self, channel: ChannelView, publications: list[Publication]) -> bytes:
        offset = next((p.offset - 1 for p in publications if p.offset), channel.offset)
        parts: list[bytes] = []
        for publication in publications:
            offset = publication.offset or offset
            parts += b"id: %b\n" % mark_of(Position(channel.epoch, offset)), publication_event(channel, publication)
        text = b"".join(parts)
        return chunk(text) if self._chunked else text


class SeveralWire:
    """Several channels: every stream writes ids of its own, so it gets the publications."""

    def join(self, channel: ChannelView, publications: list[Publication]) -> tuple[ChannelView, list[Publication]]:
        return channel, publications


CHUNKED, PLAIN, SEVERAL = SingleWire(True), SingleWire(False), SeveralWire()


class Start(NamedTuple):
    """How a channel of a stream began. ``top`` is where catching up ends, ``number`` its place in ids."""

    channel: str
    recovered: bool
    position: Position
    gap: bool
    top: int
    number: int


def opening_events(client: str, starts: Sequence[Start], marks: Sequence[bytes], *, ttl: int, ping: int) -> bytes:
    """The event `connected` of the stream's ``client``, and a gap for each channel that could not be recovered.

    ``ttl``: seconds until the stream ends, ``ping``: between its pings; 0 for a stream without. ``marks`` are those of all channels.
    """
    channels = b",".join(
        b'%b:{"epoch":%b,"offset":%d,"recovered":%b}'
        % (encode(start.channel), encode(start.position.epoch), start.position.offset, encode(start.recovered))
        for start in starts
    )
    tops = b",".join(b"%b:%d" % (encode(start.channel), start.top) for start in starts if start.recovered)
    times = (b',"ttl":%d' % ttl if ttl else b"") + (b',"ping":%d' % ping if ping else b"")
    data = b'{"client":%b,"channels":{%b},"tops":{%b}%b}' % (encode(client), channels, tops, times)
    # Until its gap was sent, the mark of a lost channel is a position that never was: a line cut in between must not hide the gap.
    gaps, sent = [start for start in starts if start.gap], list(marks)
    for start in gaps:
        sent[start.number] = mark_of(NEVER_WAS)
    parts = [event("connected", data, several_ids(sent))]
    for start in gaps:
        sent[start.number] = mark_of(start.position)
        parts.append(gap_event(start.channel, start.position, several_ids(sent)))
    return b"".join(parts)


def gap_event(channel: str, position: Position, id: bytes) -> bytes:
    """Publications before ``position`` are lost for this client."""
    data = b'{"channel":%b,"epoch":%b,"offset":%d}' % (encode(channel), encode(position.epoch), position.offset)
    return event("gap", data, id)


def refusal(code: int, message: str, channel: str = "") -> bytes:
    """The event `refused`, after which the stream ends. ``channel``: the one whose subscription token is the cause.

    It has no id, so that the browser's last id stays.
    """
    return retry(refused=True) + event("refused", about(b'"code":%d,"message":%b' % (code, encode(message)), channel))


def about(fields: bytes, channel: str) -> bytes:
    """An object of these fields, and of the channel they are about; "" for none."""
    return b'{%b,"channel":%b}' % (fields, encode(channel)) if channel else b"{%b}" % fields
