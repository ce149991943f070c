"""Documents to publish, and many publications at once."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Any

from .gateways import RunningGateway

__all__ = ["edits", "publish_many"]


def edits(count: int) -> list[dict[str, Any]]:
    """A document of about 1 KB, again and again, a little different each time."""
    chance = random.Random(count)
    document: dict[str, Any] = {
        "title": "Zum Löwen",
        "rating": 4.5,
        "dishes": [{"name": f"dish {n}", "price": n * 3.1, "hot": "🌶" * n} for n in range(16)],
    }
    made = []
    for number in range(count):
        dish = chance.choice(document["dishes"])
        dish[chance.choice(["name", "price", "note"])] = chance.choice(
            ["Käse", "🧀", '"quoted"', number, number / 7, "x" * chance.randrange(60)]
        )
        if chance.random() < 0.1:
            chance.shuffle(document["dishes"])
        made.append(json.loads(json.dumps(document | {"number": number})))
    return made


def publish_many(gateway: RunningGateway, channel: str, documents: Sequence[Any], **options: Any) -> list[int]:
    """Publishes in order over the server API, in batches; returns the offsets."""
    offsets: list[int] = []
    commands = [{"publish": {"channel": channel, "data": document, **options}} for document in documents]
    size = max(len(json.dumps(commands[0])) + 2, 1)
    at_once = max(1, min(500, 8_000_000 // size))
    for start in range(0, len(commands), at_once):
        replies = gateway.api("batch", commands=commands[start : start + at_once])["replies"]
        offsets += [reply["publish"].get("offset", 0) for reply in replies]
    return offsets
