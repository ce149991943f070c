"""Valkey of a run, in each topology: its servers, the address that programs use, and how it is mended.

Single          one server
WithSentinel    a primary, its replica, and a Sentinel that decides alone
Sharded         a cluster of three primaries and a replica of each

All write each command to their append-only file before it is acknowledged (``appendfsync always``), on a disk of their own where one can
be mounted. Methods block.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import valkey

from ..kit.clusters import Cluster, Node
from ..kit.servers import SERVICE, Pair, ValkeyServer
from ..kit.waiting import wait_until

__all__ = ["Disk", "Server", "Sharded", "Single", "Topology", "WithReplicas", "WithSentinel", "frozen", "topology_of"]

SETTINGS = ("appendonly yes", "appendfsync always", "enable-debug-command yes", "maxmemory-policy noeviction")
DISK_BYTES = 384 * 2**20
HELP_SECONDS = 4.0  # after which a server that came back is made a replica by hand, should Sentinel not have done it
FOLLOWS_SECONDS = 30.0
DOWN_MS = 3000  # less, and Sentinel takes a server for dead whose first answer comes late after a failover
AGREES_SECONDS = 30.0


class Disk:
    """A small file system in memory, mounted on a folder; ``mounted`` is False where this process may not mount one."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._filler = folder / "filler"
        words = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
        self.mounted = bool(shutil.which("mount")) and subprocess.run(words, capture_output=True).returncode == 0

    def fill(self) -> None:
        """Until not a byte is free."""
        with self._filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            for size in (2**20, 4096, 64, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"\0" * size) == size:
                        continue

    def free(self) -> None:
        self._filler.unlink(missing_ok=True)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=True)


class Server(Protocol):
    """A server of any topology."""

    @property
    def port(self) -> int: ...

    @property
    def client(self) -> Any: ...

    @property
    def log(self) -> Path: ...

    @property
    def runs(self) -> bool: ...

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def freeze(self) -> None: ...

    def thaw(self) -> None: ...


class Topology:
    """What all have. ``servers`` are those that hold data."""

    name = ""
    url = ""
    servers: Sequence[Server]

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs: list[Path] = []
        self.disk = Disk(folder / "disk")

    def primaries(self) -> Sequence[Server]:
        """Those that take writes now, in a fixed order of theirs."""
        raise NotImplementedError

    def primary(self, chance: float) -> Server:
        """One of them; ``chance`` is from 0 to 1."""
        found = self.primaries()
        return found[int(chance * len(found)) % len(found)]

    def mend(self) -> None:
        """Whatever was done to the servers is undone, and they agree on their roles."""
        self.disk.free()
        wait_until(self._agrees_now, "all servers run and agree", AGREES_SECONDS)
        for server in self.servers:
            for name, value in (("maxmemory", "0"), ("client-output-buffer-limit", "pubsub 32mb 8mb 60"), ("appendfsync", "always")):
                server.client.config_set(name, value)

    def _agrees_now(self) -> bool:
        """A replica may end itself a moment later, as where it could not write to its disk."""
        for server in self.servers:
            server.thaw()
            if not server.runs:
                server.start()
        try:
            self.agree()
        except (AssertionError, valkey.ValkeyError):
            return False
        return all(server.runs for server in self.servers)

    def agree(self) -> None:
        """Waits until every server that is no primary follows one."""

    def rewrite_files(self) -> None:
        """Every server writes its append-only file anew. After a write that ended in the middle, Valkey 9.1 may not read its own file again."""
        for server in self.servers:
            server.client.bgrewriteaof()
        wait_until(lambda: not any(map(_rewrites, self.servers)), "the append-only files are written anew", AGREES_SECONDS)

    def close(self) -> None:
        """Ends the servers; ``logs`` are their logs then."""
        for server in self.servers:
            server.thaw()
        self._stop()
        self.logs = [Path(shutil.copy(server.log, self.folder / f"valkey-{server.port}.log")) for server in self._all()]
        self.disk.close()

    def _stop(self) -> None:
        for server in self.servers:
            server.kill()
            server.client.close()

    def _all(self) -> Sequence[Server]:
        return self.servers


