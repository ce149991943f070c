"""What a page of the console follows live: figures of every process, lines of the log, any channel; and draining a process."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from valkey import Valkey

from ..kit.clients import Wire, client, opened
from ..kit.gateways import Pair, Start
from ..kit.operators import READ_KEY, WITH_CONSOLE, log_in
from ..kit.waiting import wait_until

SETTINGS = (
    WITH_CONSOLE
    + """
events = true
[limits]
channels_per_client = 4
[namespaces.seen]
join_leave = "all"
publish = "anyone"
subscribe = "anyone"
[namespaces.sealed]
subscribe = "nobody"
[namespaces.talk]
publish = "subscriber"
"""
)


@pytest.fixture(scope="module")
def pair(start_gateway_once: Start) -> Pair:
    here = start_gateway_once(SETTINGS)
    return Pair(here, start_gateway_once(SETTINGS, beside=here))


async def _figures(wire: Wire) -> dict[str, dict[str, Any]]:
    """The next figures of both processes, by uid."""
    found: dict[str, dict[str, Any]] = {}
    while len(found) < 2:
        data = (await wire.publication())["data"]
        if data["kind"] == "figures":
            found[data["node"]] = data
    return found


async def _pushed(wire: Wire, channel: str) -> dict[str, Any]:
    """The next push of that channel, whatever it is; the figures meanwhile are passed over."""
    while True:
        push = (await wire.next())["push"]
        if push.get("channel") == channel:
            return push


async def test_every_process_publishes_its_figures_while_a_page_is_open_and_not_its_own_followers(pair: Pair, store: Valkey) -> None:
    operator = log_in(pair.here, READ_KEY)
    live = operator.call("live")
    history = store.keys(f"{pair.here.prefix}:*console:live*")
    assert history == [], "where nobody looks, nothing is published"
    async with opened(pair.here) as wire, client(pair.there, "ann", subscribe="posts:1"):
        connected = await wire.result("connect", token=live["token"])
        assert connected["subs"][live["channel"]]["recoverable"] is True and connected["expires"] is True
        before = operator.call("nodes")["nodes"]
        operator.call("watch")
        first = await _figures(wire)
        pair.here.publish("posts:1", {"n": 1})
        later = [await _figures(wire) for _ in range(2)][-1]
        assert later.keys() == {node["uid"] for node in before}
        of_ann = next(figures for figures in later.values() if figures["connects"] == 1 and figures["publications"])
        mine = next(figures for figures in later.values() if figures is not of_ann)
        assert (mine["publications"], mine["deliveries"], mine["gaps"], mine["link"], mine["draining"]) == (0, 0, 0, "up", False)
        assert of_ann["publications"] == 1 and of_ann["deliveries"] == 1 and of_ann["users"] == 1
        assert of_ann["ms"] - first[of_ann["node"]]["ms"] in range(1500, 4000)
        assert all(figures["rss"] > 2**20 and figures["cpu"] > 0 and "p99" in figures["latency_ms"] for figures in later.values())
        read = operator.call("history", channel=live["channel"], limit=300)
        assert {each["data"]["kind"] for each in read["publications"]} == {"figures"}, "lines of the log are stored nowhere"


async def test_new_lines_of_the_log_are_published_without_secrets(pair: Pair) -> None:
    operator = log_in(pair.here, READ_KEY)
    async with opened(pair.there) as wire:
        await wire.result("connect", token=operator.call("live")["token"])
        operator.call("watch")
        token = pair.here.token("mallory")
        await asyncio.to_thread(lambda: pair.here.http("POST", "/api/publish", b"{}", {"X-API-Key": token}))
        async with asyncio.timeout(20):
            while True:
                data = (await wire.publication())["data"]
                if data["kind"] == "log" and any("the API key is missing or wrong" in line["text"] for line in data["lines"]):
                    break
        assert set(data) == {"kind", "node", "name", "lines", "more"}


async def test_a_page_follows_any_channel_unseen(pair: Pair, store: Valkey) -> None:
    operator = log_in(pair.here, READ_KEY)
    async with client(pair.here, "ann", subscribe="seen:1") as ann, opened(pair.there) as wire:
        own = (await wire.result("connect", token=operator.call("live")["token"]))["client"]
        assert operator.call("tail", client=own, channel="seen:1") == {}
        assert operator.call("tail", client=own, channel="sealed:1") == {}, "whatever the rules are"
        assert "subscribe" in await _pushed(wire, "seen:1")
        pair.here.publish("seen:1", {"n": 1})
        assert (await _pushed(wire, "seen:1"))["pub"]["data"] == {"n": 1}
        async with client(pair.there, "bob", subscribe="seen:1") as bob:
            stats = await bob.result("presence", channel="seen:1")
            assert {each["user"] for each in stats["presence"].values()} <= {"ann", "bob"}
        pair.here.publish("seen:1", {"n": 2})
        assert (await _pushed(wire, "seen:1"))["pub"]["data"] == {"n": 2}, "and nothing of who came and went"
        assert operator.call("untail", client=own, channel="seen:1") == {}
        assert "unsubscribe" in await _pushed(wire, "seen:1")
        came: set[str] = set()
        while "leave" not in (push := (await ann.next())["push"]):
            came |= {push["join"]["info"]["user"]} if "join" in push else set()
        assert came <= {"ann", "bob"}, "the page never came"
    events = f"{pair.here.prefix}:events"
    wait_until(lambda: store.xlen(events) >= 12, "the events of ann and bob")
    assert {fields[b"user"] for _, fields in store.xrange(events)} <= {b"ann", b"bob"}


async def test_a_page_changes_nothing_on_its_live_connection_whatever_it_follows_there(pair: Pair) -> None:
    operator = log_in(pair.here, READ_KEY)
    async with opened(pair.here) as wire:
        own = (await wire.result("connect", token=operator.call("live")["token"]))["client"]
        operator.call("tail", client=own, channel="talk:1")
        for channel in ("talk:1", "seen:2"):
            assert (await wire.ask("publish", channel=channel, data=1))["error"]["code"] == 103
        assert (await wire.ask("subscribe", channel="seen:2"))["error"]["code"] == 103, "it would be among those who are there"
        assert (await wire.ask("rpc", method="inbox.list"))["error"]["code"] == 103
        assert operator.call("history", channel="talk:1")["publications"] == []


async def test_a_channel_that_the_connections_process_does_not_know_is_refused_in_a_sentence(pair: Pair, store: Valkey) -> None:
    operator = log_in(pair.here, READ_KEY)
    async with opened(pair.there) as wire:
        token = operator.call("live")["token"]
        own = (await wire.result("connect", token=token))["client"]
        asked = {"client": own, "channel": "strange:1", "session": token.split("-")[2]}  # as a process with another configuration asks
        question = {"id": 1, "asker": "p", "what": "tail", "pattern": json.dumps(asked)}
        with store.pubsub(ignore_subscribe_messages=True) as answers:
            answers.subscribe(f"{pair.here.prefix}:node:p")
            await asyncio.sleep(0)
            store.execute_command("FCALL", "gateway_control", 1, f"{pair.here.prefix}:control", json.dumps({"v": 1, "question": question}))
            found: list[bytes] = []
            wait_until(lambda: found.extend(m["data"] for m in [answers.get_message(timeout=0.1)] if m) or len(found) >= 2, "both answers")
        assert {json.loads(answer)["answer"] for answer in found} == {None, "unknown"}


async def test_nobody_follows_a_channel_on_a_connection_that_is_not_his_sessions(pair: Pair) -> None:
    operator, another = log_in(pair.here), log_in(pair.here)
    async with client(pair.there, "ann") as ann, opened(pair.here) as wire:
        theirs = (await wire.result("connect", token=another.call("live")["token"]))["client"]
        for id in (theirs, ann.connected["client"]):
            assert operator.refusal("tail", client=id, channel="posts:1") == "that client is no live connection of your session"
            assert operator.refusal("untail", client=id, channel="notifications:ann") == "that client is no live connection of your session"
        assert another.call("tail", client=theirs, channel="posts:1") == {}
        for number in (2, 3):
            assert another.call("tail", client=theirs, channel=f"posts:{number}") == {}
        assert another.refusal("tail", client=theirs, channel="posts:4") == "limits.channels_per_client is 4"
        assert "console's own" in another.refusal("untail", client=theirs, channel="console:live")
        assert operator.refusal("tail", client="none", channel="posts:1") == "no process has a client of that id"
        assert operator.refusal("tail", client="", channel="posts:1") == "no process has a client of that id"
        assert "no namespace 'nope'" in another.refusal("tail", client=theirs, channel="nope:1")


async def test_a_page_has_no_other_rights(pair: Pair) -> None:
    async with opened(pair.here) as wire:
        await wire.result("connect", token=log_in(pair.here).call("live")["token"])
        assert await wire.error("subscribe", channel="posts:1") == 103
        assert await wire.error("publish", channel="console:live", data=1) == 103
        assert await wire.error("publish", channel="posts:1", data=1) == 103
        assert await wire.error("rpc", method="inbox.list") in (103, 104, 107)


async def test_a_process_is_drained_and_admits_again(pair: Pair) -> None:
    operator = log_in(pair.here)
    async with client(pair.there, "ann") as ann:
        node = next(each for each in operator.call("nodes")["nodes"] if each["clients"])
        assert node["draining"] is False and node["link"] == "up" and node["ready"] == ""
        assert operator.call("drain", node=node["uid"]) == {}
        assert (await ann.ended())[0] == 3001
    assert pair.there.http("GET", "/health/ready")[0] == 503
    async with opened(pair.there) as wire:
        assert (await wire.ended())[0] == 3001
    nodes = {each["uid"]: each for each in log_in(pair.there).call("nodes")["nodes"]}
    assert len(nodes) == 2 and [each["ready"] for each in nodes.values() if each["draining"]] == ["draining"]
    async with client(pair.here, "ann"):
        assert operator.call("undrain", node=node["uid"]) == {}
    assert pair.there.http("GET", "/health/ready")[0] == 200
    async with client(pair.there, "ann"):
        assert operator.refusal("drain", node="no such process") == "no process 'no such process' answered"


def test_the_log_of_all_processes_is_read_newest_last(pair: Pair) -> None:
    operator = log_in(pair.here, READ_KEY)
    log_in(pair.there)
    lines = operator.call("log", level="info", limit=200)["lines"]
    assert {line["node"] for line in lines} == {node["uid"] for node in operator.call("nodes")["nodes"]}
    assert [line["ms"] for line in lines] == sorted(line["ms"] for line in lines)
    assert {line["level"] for line in lines} <= {"info", "warning", "error"}
    assert operator.call("log", limit=1)["lines"][0]["ms"] >= lines[-1]["ms"]
    assert operator.call("log", after=lines[-1]["ms"] + 60_000)["lines"] == []
    assert "200" in operator.refusal("log", limit=201)


async def test_processes_that_do_not_answer_are_not_left_out_in_silence(pair: Pair) -> None:
    operator = log_in(pair.here, READ_KEY)
    assert "warning" not in operator.call("nodes")
    with pair.there.frozen():
        found = operator.call("nodes")
    assert len(found["nodes"]) == 1 and found["warning"].startswith("1 of 2 processes did not answer: ")
