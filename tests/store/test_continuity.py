"""Whether an embedded server goes on where the last one ended: after a restore or a power cut, clients have to be notified of a gap."""

from __future__ import annotations

import resource
import shutil
import subprocess
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
import valkey

from gateway.errors import ConfigurationError
from gateway.store import continuity, embedded
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


def on_a_full_disk(data: Path, monkeypatch: pytest.MonkeyPatch) -> EmbeddedServer:
    """A server that has acknowledged what it could not write. The limit of a file's size is the full disk here."""
    monkeypatch.setattr(subprocess, "Popen", partial(subprocess.Popen, restore_signals=False))  # else a signal would end it at the limit
    server = EmbeddedServer(data)
    server.start()
    resource.prlimit(server._pid, resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    with closing(valkey.Valkey.from_url(server.url)) as client:
        assert client.set("acknowledged", "x" * 100_000)
    return server


def test_a_server_that_ends_while_its_disk_is_full_lacks_what_it_acknowledged_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Valkey acknowledges what it holds for the next attempt to write."""
    monkeypatch.setattr(
        subprocess, "Popen", partial(subprocess.Popen, restore_signals=False)
    )  # else a signal would end the server at the limit
    server = EmbeddedServer(tmp_path)
    server.start()
    resource.prlimit(server._pid, resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
    with closing(valkey.Valkey.from_url(server.url)) as client:
        assert client.set("acknowledged", "x" * 100_000)
    server.stop()
    server.start()
    with closing(valkey.Valkey.from_url(server.url)) as client:
        assert client.get("acknowledged") is None
    assert server.is_older
    server.goes_on()
    server.stop()
    assert not Continuity(tmp_path).is_broken()


def test_a_server_that_is_adopted_while_its_disk_is_full_is_refused_with_that_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, next_one = on_a_full_disk(tmp_path, monkeypatch), EmbeddedServer(tmp_path)
    killed.release()
    monkeypatch.setattr(embedded, "START_SECONDS", 0.01)
    with pytest.raises(ConfigurationError, match="does not work: MISCONF Errors writing to the AOF file"):
        next_one.start()
    next_one.stop()
    assert killed._process is not None and killed._process.wait(10) == 0