class Single(Topology):
    name = "single"

    def __init__(self, folder: Path, *, environment: Mapping[str, str] | None = None) -> None:
        """``environment`` is added to the server's own."""
        super().__init__(folder)
        self.server = ValkeyServer(self.disk.folder / "valkey", *SETTINGS, environment=environment or {})
        self.servers = [self.server]
        self.url = self.server.url

    def primaries(self) -> Sequence[Server]:
        return self.servers

    def save(self) -> Path:
        """A copy of the files as they are now."""
        copy = self.folder / "older"
        shutil.rmtree(copy, ignore_errors=True)
        self.server.copy_files(copy)
        return copy

    def come_back(self, files: Path | None, after: float) -> None:
        """Killed, and started again ``after`` so many seconds with these files, or with none."""
        self.server.kill()
        self.server.replace_files(files)
        time.sleep(after)
        self.server.start()


class WithReplicas(Topology):
    """Where replicas take over."""

    def replica_of(self, primary: Server) -> Server:
        raise NotImplementedError

    def fail_over(self, primary: Server, *, coordinated: bool) -> None:
        """Asks for its replica to take its place; ``coordinated``: with the primary's help, so that nothing is lost. Returns when it has."""
        raise NotImplementedError

    def await_promoted(self, replica: Server) -> None:
        """Returns when the replica is the primary."""
        raise NotImplementedError


class WithSentinel(WithReplicas):
    name = "sentinel"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._pair = Pair(self.disk.folder, *SETTINGS, sentinel=True, down_ms=DOWN_MS)
        self.servers = self._both
        self.url = self._pair.sentinel_url

    def primaries(self) -> Sequence[Server]:
        return [self._primary()]

    def _primary(self) -> ValkeyServer:
        """The one that Sentinel names."""
        _, port = self._ask_sentinel("GET-MASTER-ADDR-BY-NAME", SERVICE)
        return next(server for server in self._both if server.port == int(port))

    def replica_of(self, primary: Server) -> ValkeyServer:
        return next(server for server in self._both if server is not primary)

    @property
    def sentinel(self) -> ValkeyServer:
        return self._pair.sentinel

    def _ask_sentinel(self, *words: str) -> Any:
        client: Any = self.sentinel.client
        return client.execute_command("SENTINEL", *words)

    @property
    def _both(self) -> list[ValkeyServer]:
        return [self._pair.first, self._pair.second]

    def fail_over(self, primary: Server, *, coordinated: bool) -> None:
        how = ["COORDINATED"] if coordinated else []
        self._ask_sentinel("FAILOVER", SERVICE, *how)
        self.await_promoted(self.replica_of(primary))

    def await_promoted(self, replica: Server) -> None:
        wait_until(lambda: self._primary() is replica and self._primary().role == "master", "another primary", AGREES_SECONDS)

    def agree(self) -> None:
        """Sentinel makes a server that came back a replica, after some seconds, and later by hand."""
        with contextlib.suppress(AssertionError):
            wait_until(self._follows, "the replica follows", HELP_SECONDS)
            return
        with contextlib.suppress(valkey.ValkeyError):
            primary = self._primary()
            replica: Server = self.replica_of(primary)
            replica.client.execute_command("REPLICAOF", "127.0.0.1", primary.port)
        wait_until(self._follows, "the replica follows", FOLLOWS_SECONDS)
        wait_until(self._is_known, "Sentinel knows the replica", FOLLOWS_SECONDS)

    def _follows(self) -> bool:
        try:
            primary = self._primary()
            replica: Server = self.replica_of(primary)
            info = replica.client.info("replication")
            return bool(info["role"] == "slave" and info["master_link_status"] == "up" and info["master_port"] == primary.port)
        except (valkey.ValkeyError, KeyError):
            return False

    def _is_known(self) -> bool:
        replicas = self._ask_sentinel("REPLICAS", SERVICE)
        fields = [dict(zip(each[::2], each[1::2], strict=True)) if isinstance(each, list) else each for each in replicas]
        return any(_text(each, "flags") == "slave" and _text(each, "master-link-status") == "ok" for each in fields)

    def _stop(self) -> None:
        self._pair.stop()

    def _all(self) -> Sequence[Server]:
        return [*self.servers, self.sentinel]


