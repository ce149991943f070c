"""What nodes of a cluster say about slots and places, in every form that they have."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import StoreError, Unavailable
from gateway.store.topology import named_in, view_of

ASKED = ("10.0.0.1", 7000)
INFO = b"cluster_state:ok\r\ncluster_current_epoch:7\r\n"


@pytest.mark.parametrize(
    ("text", "host"), [("b.test", "b.test"), ("", "10.0.0.1"), ("?", "10.0.0.1"), ("::1", "::1"), ("10.0.0.2", "10.0.0.2")]
)
def test_a_redirection_names_a_place(text: str, host: str) -> None:
    assert named_in(f"MOVED 3999 {text}:6381", ASKED) == named_in(f"ASK 3999 {text}:6381", ASKED) == (host, 6381)


@pytest.mark.parametrize("refusal", ["MOVED", "ASK 1", "MOVED 1 here", "MOVED 1 here:", "MOVED 1 here:x"])
def test_a_redirection_without_a_place_is_refused(refusal: str) -> None:
    with pytest.raises(Unavailable, match="names no other node"):
        named_in(refusal, ASKED)


def test_a_node_without_a_hostname_is_found_by_its_address() -> None:
    view = view_of(INFO, [[0, 5, [b"?", 1, b"id", [b"ip", b"10.0.0.2"]], [b"?", 2, b"id"]], [6, 16383, [None, 3, b"id", []]]], ASKED)
    assert view.ranges == [(0, 5, ("10.0.0.2", 1)), (6, 16383, ("10.0.0.1", 3))]
    assert (view.replicas, view.whole, view.epoch) == ([("10.0.0.1", 2)], True, 7)


@pytest.mark.parametrize(
    "slots", [b"OK", 1, [[1, 2]], [[5, 4, [b"a", 1, b"id"]]], [[0, 16384, [b"a", 1, b"id"]]], [[0, 1, [b"a", b"x"]]], [[0, 1, []]]]
)
def test_a_table_of_another_form_is_refused_in_words(slots: Any) -> None:
    with pytest.raises(StoreError, match=r"10\.0\.0\.1:7000 does not say in a known form"):
        view_of(INFO, slots, ASKED)
