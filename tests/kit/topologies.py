"""The same tests on a single server, on one that a Sentinel names, and on a cluster.

Tests that are marked ``every_valkey`` and use ``valkey_url``, be it through a gateway, run on each of the three; those marked
``one_server`` in such a module on the single one alone. Only what a run needs is started, once for each worker of the test run.

valkey_url     a fixture: the address of the shared Valkey of the kind at hand
store          a fixture: a plain client of it, which writes and reads past every gateway
plain_client   the same for any address
everywhere     one command at each shard
listening      what is announced on a Pub/Sub channel, sharded or not
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import valkey

from gateway.store.access import Commands
from gateway.store.connect import Address

from .servers import SERVICE, ValkeyServer

__all__ = ["Store", "everywhere", "listening", "parametrize", "plain_client", "sentinel_url", "store", "topology", "valkey_url"]

SINGLE = None  # as where a test is not run on each, so that all that is on the single server shares it
TOPOLOGIES = [pytest.param(SINGLE, id="single"), pytest.param("sentinel", id="sentinel"), pytest.param("cluster", id="cluster")]

Store = valkey.Valkey | valkey.ValkeyCluster


def parametrize(metafunc: pytest.Metafunc) -> None:
    """For ``pytest_generate_tests``."""
    test = metafunc.definition
    if "valkey_url" in metafunc.fixturenames and test.get_closest_marker("every_valkey") and not test.get_closest_marker("one_server"):
        metafunc.parametrize("topology", TOPOLOGIES, indirect=True, scope="module")


@pytest.fixture(scope="module")
def topology(request: pytest.FixtureRequest) -> str:
    return getattr(request, "param", SINGLE) or "single"


@pytest.fixture(scope="module")
def valkey_url(request: pytest.FixtureRequest, topology: str) -> str:
    """Of a Valkey for all tests; each uses a prefix of its own."""
    return str(request.getfixturevalue(f"{topology}_url"))


@pytest.fixture(scope="session")
def sentinel_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One server that a Sentinel names; nothing is failed over there."""
    folder = tmp_path_factory.mktemp("sentinel")
    with ExitStack() as stack:
        primary = ValkeyServer(folder / "primary")
        stack.callback(primary.stop)
        sentinel = ValkeyServer(folder / "sentinel", f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} 1", sentinel=True)
        stack.callback(sentinel.stop)
        yield f"valkey+sentinel://127.0.0.1:{sentinel.port}/{SERVICE}"


def plain_client(url: str) -> Store:
    """valkey-py's client, which on a cluster goes to the shard of each key, and to all of them for FLUSH and the like."""
    address = Address(url)
    if not address.is_cluster:
        return address.sync_client()
    host, port = address.seeds[0].host_and_port
    return valkey.ValkeyCluster(host=host, port=port)


@pytest.fixture
def store(valkey_url: str) -> Iterator[Store]:
    client = plain_client(valkey_url)
    yield client
    client.close()


async def everywhere(commands: Commands, *words: Any) -> list[Any]:
    """The answers of all shards; of one server, its answer."""
    return [await shard.call(*words) for shard in commands.shards]


@contextmanager
def listening(store: Store, channel: str) -> Iterator[Callable[[float], bytes | None]]:
    """Gives a function that waits so many seconds for the next payload; None if there is none in time."""
    sharded = isinstance(store, valkey.ValkeyCluster)
    shard: Any = store.get_valkey_connection(store.get_node_from_key(channel)) if sharded else store
    pubsub = shard.pubsub()
    (pubsub.ssubscribe if sharded else pubsub.subscribe)(channel)

    def payload(seconds: float) -> bytes | None:
        message = pubsub.get_message(timeout=seconds)
        return None if message is None else bytes(message["data"])

    confirmed = pubsub.get_message(timeout=5)
    assert confirmed is not None and confirmed["type"].endswith("subscribe"), confirmed
    yield payload
    pubsub.close()
