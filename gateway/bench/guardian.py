"""``python -m gateway.bench.guardian``: runs one measured server as long as the bench lives.

The bench holds the other end of its standard input, and writes a line, a GuardedServer, into it. When that input ends, because the bench is
done, was interrupted or was killed, the guardian ends the server and removes what it leaves: its folder, and its keys in the user's Valkey.
"""

from __future__ import annotations

import asyncio
import os
import select
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import msgspec

from ..errors import GatewayError

__all__ = ["DATA", "LOG", "GuardedServer"]

LOG, DATA = "log", "data"  # in the server's folder
LOOK_SECONDS = 0.2
STOP_SECONDS = 20.0
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class GuardedServer(msgspec.Struct, frozen=True, kw_only=True):
    """The server: its ``command``, the ``cores`` it runs on (none: any), its ``folder``, which is removed, and ``environment``.

    ``url`` is a Valkey that is not its own, "" for none; all keys of ``prefix`` are removed there.
    """

    command: list[str]
    folder: str
    cores: list[int] = []
    environment: dict[str, str] = {}
    url: str = ""
    prefix: str = ""


def main() -> None:
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)  # the bench decides
    if line := sys.stdin.buffer.readline():
        _guard(msgspec.json.decode(line, type=GuardedServer))


def _guard(server: GuardedServer) -> None:
    folder = Path(server.folder)
    try:
        try:
            with (folder / LOG).open("ab") as log:
                process = _start(server, log.fileno())
        except OSError as error:  # as where the file is no program of this machine
            print(f"{server.command[0]} cannot be started: {error.strerror}", flush=True)
            return
        while process.poll() is None and not _bench_ended():
            pass
        if process.poll() is not None:
            with suppress(BrokenPipeError):  # the bench may have ended, too
                print(_last_line(folder / LOG), flush=True)
        _end(process)
        if process.returncode < 0:
            _end_valkey(folder / DATA)
        if server.url:
            _remove_keys(server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _start(server: GuardedServer, log: int) -> subprocess.Popen[bytes]:
    if server.cores:
        os.sched_setaffinity(0, server.cores)  # the server inherits it
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEWAY_")} | server.environment
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)  # what is ignored, a server would inherit
    try:
        return subprocess.Popen(server.command, stdin=subprocess.DEVNULL, stderr=log, env=environment)
    finally:
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)


def _bench_ended() -> bool:
    """Waits a moment for the end of the standard input."""
    ready, _, _ = select.select([sys.stdin], [], [], LOOK_SECONDS)
    return bool(ready) and not os.read(sys.stdin.fileno(), 1)


def _last_line(log: Path) -> str:
    """Why a server ended by itself."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("gateway: ") if lines else "it ended, and its log is empty"


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_valkey(data: Path) -> None:
    """A gateway that was killed leaves its embedded Valkey running."""
    from ..store.embedded import EmbeddedServer, socket_path

    if socket_path(data).exists():
        server = EmbeddedServer(data)
        server.start()  # adopts it
        server.stop()


def _remove_keys(server: GuardedServer) -> None:
    from .prefix_removal import remove_prefix

    try:
        asyncio.run(remove_prefix(server.url, server.prefix))
    except GatewayError as error:
        print(f"gateway: what begins with {server.prefix} could not be removed from Valkey: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