class ClusterNode:
    """A node of a cluster, as a server of a topology."""

    def __init__(self, cluster: Cluster, node: Node) -> None:
        self.node = node
        self.client = node.client
        self.port = node.port
        self._cluster = cluster

    @property
    def log(self) -> Path:
        return self.node._log

    @property
    def runs(self) -> bool:
        return self.node.running

    def start(self) -> None:
        """Where it cannot read its own file, the file is shortened first, as its operator would do, to what came before the hole.

        With a full disk a node ends itself, since it cannot write its configuration, and may leave a part of a command in the file.
        """
        try:
            self._cluster.start(self.node)
        except AssertionError:
            if self.runs or "Bad file format reading the append only file" not in self.log.read_text().rpartition("is starting")[2]:
                raise
            self.node.shorten_file()
            self._cluster.start(self.node)

    def kill(self) -> None:
        self.node.kill()

    def freeze(self) -> None:
        self._cluster.pause(self.node)

    def thaw(self) -> None:
        if self.runs:
            self._cluster.resume(self.node)


class Sharded(WithReplicas):
    name = "cluster"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.cluster = Cluster(self.disk.folder, *SETTINGS, replicas=True)
        self._nodes = [ClusterNode(self.cluster, node) for node in self.cluster.nodes]
        self.servers = self._nodes
        self.url = self.cluster.url

    def primaries(self) -> Sequence[Server]:
        """Those that hold slots."""
        return [each for each in self._nodes if each.runs and each.node in self.cluster.primaries and self.cluster.spans(each.node)]

    def replica_of(self, primary: Server) -> Server:
        found = self.cluster.replica_of(self._node(primary))
        return next(each for each in self._nodes if each.node is found)

    @staticmethod
    def _node(server: Server) -> Node:
        assert isinstance(server, ClusterNode)
        return server.node

    def fail_over(self, primary: Server, *, coordinated: bool) -> None:
        replica = self.replica_of(primary)
        replica.client.execute_command("CLUSTER", "FAILOVER", *([] if coordinated else ["FORCE"]))
        self.await_promoted(replica)

    def await_promoted(self, replica: Server) -> None:
        self.cluster.wait_promoted(self._node(replica))

    def agree(self) -> None:
        self.cluster.wait_whole(FOLLOWS_SECONDS)
        wait_until(lambda: all(map(self._follows_or_leads, self._nodes)), "every replica follows", FOLLOWS_SECONDS)

    def _follows_or_leads(self, each: ClusterNode) -> bool:
        facts = each.node.facts("replication")
        return bool(facts["role"] == "master" or facts["master_link_status"] == "up")

    def another(self, primary: Server, chance: float) -> Node:
        """A primary that is not this one."""
        others = [each for each in self.primaries() if each is not primary]
        return self._node(others[int(chance * len(others)) % len(others)])


def _text(fields: dict[Any, Any], name: str) -> str:
    value = fields.get(name, fields.get(name.encode(), b""))
    return value.decode() if isinstance(value, bytes) else str(value)


def _rewrites(server: Server) -> bool:
    facts = server.client.info("persistence")
    return bool(facts["aof_rewrite_in_progress"] or facts["aof_rewrite_scheduled"])


@contextlib.contextmanager
def frozen(server: Server) -> Iterator[None]:
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


def topology_of(name: str) -> type[Topology]:
    """The class of a topology. Raises ValueError."""
    found = {each.name: each for each in (Single, WithSentinel, Sharded)}
    if name not in found:
        raise ValueError(f"the rig has no topology {name!r} yet; it has {', '.join(found)}")
    return found[name]
