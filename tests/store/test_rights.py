"""The least rights of each kind of program in Valkey: enough for all that it does, and each that is missing is named."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import valkey

from gateway.bridging import BridgeRules
from gateway.cli.doctor.valkey_check import doubts_of_a_server
from gateway.config import Config
from gateway.errors import NotPermitted
from gateway.rpc import Service
from gateway.store import library, rights_check
from gateway.store.connect import Address
from gateway.store.not_permitted import lacking, not_permitted
from gateway.store.rights import CLUSTER, FUNCTIONS, ROLES, acl_line, rights_of
from gateway.store.rights_check import find_lack
from gateway.work import Queue, Reader, Worker
from publishers import Publisher, SyncPublisher

from ..kit.acl import LeastRights
from ..kit.clients import client, until_counted
from ..kit.gateways import RULES, RunningGateway, Start
from ..kit.jobs import working
from ..kit.operators import WITH_CONSOLE, Operator, log_in
from ..kit.programs import run
from ..kit.services import running
from ..kit.valkeys import opened_history
from ..kit.waiting import until

NAMED = '[namespaces.named]\nindex = true\nhistory_size = -1\nhistory_ttl = ""\n'


@pytest.fixture
def least(store: valkey.Valkey, valkey_url: str, prefix: str) -> Iterator[LeastRights]:
    """The functions are there: another user loaded them."""
    least = LeastRights(store, valkey_url, prefix)
    store.function_load(library.Library(None, prefix).source({"": library.BUILT_IN_RULES}), replace=True)
    yield least
    least.remove()


# The list itself.


def _run_by_functions() -> dict[str, set[str]]:
    """Function of the library → the commands that it runs, found by reading the Lua text."""
    bodies: dict[str, str] = {}
    found: dict[str, set[str]] = {}
    for name in library._FILES:
        text = re.sub("--.*", "", files(library.__package__).joinpath("lua", f"{name}.lua").read_text())
        own = {match[1]: match[0] for match in re.finditer(r"^(?:local )?function (\w+)\(.*?^end$", text, re.S | re.M)}
        for function in re.findall(r"register_function(?:\(|\{function_name = )'gateway_(\w+)'", text):
            found[function] = _run_by(f"gateway_{function}", bodies | own, set())
        if name in library._SHARED:
            bodies |= own
    return found


def _run_by(name: str, bodies: dict[str, str], seen: set[str]) -> set[str]:
    seen.add(name)
    commands = {"publish"} if "redis.call(ANNOUNCE" in bodies[name] else set()
    for verb in re.findall(r"redis\.p?call\(([^,)]*)|[=,] {('[A-Z]+')", bodies[name]):
        commands |= {word.lower() for word in re.findall("'([A-Z]+)'", " ".join(verb))}
    called_as = r"\b(\w+)\(|(?:and|or|pcall\() ?(\w+)"
    for called in {word for pair in re.findall(called_as, bodies[name]) for word in pair} & bodies.keys() - seen:
        commands |= _run_by(called, bodies, seen)
    return commands


def test_the_commands_of_each_function_are_those_that_the_library_runs() -> None:
    run_by, listed = _run_by_functions(), set()
    for names, commands in FUNCTIONS.items():
        listed |= set(names.split())
        needed = set.union(*(run_by[name] for name in names.split()))
        given = {command.partition("|")[0] for command in commands.split()}
        assert given | {"xrevrange"} == needed | {"xrevrange"}, names  # some read a stream in one direction only, by what reads in both
    assert listed | {"may"} == run_by.keys(), "each function is in the list"


def test_each_right_can_be_tried() -> None:
    samples = rights_check._FUNCTION_SAMPLES.keys() | rights_check._DIRECT_SAMPLES.keys() | rights_check._LAST_SAMPLES.keys() | {"fcall"}
    bridges = [BridgeRules(channel="posts:a", **{kind: "x"}) for kind in ("pubsub", "pattern", "list", "stream")]
    needed = [*ROLES.values(), rights_of("gateway", "gw", bridges, console=True), CLUSTER]
    assert set.union(*(set(rights.commands) for rights in needed)) == samples


def test_the_documentation_has_the_line_that_makes_each_user() -> None:
    page = (Path(__file__).parents[2] / "static/docs/how-to/tls-and-rights.md").read_text()
    lines = [acl_line(role, rights_of(role, "gw")) for role in ROLES]
    assert [line for line in lines if line not in page] == []
    assert " ".join(f"+{command}" for command in sorted(CLUSTER.commands)) in page
    assert run("rights").succeeds().splitlines() == lines
    assert run("rights", "service").succeeds().strip() == lines[-1]


def test_a_gateway_needs_what_its_bridges_read_and_a_name_is_no_pattern() -> None:
    bridges = [BridgeRules(list="a*b", channel="posts:a", failed="f"), BridgeRules(pattern="x.*", channel="posts:a")]
    words = rights_of("gateway", "g*w", bridges).words()
    assert {r"~g\*w:*", r"&g\*w:*", r"~a\*b", "~f", "&x.*", "+blmove", "+psubscribe"} <= set(words)


@pytest.mark.parametrize(
    "source, shown",
    [
        ("caf\u00e9", "~caf\u00e9"),
        ("it's caf\u00e9", '"~it\'s?caf\u00e9"'),
        ("a\nFLUSHALL", "~a?FLUSHALL"),
        ('a"b', r'"~a\"b"'),
        ("a*b", r'"~a\\*b"'),
        ("a\u2028b", r'"~a\xe2\x80\xa8b"'),
    ],
)
def test_the_name_of_a_bridge_is_one_word_of_one_line(source: str, shown: str) -> None:
    rights = rights_of("gateway", "gw", [BridgeRules(list=source, channel="posts:a")])
    assert f" {shown} " in acl_line("gateway", rights)


# Enough.


async def test_programs_with_the_least_rights_do_all_that_they_are_for(
    least: LeastRights, prefix: str, start_gateway: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.rpc.service.BLOCK_SECONDS", 0.1)
    gateway = await asyncio.to_thread(start_gateway, "events = true\n" + RULES + NAMED, valkey_url=least.url("gateway"))
    async with Publisher(least.url("publisher"), prefix=prefix) as publisher, client(gateway, subscribe="chat:a") as wire:
        await _live(gateway, wire, publisher, least, prefix)
        await _inbox_and_rpc(wire, publisher, least, prefix)
        await _jobs(gateway, least, prefix)
        await _durable_reader(publisher, least, prefix)
        await gateway.ask("revoke", user="u1", issued_before=2e9)
        assert (await wire.ended())[0] == 3500
    assert await asyncio.to_thread(gateway.stop) == 0
    assert least.refused() == [] and "NOPERM" not in gateway.log() and "lacks rights" not in gateway.log()


async def _live(gateway: RunningGateway, wire: Any, publisher: Publisher, least: LeastRights, prefix: str) -> None:
    await publisher.publish("chat:a", 1)
    with SyncPublisher(least.url("publisher"), prefix=prefix) as plain:
        plain.publish("chat:a", 2, idempotency_key="2")
    await wire.result("publish", channel="chat:a", data=3)
    assert [each["data"] for each in await wire.publications(3)] == [1, 2, 3]
    await until_counted(wire, "chat:a", 1)
    await wire.result("presence", channel="chat:a")
    least.client.execute_command("CLIENT", "KILL", "USER", least.user("gateway"))
    await publisher.publish("chat:a", 4, idempotency_key="4")
    assert (await wire.publication())["data"] == 4
    await until(lambda: gateway.http("GET", "/health/ready")[0] == 200, "the gateway's link is back")
    for method in ("history", "history_remove", "presence", "presence_stats"):
        await gateway.ask(method, channel="chat:a")
    await gateway.ask("info")
    await gateway.ask("channels")
    assert (await publisher.history.read("chat:a")).top.offset == 4


async def _inbox_and_rpc(wire: Any, publisher: Publisher, least: LeastRights, prefix: str) -> None:
    service = Service(least.url("service"), prefix=prefix)

    @service.method("echo")
    async def echo(caller: Any, data: Any) -> Any:
        return data

    async with running(service):
        assert (await wire.result("rpc", method="echo", data=7))["data"] == 7
    await publisher.notify("u1", {"id": "n"})
    assert len((await wire.result("rpc", method="inbox.list", data={}))["data"]["notifications"]) == 1
    await wire.result("rpc", method="inbox.read", data={"ids": ["n"]})


async def _jobs(gateway: RunningGateway, least: LeastRights, prefix: str) -> None:
    worker = Worker(url=least.url("worker"), prefix=prefix)

    @worker.job("twice")
    async def twice(job: Any, data: int) -> int:
        await job.progress(0.5, "half of it")
        return data * 2

    worker.cron("0 3 * * *", "nightly")(twice)
    async with Queue(least.url("producer"), prefix=prefix) as queue, working(worker):
        job = await queue.enqueue("twice", 21, channel="posts:work", key="k", serial="s", result_ttl=60)
        assert await job.result(10) == 42
        waiting = await queue.enqueue("twice", 1, delay=60)
        assert await queue.queues.cancel("default", waiting.id) == "cancelled"
        await queue.queues.overview("default")
        assert await queue.queues.names() == ["default"]
        await gateway.ask("enqueue", name="twice", data=1, queue="other")


async def _durable_reader(publisher: Publisher, least: LeastRights, prefix: str) -> None:
    for number in (1, 2):
        await publisher.publish("named:a", number)
    async with Reader(least.url("reader"), group="g", namespace="named", prefix=prefix) as reader:
        async for publication in reader:
            await publication.ack()
            if publication.data == 2:
                break


async def test_a_gateway_with_a_console_needs_what_that_shows(least: LeastRights, prefix: str, start_gateway: Start) -> None:
    more = rights_of("gateway", prefix, console=True).commands - rights_of("gateway", prefix).commands
    least.give("gateway", more=[f"+{command}" for command in more])
    settings = f"events = true\n{WITH_CONSOLE}{RULES}{NAMED}"
    gateway = await asyncio.to_thread(start_gateway, settings, valkey_url=least.url("gateway"))
    async with Publisher(least.url("publisher"), prefix=prefix) as publisher, Queue(least.url("producer"), prefix=prefix) as queue:
        await _durable_reader(publisher, least, prefix)
        await publisher.publish("named:a", 3)
        await publisher.notify("u1", {"id": "n"})
        job = await queue.enqueue("later", 1, delay=60)
        await asyncio.to_thread(_use_console, log_in(gateway), job.id)
    assert least.refused() == [] and "NOPERM" not in gateway.log() and "lacks rights" not in gateway.log()


def _use_console(operator: Operator, job: str) -> None:
    for method, request in {
        "connections": {"user": "u"},
        "channels_busy": {},
        "channel": {"channel": "named:a"},
        "permissions": {"user": "u1", "channel": "named:a"},
        "inbox": {"user": "u1"},
        "queues": {},
        "queue": {"queue": "default", "state": "delayed"},
        "job": {"queue": "default", "id": job},
        "queue_retry": {"queue": "default"},
        "queue_cancel": {"queue": "default", "id": job},
        "queue_purge": {"queue": "default", "state": "dead", "confirm": "default"},
        "outbox": {},
    }.items():
        operator.call(method, **request)
    assert [row["lag"] for row in operator.call("readers")["readers"]] == [1]
    found = {offset: operator.call("why", user="u1", channel="named:a", offset=offset)["findings"] for offset in (1, 3)}
    assert [len([each for each in findings if each["kind"] == "reader"]) for findings in found.values()] == [1, 1]
    operator.call("why", user="u1", channel="notifications:u1", offset=1)


# Not enough.


@pytest.mark.parametrize("role", [role for role in ROLES if role != "relay"])  # whose rights are those of two others
async def test_each_right_that_is_missing_is_found(least: LeastRights, prefix: str, role: str) -> None:
    rights, address = rights_of(role, prefix, cluster=True), Address(least.url(role))
    cluster = rights_of(role, prefix, cluster=True).commands - rights_of(role, prefix).commands
    for word in rights.words():
        least.give(role, but=[word], more=[f"+{command}" for command in cluster if f"+{command}" != word])
        assert await find_lack(address, rights) == ([word], True), word
    least.give(role, more=[f"+{command}" for command in cluster])
    keys = set(least.client.keys(f"{prefix}:*"))
    assert await find_lack(address, rights) == ([], True) and set(least.client.keys(f"{prefix}:*")) == keys, "trying changes nothing"


def test_check_has_a_line_for_each_right_that_is_missing(least: LeastRights, prefix: str) -> None:
    missing = ["+hget", f"~{prefix}:queues", f"&{prefix}:index:{{*"]
    for role, expected in (("gateway", missing[:1]), ("worker", missing)):
        least.give(role, but=missing)
        outcome = run("check", "--role", role, "--valkey-url", least.url(role), environment={"GATEWAY_PREFIX": prefix})
        user = least.user(role)
        lines = [f"gateway: the user '{user}' of Valkey lacks {word}, which a {role} needs: ACL SETUSER {user} {word}" for word in expected]
        assert outcome.status == 1 and sorted(outcome.error.splitlines()) == sorted(lines)
        least.give(role)
        assert (
            "rights          fine"
            in run("check", "--role", role, "--valkey-url", least.url(role), environment={"GATEWAY_PREFIX": prefix}).succeeds()
        )


@pytest.mark.parametrize(
    "facts, words",
    [
        ({"maxmemory": "0", "maxmemory_policy": "allkeys-lru", "aof_enabled": "1"}, []),
        ({"maxmemory": "1000", "maxmemory_policy": "noeviction", "aof_enabled": "1"}, []),
        ({"maxmemory": "1000", "maxmemory_policy": "volatile-ttl", "aof_enabled": "1"}, ["maxmemory-policy volatile-ttl"]),
        ({"maxmemory": "0", "aof_enabled": "0"}, ["appendonly no"]),
        ({}, []),
    ],
)
def test_check_warns_of_a_server_that_may_lose_data(facts: dict[str, str], words: list[str]) -> None:
    doubts = [doubt.sentence for doubt in doubts_of_a_server(facts)]
    assert len(doubts) == len(words) and all(word in doubt for word, doubt in zip(words, doubts, strict=True))


async def test_who_may_not_load_functions_works_with_those_that_are_there(least: LeastRights, prefix: str, valkey_url: str) -> None:
    loading = ["+function|load", "+function|list", "+function|delete"]
    environment = {"GATEWAY_PREFIX": prefix, "GATEWAY_TOKENS__HMAC_SECRET": "s" * 32}
    least.client.function_flush()
    for url in (least.url("publisher"), least.url("gateway")):
        least.give("gateway", but=loading)
        with pytest.raises(
            NotPermitted, match=f'Valkey lacks version {library.VERSION} of the gateway\'s functions, .*run "gateway install"'
        ):
            async with opened_history(url, prefix, Config()), Publisher(url, prefix=prefix):
                pass
    with pytest.raises(NotPermitted, match="Valkey lacks version"):
        SyncPublisher(least.url("publisher"), prefix=prefix).publish("posts:a", 1)
    check = await asyncio.to_thread(run, "check", "--valkey-url", least.url("gateway"), environment=environment)
    assert check.status == 1 and 'run "gateway install"' in check.error and "lacks +function|" in check.out
    assert "are in Valkey" in (await asyncio.to_thread(run, "install", "--valkey-url", valkey_url, environment=environment)).succeeds()
    async with opened_history(least.url("gateway"), prefix, Config()), Publisher(least.url("publisher"), prefix=prefix) as publisher:
        assert await publisher.publish("posts:a", 1)


async def test_a_channel_that_may_not_be_followed_is_an_error_until_it_may(least: LeastRights, prefix: str, start_gateway: Start) -> None:
    own = [f"&{prefix}:node:*", f"&{prefix}:control"]
    least.give("gateway", but=[f"&{prefix}:*"], more=[*own, f"&{prefix}:{{posts:*"])
    seconds = {"gateway.store.link.REFUSED_AGAIN_SECONDS": 0.1}
    gateway = await asyncio.to_thread(start_gateway, RULES, valkey_url=least.url("gateway"), seconds=seconds)
    assert f"the user '{least.user('gateway')}' of Valkey lacks rights: &{prefix}:*" in gateway.log()
    async with client(gateway) as wire:
        assert await wire.error("subscribe", channel="chat:a") == 100
        await until(lambda: f"Valkey refuses SUBSCRIBE to its user '{least.user('gateway')}'" in gateway.log(), "the log says why")
        await wire.result("subscribe", channel="posts:a")
        least.give("gateway")
        await wire.result("subscribe", channel="chat:a")
        gateway.publish("chat:a", 1)
        assert (await wire.publication())["data"] == 1


async def test_a_channel_that_may_not_be_followed_does_not_cut_off_the_others_when_the_link_is_back(
    least: LeastRights, store: valkey.Valkey, prefix: str, start_gateway: Start
) -> None:
    least.give("gateway", but=[f"&{prefix}:*"], more=[f"&{prefix}:node:*", f"&{prefix}:control", f"&{prefix}:{{posts:*"])
    seconds = {"gateway.store.link.REFUSED_AGAIN_SECONDS": 0.1}
    gateway = await asyncio.to_thread(start_gateway, RULES, valkey_url=least.url("gateway"), seconds=seconds)
    async with client(gateway) as wire:
        await wire.result("subscribe", channel="posts:a")
        assert await wire.error("subscribe", channel="chat:a") == 100
        store.execute_command("CLIENT", "KILL", "USER", least.user("gateway"))
        gateway.publish("posts:a", 1)
        assert (await wire.publication(5))["data"] == 1, "before the hub drops the channel that nobody follows any more"


async def test_a_right_that_is_taken_away_later_is_an_error_for_people(least: LeastRights, prefix: str) -> None:
    url, user = least.url("publisher"), least.user("publisher")
    with SyncPublisher(url, prefix=prefix) as plain:
        async with Publisher(url, prefix=prefix) as publisher:
            await publisher.publish("posts:a", 1)
            plain.publish("posts:a", 1)
            least.give("publisher", but=["+xadd"])
            wanted = rf"^Valkey refuses FCALL gateway_publish to its user '{user}' \(.*'xadd' command.*\); \"gateway check\" names each"
            with pytest.raises(NotPermitted, match=wanted) as caught:
                await publisher.publish("posts:a", 2)
            assert "secret" not in str(caught.value) and "script" not in str(caught.value)
            with pytest.raises(NotPermitted, match=wanted):
                plain.publish("posts:a", 2)
            least.give("publisher", but=["+fcall"])
            for call in (publisher.publish, lambda *words: asyncio.to_thread(plain.publish, *words)):
                with pytest.raises(NotPermitted, match="'fcall' command"):
                    await call("posts:a", 3)


@pytest.mark.parametrize(
    "text, kind",
    [
        ("NOPERM User u has no permissions to run the 'hget' command", "command"),
        ("NOPERM No permissions to access a key", "key"),
        ("NOPERM No permissions to access a channel", "channel"),
        ("ERR ACL failure in script: No permissions to access a key script: on @user_function:5.", "key"),
        ("NOPERM this user has no permissions to run the 'hget' command", "command"),
        ("NOPERM this user has no permissions to access one of the keys used as arguments", "key"),
        ("NOPERM this user has no permissions to access one of the channels used as arguments", "channel"),
        ("ERR The user executing the script can't run this command or subcommand script: f, on @user_function:7.", "command"),
        ("ERR The user executing the script can't access at least one of the keys mentioned in the command arguments", "key"),
        ("ERR The user executing the script can't publish to the channel mentioned in the command", "channel"),
        ("NOPERM of a kind that is not known yet", "command"),
        ("ERR Write commands are not allowed from read-only scripts.", None),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", None),
    ],
)
def test_refusals_of_valkey_and_of_redis_are_understood(text: str, kind: str | None) -> None:
    assert lacking(text) == kind
    assert "script: " not in str(not_permitted(text, "HGET", "u"))
