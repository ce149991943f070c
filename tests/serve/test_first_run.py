"""The secrets of a first run, where their file is not as the gateway wrote it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.config import load
from gateway.errors import ConfigurationError
from gateway.serve.first_run import FILE, with_secrets


def test_a_file_of_another_user_is_not_said_to_be_one_to_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, all tokens would end."""

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ConfigurationError, match=r"cannot be read: Permission denied; run this as the user that the gateway runs as$"):
        with_secrets(load(data_dir=str(tmp_path)), make=False)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"hmac_secret": 5, "api_key": "k"}', '{"hmac_secret": "", "api_key": "k"}'])
def test_a_file_without_secrets_is_reported(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ConfigurationError, match=r"holds no secrets .* remove it to have new ones made, which ends all tokens"):
        with_secrets(load(data_dir=str(tmp_path)), make=False)


def test_the_secrets_are_on_the_disk_before_they_are_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after the first run would leave an empty file."""
    written: list[int] = []

    def sync(descriptor: int) -> None:
        assert not (tmp_path / FILE).exists()
        written.append(os.fstat(descriptor).st_size)

    monkeypatch.setattr(os, "fsync", sync)
    with_secrets(load(data_dir=str(tmp_path)), make=True)
    assert written == [(tmp_path / FILE).stat().st_size]
