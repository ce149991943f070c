"""What deltas cost and save: ``python -m tests.benchmark_delta``. A document of about 1 KB of which one field changes each time."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

from gateway.channel_rules import ChannelRules
from gateway.config import Config
from gateway.edges.websocket import WEBSOCKET
from gateway.live.channel import Channel
from gateway.live.ring import Rings
from gateway.live.traffic import LiveCounts, Traffic
from gateway.live.wire_formats import Wire, delta_wire
from gateway.publication import Position, Publication
from gateway.rules.delta import encode_delta

COUNT = 2000
RUNS = 5


def documents() -> list[bytes]:
    """A restaurant's page, with a counter in its middle."""
    dishes = [{"name": f"Käsespätzle {number}", "price": f"{number + 9}.80", "vegetarian": number % 2 == 0} for number in range(16)]

    def document(number: int) -> dict[str, object]:
        return {"title": "Zum Löwen", "dishes": dishes[:8], "visitors": number, "more": dishes[8:], "open": True}

    return [json.dumps(document(number), ensure_ascii=False, separators=(",", ":")).encode() for number in range(COUNT)]


def fastest(work: Callable[[], int]) -> tuple[float, int]:
    """µs of CPU for each document, of the fastest run; and what the work returned, by document."""
    taken = []
    for _ in range(RUNS):
        begun = time.process_time()
        result = work()
        taken.append(time.process_time() - begun)
    return min(taken) / COUNT * 1e6, result // COUNT


class Mended:
    """A channel without announcements has no holes."""

    def mend(self, channel: Channel) -> None: ...

    def history_gone(self, channel: Channel, now: Position) -> None: ...


async def main() -> None:
    texts = documents()
    channel = Channel(
        "doc:1", b"gw:{doc:1}", ChannelRules(delta=True), Rings(0), asyncio.get_running_loop(), Mended(), Traffic(LiveCounts(Config()))
    )

    def encode() -> int:
        return sum(len(encode_delta(before, text)) for before, text in zip(texts[-1:] + texts, texts, strict=False))

    def rounds(wire: Wire) -> Callable[[], int]:
        def run() -> int:
            size, channel.base = 0, None
            for offset, text in enumerate(texts, 1):
                publication = Publication(offset, text)
                size += len(wire.join(channel, [publication]))
                channel.base = publication
            return size

        return run

    print(f"a document has {sum(map(len, texts)) // COUNT} bytes")
    for name, work in {
        "the delta alone": encode,
        "a round's frame, without deltas": rounds(WEBSOCKET),
        "a round's frame, all whole": rounds(delta_wire(WEBSOCKET)),
        "a round's frame, a change": rounds(delta_wire(WEBSOCKET).chained),
    }.items():
        micros, size = fastest(work)
        print(f"{name}: {micros:.1f} µs, {size} bytes")


if __name__ == "__main__":
    asyncio.run(main())
