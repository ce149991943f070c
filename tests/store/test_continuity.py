"""Whether an embedded server goes on where the last one ended: after a restore or a power cut, clients have to be notified of a gap."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gateway.store import continuity
from gateway.store.continuity import Continuity
from gateway.store.embedded import EmbeddedServer


def boots(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (folder / "boot").write_text(name)
    monkeypatch.setattr(continuity, "BOOT", folder / "boot")


def test_a_machine_that_went_down_under_it_may_have_lost_the_last_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = Continuity(tmp_path)
    boots(tmp_path, monkeypatch, "first")
    assert not note.is_broken(), "a folder of an older version has no note"
    note.note(stopped=False)
    assert not note.is_broken(), "the gateway was killed, and its server ran on"
    boots(tmp_path, monkeypatch, "second")
    assert note.is_broken()
    note.note(stopped=True)
    boots(tmp_path, monkeypatch, "third")
    assert not note.is_broken(), "it was stopped before"


def test_a_server_on_a_copy_of_a_folder_knows_it_until_that_was_taken_into_account(tmp_path: Path) -> None:
    old, copy = tmp_path / "old", tmp_path / "copy"
    server = EmbeddedServer(old)
    server.start()
    assert not server.is_older
    server.stop()
    shutil.copytree(old, copy)
    restored = EmbeddedServer(copy)
    restored.start()
    assert restored.is_older
    restored.stop()
    restored.start()
    assert restored.is_older, "the gateway ended before it could renew the epochs"
    restored.goes_on()
    restored.stop()
    restored.start()
    assert not restored.is_older
    restored.stop()


def test_an_older_state_that_is_written_over_the_newer_one_is_noticed(tmp_path: Path) -> None:
    """As the documentation restores a backup: the folder is the same one, and the note in it is the backup's."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    server = EmbeddedServer(data)
    for _ in range(2):
        server.start()
        assert not server.is_older, "nothing was changed while it was stopped"
        server.stop()
        if not backup.exists():
            shutil.copytree(data, backup)
    shutil.copytree(backup, data, dirs_exist_ok=True)
    server.start()
    assert server.is_older
    server.stop()


def test_a_note_of_an_older_version_has_no_time(tmp_path: Path) -> None:
    (tmp_path / "gateway.continuity").write_text("stopped none\n")
    assert not Continuity(tmp_path).is_broken()
