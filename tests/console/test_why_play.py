"""Why? against the truth: random clients and faults, and what each socket really received."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import valkey

from ..kit.valkeys import OwnValkey
from ..kit.why_play import World

SECONDS = 25


@pytest.fixture(scope="module")
def store(own: OwnValkey) -> Iterator[valkey.Valkey]:
    with valkey.from_url(own.url) as client:
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 4, 6, 21])  # one process and two, few events, none, and only of one of two processes
def test_why_never_says_what_no_socket_bears_out(own: OwnValkey, store: valkey.Valkey, tmp_path: Path, seed: int) -> None:
    world = World(tmp_path, store, own.url, seed)
    asyncio.run(world.play(SECONDS))
    assert not world.defects, "\n".join(f"{each.kind}: {each.text}\n{each.answer}" for each in world.defects)
    assert world.received and sum(world.verdicts.values()) > 5
