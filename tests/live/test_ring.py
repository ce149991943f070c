"""Rings against a list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.live.ring import RING_LENGTH, Ring, Rings
from gateway.publication import Publication


def publications(first: int, last: int) -> list[Publication]:
    return [Publication(offset, b"%d" % offset) for offset in range(first, last + 1)]


def offsets(run: list[Publication] | None) -> list[int] | None:
    return None if run is None else [publication.offset for publication in run]


@given(st.integers(0, 40), st.integers(-1, 20), st.integers(0, 45))
def test_a_ring_returns_all_that_follows_an_offset_or_none(count: int, size: int, since: int) -> None:
    ring = Ring(Rings(10**9))
    for publication in publications(1, count):
        ring.append(publication, size, expires=100, now=0)
    kept = list(range(1, count + 1))[-size if size > 0 else 0 :] if size else []
    if size < 0:
        kept = list(range(1, count + 1))
    run = offsets(ring.after(since, 10**9, now=0))
    if not kept or since + 1 < kept[0]:
        assert run is None
    else:
        assert run == [offset for offset in kept if offset > since]


def test_a_ring_that_is_filled_backwards_has_no_hole() -> None:
    ring = Ring(Rings(10**9))
    ring.extend_back(publications(5, 8), top=10, size=-1, expires=100, now=0)
    assert len(ring) == 0, "it would not reach the top"
    ring.extend_back(publications(6, 10), top=10, size=-1, expires=100, now=0)
    ring.extend_back(publications(2, 7), top=10, size=-1, expires=100, now=0)
    assert offsets(ring.after(1, 10**9, 0)) == list(range(2, 11))
    ring.append(Publication(11, b"11"), -1, expires=100, now=0)
    assert offsets(ring.after(9, 10**9, 0)) == [10, 11]


def test_a_ring_is_empty_when_its_history_has_expired() -> None:
    ring = Ring(Rings(10**9))
    ring.append(Publication(1, b"1"), -1, expires=50, now=0)
    assert offsets(ring.after(0, 100, now=49)) == [1]
    assert ring.after(0, 100, now=50) is None
    assert len(ring) == 0


def test_what_expired_stays_so_when_another_publication_comes() -> None:
    ring = Ring(Rings(10**9))
    ring.append(Publication(1, b"1"), -1, expires=50, now=0)
    ring.append(Publication(2, b"2"), -1, expires=110, now=60)
    assert ring.after(0, 100, now=61) is None
    assert offsets(ring.after(1, 100, now=61)) == [2]


def test_a_page_of_history_brings_nothing_back_that_expired() -> None:
    ring = Ring(Rings(10**9))
    ring.append(Publication(3, b"3"), -1, expires=110, now=60)
    ring.extend_back(publications(1, 2), top=3, size=-1, expires=50, now=61)
    assert ring.after(0, 100, now=61) is None
    ring.extend_back(publications(1, 2), top=3, size=-1, expires=110, now=61)
    assert offsets(ring.after(0, 100, now=61)) == [1, 2, 3]
    ring.extend_back(publications(1, 2), top=3, size=-1, expires=200, now=120)
    assert len(ring) == 0, "its own publication had expired, and the page does not end at the top"


def test_a_ring_ends_with_history_however_late_an_announcement_is_handled() -> None:
    rings = Rings(10**9)
    ring = Ring(rings)
    assert ring.expiry(1_000_000, ttl=5, now=100) <= 105
    assert ring.expiry(1_010_000, ttl=5, now=140) <= 115, "it was made at 110"
    assert ring.expiry(1_040_000, ttl=0, now=140) == float("inf")


def test_a_run_is_bounded_in_bytes_and_holds_at_least_one_publication() -> None:
    ring = Ring(Rings(10**9))
    for offset in range(1, 5):
        ring.append(Publication(offset, b"x" * 100), -1, expires=1, now=0)
    assert offsets(ring.after(0, 1, 0)) == [1]
    assert offsets(ring.after(0, 250, 0)) == [1, 2, 3]


def test_a_ring_is_never_longer_than_its_limit() -> None:
    ring = Ring(Rings(10**9))
    for publication in publications(1, RING_LENGTH + 10):
        ring.append(publication, -1, expires=1, now=0)
    assert len(ring) == RING_LENGTH


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 2000)), max_size=200))
def test_all_rings_together_stay_within_their_budget(acts: list[tuple[int, int]]) -> None:
    budget = 20_000
    rings = Rings(budget)
    all_rings = [Ring(rings) for _ in range(6)]
    for number, length in acts:
        ring = all_rings[number]
        offset = len(ring) and ring.after(0, 10**9, 0) and 1
        ring.append(Publication(offset or 1, b"x" * length), -1, expires=1, now=0)
        assert rings.bytes <= budget
    assert rings.bytes == sum(ring._bytes for ring in all_rings)
    assert rings.peak <= budget + 400 + 3 * 2000
    for ring in all_rings:
        ring.clear()
    assert rings.bytes == 0 and len(rings) == 0
