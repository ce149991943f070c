"""The commands on a cluster: the same as on one server, and ``gateway check`` shows the shards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.store.rights import acl_words, rights_of

from ..kit.clusters import Cluster
from ..kit.programs import process, run


@pytest.fixture
def used(shared_cluster: Cluster, tmp_path: Path, prefix: str) -> list[str]:
    """Options that name the cluster."""
    file = tmp_path / "gateway.toml"
    file.write_text(f'valkey_url = "{shared_cluster.url}"\nprefix = "{prefix}"\ndata_dir = "{tmp_path}/data"\n')
    return ["--config", str(file)]


def test_publish_history_subscribe_and_queues_work_on_a_cluster(used: list[str]) -> None:
    names = [f"posts:{number}" for number in range(3)]
    for name in names:
        run("publish", name, '{"n":1}', *used).succeeds()
    assert json.loads(run("history", names[0], *used).succeeds())["data"] == {"n": 1}
    with process("subscribe", *names, "--last", "1", *used) as follower:
        assert {json.loads(follower.line())["channel"] for _ in names} == set(names)
        run("publish", names[0], "2", *used).succeeds()
        assert json.loads(follower.line())["data"] == 2
    for name in ("first", "second"):
        run("queue", "enqueue", "job", "{}", "--queue", name, *used).succeeds()
    listed = run("queue", "list", *used).succeeds().splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [["first", "1"], ["second", "1"]]


def test_check_shows_each_shard_and_a_list_of_failures_in_another_slot(shared_cluster: Cluster, used: list[str]) -> None:
    run("publish", "posts:a", "1", *used).succeeds()
    for node in shared_cluster.primaries:  # the functions are there, as where a gateway has run
        for name in map("posts:{}".format, range(20)):
            if shared_cluster.owner(f"x{{{name}}}") is node:
                run("publish", name, "1", *used).succeeds()
                break
    out = run("check", *used).succeeds()
    assert all(f"shard 127.0.0.1:{node.port}" in out for node in shared_cluster.primaries) and out.count("hash slots") == 3
    shared_cluster.primaries[1].ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 64kb 0 0")
    examined = run("doctor", *used).out
    shared_cluster.primaries[1].ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60")
    (line,) = [line for line in examined.splitlines() if "live link off when 64 KiB" in line]
    assert line.endswith(f"(at valkey://127.0.0.1:{shared_cluster.primaries[1].port})")
    assert examined.count("Valkey has no limit of its memory") == 1  # the same at each of the three
    with open(used[1], "a") as file:
        file.write('[[bridges]]\nlist = "events"\nchannel = "posts:a"\nfailed = "dead"\n')
    outcome = run("check", *used)
    assert outcome.status == 1 and "write {events} into its name" in outcome.error


def test_check_names_the_nodes_on_which_the_user_lacks_a_right(shared_cluster: Cluster, used: list[str], prefix: str) -> None:
    user, poor = f"user-{prefix}", shared_cluster.primaries[1]
    shared_cluster.everywhere(*acl_words(user, rights_of("gateway", prefix, cluster=True), "secret"))
    poor.ask("ACL", "SETUSER", user, "-hget", "-asking")
    used += ["--valkey-url", shared_cluster.url.replace("//", f"//{user}:secret@")]
    outcome = run("check", *used)
    lacks = f"gateway: the user '{user}' of Valkey lacks {{0}} on 127.0.0.1:{poor.port}, which a gateway needs: ACL SETUSER {user} {{0}}"
    assert outcome.status == 1 and sorted(outcome.error.splitlines()) == [lacks.format("+asking"), lacks.format("+hget")]
    poor.ask("ACL", "SETUSER", user, "+hget", "+asking")
    assert f"rights          fine (the user '{user}'" in run("check", *used).succeeds()
    shared_cluster.everywhere("ACL", "DELUSER", user)


def test_check_on_a_cluster_whose_functions_are_missing_and_may_not_be_loaded_says_so(tmp_path: Path) -> None:
    """It does not wait for shards that refuse the user."""
    with Cluster(tmp_path / "cluster", primaries=1, whole_or_nothing=True) as fresh:
        fresh.everywhere("ACL", "SETUSER", "low", "on", ">x", "~gw:*", "&gw:*", "+@all", "-function|load")
        url, data = fresh.url.replace("//", "//low:x@"), str(tmp_path / "data")
        outcome = run("check", "--valkey-url", url, "--data-dir", data)
        assert outcome.status == 1 and len(outcome.error.splitlines()) == 1
        assert "Valkey lacks version" in outcome.error and 'run "gateway install"' in outcome.error
        run("install", "--valkey-url", fresh.url, "--data-dir", data).succeeds()
        assert "live link       fine" in run("check", "--valkey-url", url, "--data-dir", data).succeeds()
        fresh.everywhere("CLUSTER", "DELSLOTS", 0)
        outcome = run("check", "--valkey-url", fresh.url, "--data-dir", data)
        assert [line.partition(":")[2].partition(" (")[0] for line in outcome.error.splitlines()] == [
            " 1 of the cluster's 16,384 hash slots are held by no shard: what is in them cannot be reached",
            " the cluster serves nothing",
        ]
