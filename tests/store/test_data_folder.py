"""The data folder belongs to its user alone, whoever made it."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.config import Config, load
from gateway.errors import ConfigurationError, Unavailable
from gateway.serve.first_run import with_secrets
from gateway.store.data_folder import check_private, make_private
from gateway.store.embedded import EmbeddedServer, running_url, socket_path
from publishers import Publisher, SyncPublisher
from publishers.database import Database
from publishers.migrator import migrate

ANOTHER_USER = 12345


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_a_file_system_without_locks_is_named_and_no_other_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(ConfigurationError, match=f"data_dir {tmp_path} cannot be locked: No locks available; name a folder on a disk"):
        EmbeddedServer(tmp_path).start()


def open_to_others(folder: Path) -> list[str]:
    """The folder and what is in it that others may look into."""
    found = [folder, *folder.rglob("*")]
    return [str(path) for path in found if not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) & 0o077]


def write(folder: Path, *names: str) -> None:
    """As a program does that does not think of others."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def settings(folder: Path) -> Config:
    return load(data_dir=str(folder))


def start_server(folder: Path) -> None:
    server = EmbeddedServer(folder)
    server.start()
    server.stop()


def make_secrets(folder: Path) -> None:
    with_secrets(settings(folder), make=True)


def make_database(folder: Path) -> None:
    async def work() -> None:
        async with Database(data_dir=folder) as database:
            await migrate(database)

    asyncio.run(work())


MAKERS = {"server": start_server, "secrets": make_secrets, "database": make_database}


@pytest.mark.parametrize("maker", MAKERS)
def test_everything_that_is_made_there_is_private_with_its_parents(tmp_path: Path, maker: str) -> None:
    MAKERS[maker](tmp_path / "new" / "data")
    assert open_to_others(tmp_path / "new") == []


@pytest.mark.parametrize("maker", MAKERS)
def test_what_others_could_read_is_repaired_at_the_start(tmp_path: Path, maker: str) -> None:
    folder = tmp_path / "data"
    files = ["appendonlydir/appendonly.aof.1.incr.aof", "valkey.conf", "valkey.log", "gateway.lock", "gateway.db-wal", "dump.rdb"]
    write(folder, *(files if maker == "secrets" else ["valkey.conf", "gateway.lock", "demo/gateway.lock", "demo/valkey.log"]))
    folder.chmod(0o755)
    MAKERS[maker](folder)
    assert open_to_others(folder) == []


def test_a_folder_with_other_things_keeps_its_mode_and_theirs(tmp_path: Path) -> None:
    write(tmp_path, "site/index.html", "demo/program.py", "temp-notes/a", "valkey.log", "appendonlydir/1.aof")
    (tmp_path / "gateway.db").symlink_to(tmp_path / "site" / "index.html")
    tmp_path.chmod(0o755)
    make_private(tmp_path)
    ours = {str(tmp_path / name) for name in ("valkey.log", "appendonlydir", "appendonlydir/1.aof")}
    readable = set(open_to_others(tmp_path))
    assert not readable & ours
    assert {str(tmp_path), str(tmp_path / "site/index.html"), str(tmp_path / "demo/program.py"), str(tmp_path / "temp-notes/a")} <= readable


@pytest.mark.parametrize(("mode", "things"), [(0o777, ["others.txt"]), (0o1777, []), (0o770, ["others.txt"])])
def test_a_folder_that_others_write_to_is_refused(tmp_path: Path, mode: int, things: list[str]) -> None:
    write(tmp_path, *things)
    tmp_path.chmod(mode)
    with pytest.raises(ConfigurationError, match="others write to; name a folder of its own in it"):
        make_private(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == mode


def as_another_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is that user, as far as it knows: giving files away takes root."""
    monkeypatch.setattr(os, "getuid", lambda: ANOTHER_USER)


@pytest.mark.parametrize("maker", MAKERS)
def test_a_folder_of_another_user_is_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maker: str) -> None:
    as_another_user(monkeypatch)
    with pytest.raises(ConfigurationError, match=f"belongs to user .*, not to user {ANOTHER_USER}; give it to this user") as raised:
        MAKERS[maker](tmp_path)
    assert "\n" not in str(raised.value) and list(tmp_path.iterdir()) == []


# The socket of a folder whose path is too long is in the shared temporary folder, where any user may make it first.


@pytest.fixture
def shared_folder(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """A data folder with a long path, and the folder of its socket, which an attacker has made."""
    data = tmp_path / ("long" * 30)
    folder = socket_path(data).parent
    assert folder.parent == Path("/tmp")
    folder.mkdir(mode=0o755)
    yield data, folder
    folder.chmod(0o700)
    folder.rmdir()


async def publish(data: Path) -> None:
    await Publisher(data_dir=data).connect()


USERS = {
    "serve": lambda data: EmbeddedServer(data).start(),
    "commands": running_url,
    "Publisher": lambda data: asyncio.run(publish(data)),
    "SyncPublisher": lambda data: SyncPublisher(data_dir=data).publish("posts:a", 1),
}


@pytest.mark.parametrize("user", USERS)
def test_a_socket_folder_that_others_may_have_made_is_not_used(shared_folder: tuple[Path, Path], user: str) -> None:
    data, folder = shared_folder
    with pytest.raises(ConfigurationError, match="is not a private folder of this user"):
        USERS[user](data)
    folder.chmod(0o700)
    with pytest.raises(Unavailable, match="no gateway runs on"):
        running_url(data)


def test_a_socket_folder_of_another_user_or_a_link_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "private").mkdir(mode=0o700)
    check_private(tmp_path / "private")
    (tmp_path / "link").symlink_to(tmp_path / "private")
    with pytest.raises(ConfigurationError, match="not a private folder"):
        check_private(tmp_path / "link")
    as_another_user(monkeypatch)
    with pytest.raises(ConfigurationError, match="not a private folder"):
        check_private(tmp_path / "private")


def test_a_server_that_does_not_answer_is_not_said_to_be_none(tmp_path: Path) -> None:
    """One that hangs, or in which another program's script runs on: to start a gateway would not help."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(socket_path(tmp_path)))
        with pytest.raises(Unavailable, match="no gateway runs on"):
            running_url(tmp_path, 0.1)
        listener.listen()
        with pytest.raises(Unavailable, match=r"the embedded valkey in .* does not work: no Valkey: Timeout"):
            running_url(tmp_path, 0.1)
