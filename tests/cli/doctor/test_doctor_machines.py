"""``gateway doctor`` on Valkey, clocks and the kernel: settings under which something is lost, refused or cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.cli.doctor.clock_check import Reading, clock_findings, read_clock
from gateway.cli.doctor.diagnosis import Finding, Weight
from gateway.cli.doctor.machine_check import Load, Machine, machine_findings, read_machine
from gateway.cli.doctor.valkey_check import ServerFacts, read_server, server_findings
from gateway.store.access import make_commands
from gateway.store.connect import Address

from ...kit.clock import FrozenClock
from ...kit.programs import run
from ...kit.servers import ValkeyServer

EXACT = Reading(0.0, 0.0)
WELL = {"valkey_version": "8.1.0", "maxmemory": "1000000", "maxmemory_policy": "noeviction", "aof_enabled": "1", "used_memory": "1000"}
PLENTY = Machine(1_000_000, 9_000_000, 1_048_576, 4096, 8192, 786_432, 4096, (1024, 65535), 524_288)


def _shown(findings: list[Finding]) -> str:
    return "\n".join(f"{each.weight.name} {each.sentence} -> {each.change}" for each in findings)


# Valkey.


@pytest.fixture(scope="module")
def careless_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """It forgets what is used least when its memory is full, writes nothing to the disk, and cuts off who does not read at once."""
    server = ValkeyServer(
        tmp_path_factory.mktemp("careless"),
        "maxmemory 64mb",
        "maxmemory-policy allkeys-lru",
        "appendonly no",
        "client-output-buffer-limit pubsub 64kb 32kb 5",
        "client-output-buffer-limit normal 1mb 512kb 5",
        "client-output-buffer-limit replica 1mb 512kb 5",
    )
    yield server
    server.stop()


async def test_a_careless_valkey_is_found_to_lose_data_and_to_cut_links(careless_valkey: ValkeyServer) -> None:
    commands = make_commands(Address(careless_valkey.url))
    await commands.start()
    try:
        found = server_findings(await read_server(commands.shards[0]))
    finally:
        await commands.close()
    for words in (
        "WARNING Valkey removes keys when its memory is full (maxmemory-policy allkeys-lru)",
        "-> maxmemory-policy noeviction    (in valkey.conf; at once: CONFIG SET maxmemory-policy noeviction)",
        'WARNING Valkey writes nothing to its disk (appendonly no, save "")',
        "WARNING Valkey cuts a gateway's live link off when 64 KiB wait for it",
        '-> client-output-buffer-limit pubsub 32mb 8mb 60    (in valkey.conf; at once: CONFIG SET client-output-buffer-limit "pubsub 32mb 8mb 60")',
        "WARNING Valkey cuts a gateway's connection for commands off",
        "NOTE Valkey cuts a replica off",
    ):
        assert words in _shown(found)
    assert len(found) == 5, "one sentence about a Valkey that writes nothing"


def test_the_command_prints_one_warning_about_a_valkey_that_writes_nothing(careless_valkey: ValkeyServer) -> None:
    shown = run("doctor", "--valkey-url", careless_valkey.url).out
    assert shown.count("appendonly no") == 1 and 'writes nothing to its disk (appendonly no, save "")' in shown


def test_a_valkey_with_its_own_defaults_and_a_limit_of_memory_is_well() -> None:
    settings = {
        "save": "",
        "appendfsync": "everysec",
        "client-output-buffer-limit": "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60",
    }
    assert server_findings(ServerFacts("v", WELL, settings, EXACT)) == []
    assert server_findings(ServerFacts("v", WELL, None, EXACT)) == []  # CONFIG GET is not allowed
    redis = {name: value for name, value in WELL.items() if name != "valkey_version"} | {"redis_version": "7.0.15"}
    assert server_findings(ServerFacts("v", redis, None, EXACT)) == [], "the documentation names Redis 7 as well"


@pytest.mark.parametrize(
    "facts, weight, words",
    [
        ({"valkey_version": "", "redis_version": "6.2.14"}, Weight.FAULT, "version 6.2.14"),
        ({"evicted_keys": "12345"}, Weight.NOTE, "has removed 12,345 keys while its memory was full, before it had noeviction"),
        ({"aof_last_write_status": "err"}, Weight.FAULT, "could not write its append-only file"),
        ({"rdb_last_bgsave_status": "err"}, Weight.FAULT, "could not write its snapshot"),
        ({"used_memory": "950000"}, Weight.WARNING, "Valkey uses"),
        ({"used_memory": "1000001"}, Weight.FAULT, "Valkey refuses to write: its memory is full"),
        ({"connected_clients": "9500", "maxclients": "10000"}, Weight.WARNING, "9,500 of its 10,000 connections"),
        ({"maxmemory": "0"}, Weight.NOTE, "no limit of its memory"),
        ({"aof_enabled": "0"}, Weight.WARNING, "writes no append-only file"),
    ],
)
def test_what_valkey_counts_is_judged(facts: dict[str, str], weight: Weight, words: str) -> None:
    (finding,) = server_findings(ServerFacts("v", WELL | facts, None, EXACT))
    assert finding.weight is weight and words in finding.sentence and finding.change


def test_keys_that_are_removed_under_the_present_policy_are_a_fault() -> None:
    found = server_findings(ServerFacts("v", WELL | {"evicted_keys": "12345", "maxmemory_policy": "allkeys-lru"}, None, EXACT))
    assert "FAULT Valkey has removed 12,345 keys" in _shown(found)


# Clocks.


def test_a_limit_of_memory_is_named_together_with_the_policy_without_which_it_would_remove_keys() -> None:
    facts = ServerFacts("v", WELL | {"maxmemory": "0", "maxmemory_policy": "allkeys-lru"}, {}, EXACT)
    assert "-> first maxmemory-policy noeviction " in _shown(server_findings(facts))


@pytest.mark.parametrize("good, found", [("0", 1), ("1", 0), (None, 0)])
def test_a_valkey_that_refuses_writes_for_want_of_replicas_is_found(good: str | None, found: int) -> None:
    info = WELL | ({"min_slaves_good_slaves": good} if good else {})
    findings = server_findings(ServerFacts("v", info, {"min-replicas-to-write": "1"}, EXACT))
    assert len(findings) == found and _shown(findings).startswith("FAULT Valkey refuses to write: 0 replicas follow" * found)


@pytest.mark.parametrize("enabled, found", [("1", 1), ("0", 0)])
def test_a_cluster_that_a_single_shard_takes_down_is_found(enabled: str, found: int) -> None:
    """The setting is there without a cluster, too."""
    facts = ServerFacts("v", WELL | {"cluster_enabled": enabled}, {"cluster-require-full-coverage": "yes"}, EXACT)
    shown = _shown(server_findings(facts))
    assert shown.count("-> on every node: cluster-require-full-coverage no    (in valkey.conf") == found


async def test_a_fast_clock_is_found_as_far_as_the_wait_for_it_does_not_explain_it() -> None:
    here = FrozenClock(1000.0)

    async def fast_clock() -> float:
        here.pass_time(0.5)
        return here.now + 90

    reading = await read_clock(fast_clock, here)
    assert (reading.ahead, reading.doubt) == (90.25, 0.25)
    (finding,) = clock_findings("Valkey's", reading)
    assert finding.weight is Weight.FAULT and "90.2 s later than this machine's" in finding.sentence and "timedatectl" in finding.change


@pytest.mark.parametrize("ahead, doubt, weights", [(-5, 0.1, [Weight.WARNING]), (0.9, 0, []), (3, 2.5, []), (-40, 1, [Weight.FAULT])])
def test_a_clock_matters_by_how_far_it_is_off(ahead: float, doubt: float, weights: list[Weight]) -> None:
    found = clock_findings("Valkey's", Reading(ahead, doubt))
    assert [each.weight for each in found] == weights
    assert all("earlier" in each.sentence for each in found)


# The machine.


def test_a_machine_with_plenty_of_everything_is_well() -> None:
    assert machine_findings(PLENTY, Load(10_000, 4, True), whose="the gateway's") == []


@pytest.mark.parametrize(
    "limits, load, weight, words",
    [
        ({"descriptors": 1024}, Load(5000, 1, False), Weight.FAULT, "-> LimitNOFILE=5128"),
        ({"descriptors": 1024}, Load(0, 1, False), Weight.WARNING, "-> limits.connections = 896; and LimitNOFILE=65536"),
        ({"descriptors": 65_536}, Load(0, 1, False), Weight.NOTE, "-> limits.connections = 65408"),
        ({"descriptors": 1024, "nr_open": 4096}, Load(5000, 1, False), Weight.FAULT, "and fs.nr_open = 5128"),
        ({"file_max": 10_000}, Load(5000, 4, False), Weight.FAULT, "-> fs.file-max = 41024"),
        ({"somaxconn": 128}, Load(500, 1, False), Weight.WARNING, "sysctl -w net.core.somaxconn=4096"),
        ({"syn_backlog": 256}, Load(5000, 1, False), Weight.NOTE, "net.ipv4.tcp_max_syn_backlog = 8192"),
        ({"tcp_pages": 10_000}, Load(50_000, 2, False), Weight.WARNING, 'sysctl -w net.ipv4.tcp_mem="200000 266666 400000"'),
        ({"ports": (32_768, 60_999)}, Load(30_000, 1, True), Weight.WARNING, "28,232 ports"),
        ({"tracked": 65_536}, Load(50_000, 1, False), Weight.WARNING, "nf_conntrack_max = 100000"),
    ],
)
def test_a_machine_that_is_short_of_one_thing_is_found_to_be(limits: dict[str, Any], load: Load, weight: Weight, words: str) -> None:
    found = machine_findings(PLENTY._replace(**limits), load, whose="the gateway's")
    assert [each.weight for each in found] == [weight] and words in _shown(found)


def test_limits_are_read_where_the_kernel_shows_them_and_those_that_it_hides_are_left_out(tmp_path: Path) -> None:
    core = tmp_path / "sys" / "net" / "core"
    core.mkdir(parents=True)
    (core / "somaxconn").write_text("128\n")
    machine = read_machine(tmp_path)
    assert machine.somaxconn == 128 and machine.descriptors > 0
    assert (machine.file_max, machine.ports, machine.tcp_pages) == (None, None, None)
    assert [each.weight for each in machine_findings(machine._replace(descriptors=10**6), Load(5000, 1, True), whose="this shell's")] == [
        Weight.WARNING
    ]
