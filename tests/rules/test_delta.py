"""Deltas: texts that the SDK's own applier undoes, and documents that stay whole in every order of events."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter

import pytest
from centrifuge.fossil import apply_delta
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import Config
from gateway.live.wire_formats import delta_wire
from gateway.publication import Publication
from gateway.rules.delta import BLOCK, encode_delta

from ..kit.examples import examples
from ..kit.model import WIRE, Client, Follower, ModelValkey, World, hurry

# The text.

LETTERS = st.sampled_from(["a", "b", '"', "\n", "\x00", "ä", "€", "😀", "𝕏", "ạ"])
PIECES = st.lists(st.text(LETTERS, min_size=1, max_size=50), min_size=1, max_size=8)
ORDERS = st.lists(st.tuples(st.integers(0, 7), st.text(LETTERS, max_size=6), st.integers(1, 40)), max_size=12)


def check(source: str, target: str) -> bytes:
    delta = encode_delta(source.encode(), target.encode())
    travelled = json.loads(json.dumps(delta.decode())).encode()
    assert apply_delta(source.encode(), travelled) == target.encode()
    return delta


@given(st.text(LETTERS, max_size=80), st.text(LETTERS, max_size=80))
def test_a_delta_turns_any_text_into_any_other(source: str, target: str) -> None:
    check(source, target)


@settings(max_examples=examples(300))
@given(PIECES, ORDERS)
def test_a_delta_handles_pieces_that_are_moved_repeated_and_mixed_with_new(pieces: list[str], orders: list[tuple[int, str, int]]) -> None:
    check("".join(pieces), "".join(pieces[number % len(pieces)] * times + between for number, between, times in orders))


@pytest.mark.parametrize("size", [100_000, 1_000_000])
def test_a_delta_of_a_long_document_with_moved_parts_is_small(size: int) -> None:
    """Parts that moved are found by longer blocks; nothing is found in a document that is unlike."""
    text = random.Random(1).randbytes(size).hex()
    moved = "new first " + text[size:] + " between " + text[:size] + " new last"
    assert len(check(text, moved)) < size / 100
    assert len(check(text, random.Random(2).randbytes(size).hex())) > size


@pytest.mark.parametrize(
    ("source", "target", "delta"),
    [
        ("", "", "0\n0;"),
        ("", "new", "3\n3:new1jPNS0;"),
        ("0123456789" * 7, "0123456789" * 7, "16\n16@0,2gkNU5;"),
        ("0123456789 old 0123456789", "0123456789 newer 0123456789", "R\nB@0,5:newerB@E,2Chtrn;"),
    ],
)
def test_a_delta_has_the_format_of_fossil(source: str, target: str, delta: str) -> None:
    assert check(source, target) == delta.encode()


def test_an_inserted_text_is_cut_between_characters() -> None:
    """ä and ö begin with the same byte, ö and 𝕏's relatives end alike: what both texts share is longer in bytes than in characters."""
    for old, new in itertools.permutations(["ä", "ö", "€", "₭", "😀", "😁", "🤀"], 2):
        delta = check(f"{'x' * 20}{old}{'y' * 20}", f"{'x' * 20}{new}{'y' * 20}")
        assert new.encode() in delta and len(delta) < 30


def test_a_moved_piece_is_found() -> None:
    first, second = "a first sentence that is long enough", "and a second one, which is as long"
    delta = check(f"[{first}, {second}]", f"[{second}, {first}]")
    assert len(delta) < len(first) and BLOCK < len(first)


# The wire. The model of recovery again, with clients that apply deltas, and with ephemeral documents in between.


class Documents(ModelValkey):
    """Its documents are alike, and long enough for deltas. Ephemeral ones are not in history, and only now and then announced."""

    def __init__(self) -> None:
        super().__init__()
        self.ephemeral: set[bytes] = set()

    def document(self) -> bytes:
        return b'{"title":"a document of which little changes","n":%d,"text":"and this is the rest of it, \xc3\xa4"}' % self.count

    def announce(self) -> None:
        self.count += 1
        data = self.document()
        self.ephemeral.add(data)
        if self.subscribed:
            self.messages.append(("message", data))


class DeltaClient(Client):
    """Makes each document from the one before. ``came`` notes whether it came as a change."""

    wire = delta_wire(WIRE)
    last = b""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.came: list[str] = []

    def begun(self, follower: Follower, recovered: bool, publications: list[Publication]) -> None:
        super().begun(follower, recovered, follower.wire.take(follower.channel, publications))

    def receive(self, joined: tuple[str, list[Publication]]) -> None:
        epoch, publications = joined
        for publication in publications:
            came = json.loads(publication.json or b"")
            assert came.get("offset", 0) == publication.offset
            self.last = apply_delta(self.last, came["data"].encode()) if came.get("delta") else came["data"].encode()
            self.came.append("change" if came.get("delta") else "whole")
            if publication.offset:
                super().receive((epoch, [Publication(publication.offset, self.last)]))
            else:
                assert self.last in self.world.valkey.ephemeral
                self.came[-1] += " ephemeral"


