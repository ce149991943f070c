"""The clusters of the tests do what their methods say, so that a failure elsewhere is not theirs."""

from __future__ import annotations

from .clusters import Cluster


def test_slots_move_both_ways_and_nodes_come_and_go(cluster: Cluster) -> None:
    cluster.call("SET", "key", "value")
    first = cluster.owner("key")
    second = next(node for node in cluster.primaries if node is not first)
    cluster.move_slot("key", second)
    assert cluster.owner("key") is second
    cluster.migrate([(cluster.slot("key"), cluster.slot("key"))], first)
    assert cluster.owner("key") is first and cluster.call("GET", "key") == b"value"
    replica = cluster.replica_of(first)
    cluster.failover(replica)
    cluster.wait_whole()
    assert cluster.owner("key") is replica and cluster.call("GET", "key") == b"value"
    cluster.kill(replica)
    cluster.wait_promoted(first)
    cluster.start(replica)
    cluster.wait_whole()
    assert (len(cluster.primaries), len(cluster.replicas), cluster.call("GET", "key")) == (3, 3, b"value")
