"""Keys that one function takes are in one hash slot, and every key is in the documentation's table of keys and slots."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.store.layout import Layout
from gateway.store.topology import slot_of

ROOT = Path(__file__).parents[2]
LAYOUT = Layout("gw")
TABLE = (ROOT / "static/docs/reference/valkey-layout.md").read_text().partition("their slots on a cluster")[2].partition("\n## ")[0]

TOGETHER = {
    "channel": [LAYOUT.channel("a:b"), *LAYOUT.inbox_keys("a:b"), *LAYOUT.presence("a:b"), *LAYOUT.reader("a:b", "group")],
    "queue": [*LAYOUT.queue("mail"), LAYOUT.taken("mail", "worker"), LAYOUT.results("mail")],
    "rpc": [*LAYOUT.rpc("orders.cancel")],
    "bridge": [b"events", LAYOUT.bridge("events", "name")],
    "bridge of a source with a tag": [b"app:{events}:x", LAYOUT.bridge("app:{events}:x", "name")],
}


@pytest.mark.parametrize("what", TOGETHER)
def test_keys_of_one_function_are_in_one_slot(what: str) -> None:
    assert len({slot_of(key) for key in TOGETHER[what]}) == 1


def test_every_kind_of_key_is_in_the_table() -> None:
    files = [file for folder in ("gateway", "publishers") for file in (ROOT / folder).rglob("*.py")]
    sources = [file.read_text() for file in files if file.parent.name != "bench"]  # where other servers than the gateway have keys
    kinds = {kind for source in sources for kind in re.findall(r"prefix\}:([a-z]+)", source)}
    assert kinds >= {"control", "queue", "rpc", "revoked"}
    assert not [kind for kind in kinds if f"`gw:{kind}" not in TABLE]
    suffixes = {key.rpartition(b"}")[2].decode() for key in TOGETHER["channel"]} - {"", ":reader:group", ":dead:group"}
    assert not [suffix for suffix in suffixes if f"{suffix}`" not in TABLE]