class PlainClient(Client):
    def receive(self, joined: tuple[str, list[Publication]]) -> None:
        epoch, publications = joined
        super().receive((epoch, [publication for publication in publications if publication.offset]))


class DeltaWorld(World):
    """Two clients with deltas, and one without in the same rounds."""

    def __init__(self) -> None:
        super().__init__(Config(namespaces={"posts": {"delta": True}}), Documents(), (DeltaClient, DeltaClient, PlainClient))

    def possible(self) -> list[str]:
        return [*super().possible(), "ephemeral"]

    def do(self, action: str) -> None:
        if action == "ephemeral":
            self.trail.append(action)
            self.valkey.announce()
        else:
            super().do(action)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    hurry(monkeypatch)


async def _play(seed: int, counted: Counter[str]) -> None:
    """A walk of a hundred steps from where one is live; what gets on is likelier than what gets lost."""
    chance, world = random.Random(seed), DeltaWorld()
    try:
        for action in [*LIVE, "subscribe1", "subscribe2"]:
            world.do(action)
            await world.steps(3)
        for _ in range(100):
            possible = world.possible()
            likely = [action for action in possible if action in ("execute", "arrive", "message", "publish")]
            world.do(chance.choice([action for action in possible if action not in RUIN or chance.random() < 0.1] + likely * 4))
            await world.steps(chance.randrange(4))
        await world.heal()
        counted.update(way for client in world.clients[:2] for way in client.came)
    finally:
        await world.close()


def test_in_every_order_of_events_deltas_lead_to_the_published_documents() -> None:
    counted: Counter[str] = Counter()

    @settings(max_examples=examples(300))
    @given(st.integers(0, 2**32))
    def play(seed: int) -> None:
        asyncio.run(_play(seed, counted))

    play()
    assert min(counted[way] for way in ("change", "whole", "whole ephemeral")) > examples(300), counted


RUIN = {"lose", "trim", "link", "drop", "fail"}
LIVE = ["subscribe0", "execute", "message", "execute", "arrive"]
ANNOUNCED = ["publish", "message"]
AGAIN = ["lose", *ANNOUNCED, "execute", "arrive"]  # history begins again, and is read up to its first publication


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        (ANNOUNCED * 3, "whole, change, change"),
        ([*ANNOUNCED, *ANNOUNCED, "ephemeral", "message", *ANNOUNCED, *ANNOUNCED], "whole, change, whole ephemeral, whole, change"),
        ([*ANNOUNCED, *ANNOUNCED, "leave0", "subscribe0", *ANNOUNCED, *ANNOUNCED], "whole, change, whole, change"),
        ([*ANNOUNCED, "leave0", *ANNOUNCED, *ANNOUNCED, "subscribe0", *ANNOUNCED], "whole, whole, change, change"),
        ([*ANNOUNCED, "socket0", *ANNOUNCED, *ANNOUNCED, "socket0", *ANNOUNCED], "whole, whole, change, change"),
        ([*ANNOUNCED, "socket0", "socket0", *ANNOUNCED], "whole, change"),
        ([*ANNOUNCED, "socket0", "ephemeral", "message", "socket0", *ANNOUNCED, *ANNOUNCED], "whole, whole, change"),
        (
            [*ANNOUNCED, "ephemeral", "message", "socket0", *ANNOUNCED, *ANNOUNCED, "socket0", *ANNOUNCED],
            "whole, whole ephemeral, whole, change, change",
        ),
        ([*ANNOUNCED, "subscribe1", *ANNOUNCED, *ANNOUNCED], "whole, change, change"),
        (["subscribe1", "subscribe2", *ANNOUNCED, *ANNOUNCED], "whole, change"),
        ([*ANNOUNCED, *AGAIN, *ANNOUNCED], "whole, whole"),
        ([*ANNOUNCED, "socket0", *AGAIN, *ANNOUNCED, "socket0", *ANNOUNCED], "whole, whole"),
        ([*ANNOUNCED, "publish", "drop", *ANNOUNCED, "execute", "arrive", *ANNOUNCED], "whole, change, change, change"),
    ],
    ids=[
        "live",
        "ephemeral",
        "comes back",
        "recovers",
        "was slow",
        "was slow for nothing",
        "missed one",
        "ephemeral last",
        "joined",
        "a round in slices",
        "a new life",
        "was slow and lost",
        "a hole",
    ],
)
async def test_documents_come_whole_where_a_delta_is_not_possible(actions: list[str], expected: str) -> None:
    world = DeltaWorld()
    try:
        for action in [*LIVE, *actions]:
            world.do(action)
            await world.steps(4)
    finally:
        await world.close()
    assert ", ".join(world.clients[0].came) == expected
