"""The inbox: what is unread is counted once, in Valkey, and every device of the user ends with that count.

    Model     an inbox, said naively: the whole history, and which ids are unread
    Box       a user's inbox on a real Valkey, asked as clients ask, and looked at from below
    Device    a user's device on a real gateway, which takes states by the rule of gateway.js

All on one Valkey of this module's own, with two gateways: a user's devices need not be on the same one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
import valkey
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import BrowserContext, Page, WebSocketRoute
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from gateway.config import Config
from gateway.errors import BadRequest, StoreError, UnrecoverablePosition
from gateway.live.channel import Channel
from gateway.live.hub import Hub
from gateway.live.inbox import Inbox
from gateway.live.subscription import State, Subscription
from gateway.publication import Position, Publication
from gateway.rules.notifications import channel_of
from gateway.store.connect import Address
from gateway.store.connection import Commands
from gateway.store.embedded import EmbeddedServer
from gateway.store.history import History
from gateway.store.history import Page as HistoryPage
from gateway.store.layout import Layout, publish_words
from gateway.store.library import Library, Rules
from publishers import Publisher, SyncPublisher

from ..conftest import API_KEY, RunningGateway, Start, until, wait_until
from ..kit.clients import CLOSED_RULES, RULES, client, connected_socket, opened, publish_many, stream
from ..static import test_browser as browsers

LIMIT = 4096  # bytes of a request's body
SETTINGS = f"""
allowed_origins = ["https://app.example.org"]
{RULES}
[limits]
message_bytes = {LIMIT}
"""
SIZE = 6  # of a history that is trimmed
LOST = (OSError, EOFError, TimeoutError, ConnectionClosed, InvalidHandshake, InvalidMessage)
NOT_ONE = 'a notification is a JSON object with an "id", a text of 1 to 200 bytes'


# The module's Valkey, and its gateways.


class OwnValkey:
    def __init__(self, url: str) -> None:
        self.url = url
        self.client = valkey.Valkey.from_url(url)

    def kill_links(self, *then: Any) -> Any:
        """And runs a command that no link hears of; returns its answer."""
        with self.client.pipeline(transaction=True) as together:
            together.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            if then:
                together.execute_command(*then)
            return together.execute()[-1]


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnValkey]:
    server = EmbeddedServer(tmp_path_factory.mktemp("inbox") / "own")
    server.start()
    own = OwnValkey(server.url)
    yield own
    own.client.close()
    server.stop()


@pytest.fixture(scope="module")
def gateway(own: OwnValkey, start_gateway_once: Start) -> RunningGateway:
    return start_gateway_once(SETTINGS, valkey_url=own.url)


@pytest.fixture(scope="module")
def other_gateway(own: OwnValkey, gateway: RunningGateway, start_gateway_once: Start) -> RunningGateway:
    """Nothing is open to the anonymous here."""
    return start_gateway_once(CLOSED_RULES, valkey_url=own.url)


@pytest.fixture
def user() -> str:
    return new_user()


def new_user() -> str:
    return f"u{secrets.token_hex(6)}"


# An inbox from below.


class Box:
    """``told`` are the states that were announced, oldest first."""

    def __init__(self, own: OwnValkey, prefix: str, user: str, history: History) -> None:
        self.own = own
        self.user = user
        self.channel = channel_of(user)
        self.history = history
        self.keys = [key.decode() for key in Layout(prefix).inbox_keys(self.channel)]
        self.meta, self.stream, _, self.unread_key, self.inbox_key = self.keys
        self.told: list[dict[str, Any]] = []
        self._inbox = Inbox(Config(), history)
        self._pubsub = own.client.pubsub(ignore_subscribe_messages=True)
        self._pubsub.subscribe(Layout(prefix).channel(self.channel))

    def close(self) -> None:
        self._pubsub.close()

    async def notify(self, id: str, **options: Any) -> Position:
        position = await self.history.notify(self.channel, publish_words(json.dumps({"id": id}), **options))
        assert position is not None
        return position

    async def plain(self, **options: Any) -> None:
        await self.history.publish(self.channel, publish_words(b'{"id":"plain"}', **options))

    async def read(self, **request: Any) -> dict[str, Any]:
        return json.loads(await self._inbox.read(self.user, json.dumps(request).encode()))

    async def list(self, **request: Any) -> dict[str, Any]:
        return json.loads(await self._inbox.list(self.user, json.dumps(request).encode()))

    async def pages(self, limit: int) -> list[dict[str, Any]]:
        """All notifications, page by page."""
        listed: list[dict[str, Any]] = []
        before: str | None = None
        while True:
            page = await self.list(limit=limit, before=before)
            assert len(page["notifications"]) <= limit
            listed += page["notifications"]
            assert page["next"] != before or before is None, "the same page again"
            before = page["next"]
            if before is None:
                return listed

    async def marks(self) -> dict[str, bool]:
        """Whether each is unread, newest first."""
        return marks(await self.list())

    async def state(self) -> tuple[int, int]:
        state = await self.list(limit=0)
        return state["unread"], state["change"]

    async def hears(self, count: int) -> list[dict[str, Any]]:
        """Everything that was announced, once there are so many states among it."""

        def listen() -> bool:
            while message := self._pubsub.get_message():
                if message["data"].startswith(b"{"):
                    self.told.append(json.loads(message["data"])["inbox"])
            return len(self.told) >= count

        await until(listen, f"{count} announcements", 5)
        return self.told

    def unread(self) -> dict[str, int]:
        """What Valkey counts: id → offset."""
        return {id.decode(): int(score) for id, score in self.own.client.zrange(self.unread_key, 0, -1, withscores=True)}

    def notify_words(self, id: str, *options: Any) -> tuple[Any, ...]:
        return ("FCALL", "gateway_notify", 5, *self.keys, json.dumps({"id": id}), *options)

    def read_words(self, *ids: str) -> tuple[Any, ...]:
        return ("FCALL", "gateway_read", 5, *self.keys, "", "", *ids)


def marks(listed: dict[str, Any]) -> dict[str, bool]:
    return {each["id"]: each["unread"] for each in listed["notifications"]}


@contextlib.asynccontextmanager
async def opened_box(own: OwnValkey, prefix: str, user: str, rules: Rules | None = None) -> AsyncIterator[Box]:
    """With the rules of the gateways, or with those given."""
    library = Library(rules, prefix)
    commands = Commands(Address(own.url), functions=library)
    await commands.start()
    if rules is not None:
        await library.install(commands.call)
    box = Box(own, prefix, user, History(commands, Layout(prefix)))
    try:
        yield box
    finally:
        box.close()
        await commands.close()


@pytest.fixture
async def box(own: OwnValkey, gateway: RunningGateway, user: str) -> AsyncIterator[Box]:
    async with opened_box(own, gateway.prefix, user) as box:
        yield box


# An inbox, said naively.


class Model:
    """Each operation says whether anything changed that a device has to know."""

    def __init__(self) -> None:
        self.top = 0
        self.history: list[tuple[int, str | None]] = []  # offset, id; a plain publication has none
        self.unread: set[str] = set()

    def notify(self, id: str, size: int = 0) -> bool:
        self._append(id)
        self.unread.add(id)
        self.trim(size)
        return True

    def plain(self, size: int = 0) -> bool:
        self._append(None)
        return self.trim(size)

    def _append(self, id: str | None) -> None:
        self.top += 1
        self.history.append((self.top, id))

    def trim(self, size: int) -> bool:
        return self._keep(self.history[-size:])

    def remove(self) -> bool:
        return self._keep([])

    def _keep(self, history: list[tuple[int, str | None]]) -> bool:
        self.history = history
        return self._unread(self.unread & {id for _, id in history if id})

    def read(self, ids: list[str] | None = None, upto: int | None = None) -> bool:
        chosen = {id for id in self.unread if (ids is None or id in ids) and (upto is None or self.newest(id) <= upto)}
        return self._unread(self.unread - chosen)

    def _unread(self, now: set[str]) -> bool:
        before, self.unread = self.unread, now
        return now != before

    def newest(self, id: str) -> int:
        return max(offset for offset, name in self.history if name == id)

    def listed(self) -> list[tuple[str, int, bool]]:
        """id, offset, unread: newest first, each once."""
        newest = {id: offset for offset, id in self.history if id is not None}
        return [(id, offset, id in self.unread) for id, offset in sorted(newest.items(), key=lambda each: -each[1])]


# What counts.


async def test_a_notification_counts_once_however_often_it_is_updated(box: Box) -> None:
    for id in ("a", "b", "a", "a"):
        await box.notify(id)
    assert box.unread() == {"b": 2, "a": 4}
    assert [(each["id"], each["offset"]) for each in await box.pages(10)] == [("a", 4), ("b", 2)]
    assert await box.state() == (2, 4)


async def test_an_update_of_a_read_one_is_unread_again(box: Box) -> None:
    await box.notify("a")
    await box.notify("b")
    assert (await box.read(ids=["a", "b"]))["unread"] == 0
    await box.notify("a")
    assert await box.marks() == {"a": True, "b": False}
    assert box.unread() == {"a": 3}


async def test_what_is_trimmed_is_neither_counted_nor_listed(box: Box) -> None:
    for id in ("read", "unread", "a", "updated", "b", "updated"):
        await box.notify(id)
    await box.read(ids=["read", "a"])
    for id, unread in (("c", ["b", "c", "updated"]), ("d", ["c", "d", "updated"])):
        await box.notify(id, size=3)
        assert sorted(box.unread()) == unread
    assert await box.marks() == {"d": True, "c": True, "updated": True}
    assert [state["unread"] for state in (await box.hears(9))[-2:]] == [3, 3]
    assert box.own.client.zrange(box.inbox_key, 0, -1) == [b"updated", b"c", b"d"]


async def test_a_namespace_with_a_small_history_is_a_small_inbox(own: OwnValkey, prefix: str, user: str) -> None:
    common = {"size": 100, "ttl": 300, "meta_ttl": 3600}
    async with opened_box(own, prefix, user, {"": common, "notifications": common | {"size": 2}}) as box:
        for id in ("a", "b", "c"):
            await box.notify(id)
        assert await box.marks() == {"c": True, "b": True}
        assert sorted(box.unread()) == ["b", "c"]
        kept = [own.client.ttl(key) for key in (box.meta, box.unread_key, box.inbox_key)]
        assert all(3590 < seconds <= 3600 for seconds in kept), kept


async def test_plain_publications_count_nothing_but_take_room(box: Box) -> None:
    await box.notify("a")
    await box.notify("b")
    before = await box.state()
    await box.plain()
    assert await box.state() == before == (2, 2)
    assert await box.marks() == {"b": True, "a": True}
    await box.plain(size=3)
    assert await box.state() == (1, 3)
    await box.plain(size=1)
    assert await box.state() == (0, 4)
    assert [state["unread"] for state in await box.hears(4)] == [1, 2, 1, 0]


@pytest.mark.parametrize("next_act", ["list", "read", "notify"])
async def test_removing_history_empties_the_inbox(box: Box, next_act: str) -> None:
    await box.notify("a")
    await box.notify("b")
    await box.read(ids=["b"])
    await box.history.remove(box.channel)
    if next_act == "list":
        assert await box.list() == {
            "notifications": [],
            "unread": 0,
            "change": 4,
            "epoch": (await box.list())["epoch"],
            "offset": 2,
            "next": None,
        }
    elif next_act == "read":
        assert (await box.read(ids=["a"]))["unread"] == 0
    else:
        await box.notify("c")
        assert await box.marks() == {"c": True}
    assert sorted(box.unread()) == (["c"] if next_act == "notify" else [])
    assert (await box.hears(4))[-1]["change"] == 4


async def test_history_that_expired_counts_no_more(box: Box) -> None:
    await box.notify("a", ttl=1000)
    box.own.client.pexpire(box.stream, 1)
    await until(lambda: not box.own.client.exists(box.stream), "it expired")
    assert await box.state() == (0, 2)
    assert (await box.hears(2))[-1]["unread"] == 0
    await box.notify("b")
    assert await box.marks() == {"b": True}


@pytest.mark.parametrize("next_act", ["list", "read", "notify", "plain"])
@pytest.mark.parametrize("loss", ["the counter", "everything"])
async def test_what_comes_back_empty_starts_anew(box: Box, loss: str, next_act: str) -> None:
    await box.notify("stale")
    epoch = (await box.list())["epoch"]
    box.own.client.delete(box.meta) if loss == "the counter" else box.own.client.flushall()
    if next_act == "list":
        assert (await box.list())["notifications"] == []
    elif next_act == "read":
        assert (await box.read(all=True))["unread"] == 0
    elif next_act == "plain":
        await box.plain()
    else:
        await box.notify("new")
    listed = await box.list()
    assert marks(listed) == ({"new": True} if next_act == "notify" else {})
    assert (listed["unread"], listed["change"]) == ((1, 1) if next_act == "notify" else (0, 0))
    assert listed["epoch"] != epoch
    assert sorted(box.unread()) == (["new"] if next_act == "notify" else [])
    await box.notify("newer")
    assert "stale" not in await box.marks()


async def test_a_history_that_had_to_begin_again_forgets_what_was_counted(box: Box) -> None:
    for id in ("stale", "stale too"):
        await box.notify(id)
    box.own.client.xadd(box.stream, {"data": "written by somebody else"}, id="1000-1")
    assert (await box.notify("new")).offset == 1
    assert box.unread() == {"new": 1}
    assert (await box.marks(), await box.state()) == ({"new": True}, (1, 1))


async def test_a_repeat_by_key_or_version_changes_nothing(box: Box) -> None:
    first = await box.notify("keyed", idempotency_key="k")
    second = await box.notify("versioned", version=7, version_epoch="v")
    await box.read(all=True)
    before = await box.list()
    assert await box.notify("keyed", idempotency_key="k") == first
    assert await box.notify("other", idempotency_key="k") == first
    for version in (7, 6):
        assert await box.notify("versioned", version=version, version_epoch="v") == second
    assert await box.list() == before
    assert (before["unread"], before["change"]) == (0, 3)


async def test_an_outbox_that_repeats_itself_notifies_once(box: Box) -> None:
    rows = [(number, json.dumps({"id": id})) for number, id in enumerate(("a", "b", "a"), 1)]
    await box.history.relay(box.channel, "outbox", rows[:2], notify=True)
    await box.read(all=True)
    await box.history.relay(box.channel, "outbox", rows, notify=True)
    assert await box.marks() == {"a": True, "b": False}
    assert await box.state() == (1, 4)
    await box.history.relay(box.channel, "outbox", rows, notify=True)
    assert await box.state() == (1, 4)


async def test_what_is_announced_only_is_not_in_the_inbox(box: Box) -> None:
    assert await box.history.notify(box.channel, publish_words(b'{"id":"a"}', ttl=0)) is None
    assert await box.list() == {
        "notifications": [],
        "unread": 0,
        "change": 0,
        "epoch": (await box.list())["epoch"],
        "offset": 0,
        "next": None,
    }


@pytest.mark.parametrize(
    "data",
    [
        "{}",
        '{"ID":"a"}',
        '{"id":""}',
        '{"id":null}',
        '{"id":7}',
        '{"id":["a"]}',
        '{"id":{"id":"a"}}',
        json.dumps({"id": "x" * 201}),
        json.dumps({"id": "ü" * 101}, ensure_ascii=False),
        '["id"]',
        '[{"id":"a"}]',
        '"id"',
        "1",
        "null",
        "",
        "{",
        "no JSON",
        '{"id":"a","deep":' + "[" * 1000 + "]" * 1000 + "}",
    ],
    ids=lambda data: data[:20],
)
async def test_what_is_no_notification_is_refused_and_nothing_is_published(box: Box, data: str) -> None:
    with pytest.raises(StoreError) as refusal:
        await box.history.notify(box.channel, publish_words(data, idempotency_key="k", version=9))
    assert f"GATEWAY {NOT_ONE}" in str(refusal.value)
    assert not box.own.client.exists(*box.keys)


@pytest.mark.parametrize("id", ["x", "x" * 200, "ü" * 100, " ", '"\\/%s%d', "\n\0", "🦊"])
async def test_any_text_is_an_id(box: Box, id: str) -> None:
    await box.notify(id)
    assert await box.marks() == {id: True}
    await box.read(ids=[id])
    assert await box.marks() == {id: False}
    assert (await box.hears(2))[-1]["read"] == [id]


UNLISTED = {
    "nested deeper than clients read": b'{"id":"odd","deep":' + b"[" * 300 + b"]" * 300 + b"}",
    "no JSON to us": b'{"id":"odd","n":NaN}',
    "no UTF-8": b'{"id":"odd","t":"\xff"}',
    "two ids": b'{"id":7,"id":"odd"}',
}


@pytest.mark.parametrize("data", UNLISTED.values(), ids=UNLISTED)
async def test_one_odd_notification_does_not_hide_the_others(box: Box, data: bytes) -> None:
    await box.notify("before")
    try:
        await box.history.notify(box.channel, publish_words(data))
    except StoreError:
        return  # refused: as good
    assert await box.marks() == {"odd": True, "before": True}


@pytest.mark.parametrize("keys", [[0, 1, 2], [0, 1, 2, 4, 3], [0, 1, 2, 3, 3]], ids=str)
async def test_keys_that_are_not_those_of_one_inbox_are_refused(box: Box, keys: list[int]) -> None:
    with pytest.raises(valkey.ResponseError, match=r"GATEWAY the keys are gw:{C}:meta .* gw:{C}:inbox, of one channel C"):
        box.own.client.fcall("gateway_notify", len(keys), *[box.keys[place] for place in keys], '{"id":"a"}')


# What is read.


@pytest.fixture
async def three(box: Box) -> Position:
    """The position of the second of three notifications: a, b, and c."""
    await box.notify("a")
    position = await box.notify("b")
    await box.notify("c")
    return position


@pytest.mark.parametrize(
    "asked, left, extra",
    [
        ({"ids": ["b"]}, {"a", "c"}, {"read": ["b"]}),
        ({"ids": ["c", "none", "a", "c"]}, {"b"}, {"read": ["c", "a"]}),
        ({"upto": 2}, {"c"}, {"upto": 2}),
        ({"upto": 0}, {"a", "b", "c"}, None),
        ({"ids": ["a", "b", "c"], "upto": 1}, {"b", "c"}, {"read": ["a"]}),
        ({"ids": ["c"], "upto": 2}, {"a", "b", "c"}, None),
        ({"ids": ["none"]}, {"a", "b", "c"}, None),
        ({"all": True}, set(), {"upto": 3}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
async def test_what_is_named_is_read_and_nothing_else(
    box: Box, three: Position, asked: dict[str, Any], left: set[str], extra: dict[str, Any] | None
) -> None:
    if "upto" in asked:
        asked = asked | {"upto": f"{three.epoch}:{asked['upto']}"}
    change = 3 if extra is None else 4
    state = {"unread": len(left), "change": change, "epoch": three.epoch}
    assert await box.read(**asked) == state | {"offset": 3}
    assert set(box.unread()) == left
    assert (await box.hears(change))[3:] == ([] if extra is None else [state | extra])
    assert await box.read(**asked) == state | {"offset": 3}, "again, it changes nothing"


async def test_an_update_that_nobody_saw_stays_unread(box: Box, three: Position) -> None:
    await box.notify("a")
    await box.read(upto=f"{three.epoch}:3")
    assert box.unread() == {"a": 4}
    await box.read(ids=["a"], upto=f"{three.epoch}:3")
    assert box.unread() == {"a": 4}


@pytest.mark.parametrize("ids", [{}, {"ids": ["a"]}])
async def test_a_position_of_another_epoch_reads_nothing(box: Box, three: Position, ids: dict[str, Any]) -> None:
    answer = await box.read(upto="another:3", **ids)
    assert (answer["unread"], answer["change"], answer["epoch"]) == (3, 3, three.epoch)
    assert len(box.unread()) == 3


async def test_a_position_past_the_top_reads_what_there_is(box: Box, three: Position) -> None:
    await box.read(upto=f"{three.epoch}:1000")
    assert box.unread() == {}
    await box.notify("d")
    assert box.unread() == {"d": 4}


async def test_no_ids_up_to_a_position_read_nothing(box: Box, three: Position) -> None:
    with contextlib.suppress(BadRequest):
        await box.read(ids=[], upto=str(three))
    assert len(box.unread()) == 3


async def test_each_change_is_announced_and_counts_one_on(box: Box) -> None:
    states: list[tuple[int, int]] = []
    for act in (
        lambda: box.notify("a"),
        lambda: box.notify("a"),
        lambda: box.notify("b", idempotency_key="k"),
        lambda: box.notify("b", idempotency_key="k"),
        lambda: box.read(ids=["a"]),
        lambda: box.read(ids=["a"]),
        lambda: box.plain(),
        lambda: box.notify("a"),
        lambda: box.read(all=True),
        lambda: box.list(),
    ):
        await act()
        states.append(await box.state())
    assert states == [(1, 1), (1, 2), (2, 3), (2, 3), (1, 4), (1, 4), (1, 4), (2, 5), (0, 6), (0, 6)]
    heard = await box.hears(6)
    assert [(state["unread"], state["change"]) for state in heard] == sorted(set(states), key=lambda state: state[1])
    assert {state["epoch"] for state in heard} == {(await box.list())["epoch"]}


# Paging, and everything else, against the model.

IDS = st.sampled_from("abcdefgh")
ACTS = st.one_of(
    st.tuples(st.just("notify"), IDS, st.sampled_from([0, 0, 0, SIZE])),
    st.tuples(st.just("plain"), st.sampled_from([0, 0, 3, SIZE])),
    st.tuples(st.just("read"), st.none() | st.lists(IDS, min_size=1, max_size=4), st.none() | st.integers(0, 30)),
    st.tuples(st.just("remove")),
)


@settings(max_examples=100)
@given(st.lists(ACTS, max_size=30), st.integers(1, 9))
def test_pages_of_any_size_hold_each_notification_once_as_the_model_does(
    own: OwnValkey, gateway: RunningGateway, acts: list[tuple[Any, ...]], limit: int
) -> None:
    async def play() -> None:
        async with opened_box(own, gateway.prefix, new_user()) as box:
            model = Model()
            told: list[tuple[int, int]] = []
            for act in acts:
                if await _act(box, model, *act):
                    told.append((len(model.unread), len(told) + 1))
                assert await box.state() == (told[-1] if told else (0, 0)), act
            listed = [(each["id"], each["offset"], each["unread"]) for each in await box.pages(limit)]
            assert listed == model.listed()
            assert box.unread() == {id: model.newest(id) for id in model.unread}
            assert [(state["unread"], state["change"]) for state in await box.hears(len(told))] == told

    asyncio.run(play())


async def _act(box: Box, model: Model, kind: str, *words: Any) -> bool:
    if kind == "notify":
        id, size = words
        assert (await box.notify(id, size=size or None)).offset == model.top + 1
        return model.notify(id, size)
    if kind == "plain":
        await box.plain(size=words[0] or None)
        return model.plain(words[0])
    if kind == "remove":
        await box.history.remove(box.channel)
        return model.remove()
    ids, upto = words
    epoch = (await box.list(limit=0))["epoch"]
    named = {"ids": ids, "upto": None if upto is None else f"{epoch}:{upto}", "all": ids is None and upto is None}
    await box.read(**named)
    return model.read(ids, upto)


async def test_a_page_holds_a_hundred_at_most_and_none_is_its_own_question(box: Box) -> None:
    for number in range(101):
        await box.notify(f"n{number}")
    first = await box.list(limit=1000)
    assert (len(first["notifications"]), first["next"]) == (100, f"{first['epoch']}:2")
    last = await box.list(before=first["next"])
    assert (marks(last), last["next"]) == ({"n0": True}, None)
    assert len((await box.list())["notifications"]) == 20
    nothing = await box.list(limit=0)
    assert (nothing["notifications"], nothing["next"], nothing["unread"]) == ([], None, 101)


async def test_an_update_moves_to_the_front_and_is_not_listed_where_it_stood(box: Box, three: Position) -> None:
    first = await box.list(limit=1)
    await box.notify("a")
    assert list(marks(first)) == ["c"]
    assert [list(marks(await box.list(limit=5, before=first["next"]))), list(await box.marks())] == [["b"], ["a", "c", "b"]]


async def test_a_page_behind_a_position_of_another_epoch_is_refused(box: Box, three: Position) -> None:
    with pytest.raises(UnrecoverablePosition, match=f"the epoch is {three.epoch} now"):
        await box.list(before="another:3")


# Publishers.


@contextlib.asynccontextmanager
async def _publisher(own: OwnValkey, prefix: str, kind: str) -> AsyncIterator[Callable[..., Awaitable[Position | None]]]:
    if kind == "plain":
        with SyncPublisher(own.url, prefix=prefix) as plain:
            yield lambda *words, **options: asyncio.to_thread(plain.notify, *words, **options)
    else:
        async with Publisher(own.url, prefix=prefix) as publisher:
            yield publisher.notify


@pytest.mark.parametrize("kind", ["asyncio", "plain"])
async def test_publishers_notify_once_for_a_key_and_refuse_what_cannot_be(
    own: OwnValkey, gateway: RunningGateway, box: Box, kind: str
) -> None:
    async with _publisher(own, gateway.prefix, kind) as notify:
        first = await notify(box.user, {"id": "a", "text": "…"}, idempotency_key="k")
        assert await notify(box.user, {"id": "other"}, idempotency_key="k") == first
        assert await notify(box.user, {"id": "a", "text": "updated"}) == Position(first.epoch, 2)
        assert own.client.zcard(box.keys[2]) == 2, "without a key it is given one, so that it can be repeated"
        [only] = await box.pages(5)
        assert (only["data"], only["unread"], await box.state()) == ({"id": "a", "text": "updated"}, True, (1, 2))
        for notification in ({}, {"id": ""}, {"id": 7}, {"id": "ü" * 101}, ["id"]):
            with pytest.raises(ValueError, match=NOT_ONE):
                await notify(box.user, notification)
        for nobody in ("", "a#b", "a{b}", "x" * 250, "a\nb"):
            with pytest.raises(ValueError, match=r"there is no user|has no channel of its own|the channel's name"):
                await notify(nobody, {"id": "a"})
        assert await box.state() == (1, 2)


@pytest.mark.parametrize("kind", ["asyncio", "plain"])
async def test_publishers_refuse_what_is_nested_deeper_than_the_server_api_takes(
    own: OwnValkey, gateway: RunningGateway, user: str, kind: str
) -> None:
    deep: list[Any] = []
    for _ in range(300):
        deep = [deep]
    assert gateway.api("notify", user=user, data={"id": "a", "deep": deep})["error"]["code"] == 107
    async with _publisher(own, gateway.prefix, kind) as notify:
        with pytest.raises(ValueError):
            await notify(user, {"id": "a", "deep": deep})


async def test_notifications_that_were_under_way_when_the_connection_broke_count_once(
    own: OwnValkey, gateway: RunningGateway, box: Box
) -> None:
    async with Publisher(own.url, prefix=gateway.prefix) as publisher:
        assert publisher._commands is not None
        connection = await publisher._commands.call("CLIENT", "ID")
        under_way = [asyncio.ensure_future(publisher.notify(box.user, {"id": f"n{n % 10}"})) for n in range(30)]
        await asyncio.sleep(0)
        own.client.client_kill_filter(_id=connection)
        await asyncio.gather(*under_way)
    assert sorted(box.unread().items(), key=lambda mark: mark[1]) == [(f"n{n}", n + 21) for n in range(10)]
    assert await box.state() == (10, 30)


# The server API.


def test_the_server_api_notifies_one_user(gateway: RunningGateway, user: str) -> None:
    first = gateway.api("notify", user=user, data={"id": "a", "n": 1}, idempotency_key="k")["result"]
    assert first["offset"] == 1
    assert gateway.api("notify", user=user, data={"id": "a", "n": 2}, idempotency_key="k")["result"] == first
    assert gateway.api("notify", user=user, data={"id": "a", "n": 3})["result"] == first | {"offset": 2}
    [only] = listed(gateway, user)["notifications"]
    assert (only["data"], only["unread"]) == ({"id": "a", "n": 3}, True)


def test_the_server_api_notifies_several_users_each_with_an_answer_of_its_own(gateway: RunningGateway) -> None:
    first, second = new_user(), new_user()
    gateway.api("notify", user=second, data={"id": "before"})
    answers = gateway.api("notify", users=[first, "a#b", second, "{}"], data={"id": "a"})["result"]["responses"]
    assert [answer.get("result", {}).get("offset") for answer in answers] == [1, None, 2, None]
    assert [answer.get("error", {}).get("code") for answer in answers] == [None, 107, None, 107]
    assert [marks(listed(gateway, user)) for user in (first, second)] == [{"a": True}, {"a": True, "before": True}]


def test_a_batch_notifies_too(gateway: RunningGateway, user: str) -> None:
    commands = [{"notify": {"user": user, "data": {"id": id}}} for id in ("a", "", "a")]
    replies = gateway.api("batch", commands=commands)["replies"]
    assert [reply.get("notify", reply.get("error"))[name] for reply, name in zip(replies, ("offset", "code", "offset"), strict=True)] == [
        1,
        107,
        2,
    ]


@pytest.mark.parametrize(
    "body",
    [
        {"data": {"id": "a"}},
        {"users": [], "data": {"id": "a"}},
        {"user": "USER"},
        {"user": "USER", "users": ["USER"], "data": {"id": "a"}},
        {"user": "USER", "data": {}},
        {"user": "USER", "data": {"id": 7}},
        {"user": "USER", "data": {"id": "x" * 201}},
        {"user": "USER", "data": ["a"]},
        {"user": "USER", "data": None},
        {"user": ["USER"], "data": {"id": "a"}},
        {"users": "USER", "data": {"id": "a"}},
        {"user": "USER#", "data": {"id": "a"}},
        {"user": "USER}", "data": {"id": "a"}},
    ],
    ids=lambda body: json.dumps(body)[:50],
)
def test_a_notify_that_cannot_be_is_a_bad_request_and_notifies_nobody(
    gateway: RunningGateway, own: OwnValkey, user: str, body: dict[str, Any]
) -> None:
    text = json.dumps(body).replace("USER", user).encode()
    status, answer = gateway.http("POST", "/api/notify", text, {"X-API-Key": API_KEY})
    assert (status, json.loads(answer)) == (200, {"error": {"code": 107, "message": "bad request"}})
    assert not own.client.keys(f"*{user}*")


# Clients' requests, over HTTP and as rpc: the same answers.


def bearer(gateway: RunningGateway, user: str, **options: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {gateway.token(user, **options)}"}


def listed(gateway: RunningGateway, user: str, **query: Any) -> dict[str, Any]:
    status, answer = gateway.http("GET", f"/inbox?{urlencode(query)}", None, bearer(gateway, user))
    assert status == 200, answer
    return json.loads(answer)


Ask = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture(params=["http", "rpc"])
async def ask(request: pytest.FixtureRequest, gateway: RunningGateway) -> AsyncIterator[Ask]:
    """``ask(user, "list", limit=…)``: the answer; with ``error`` if it was refused."""

    async def over_http(user: str, method: str, /, **asked: Any) -> dict[str, Any]:
        if method == "list":
            answer = await asyncio.to_thread(gateway.http, "GET", f"/inbox?{urlencode(asked)}", None, bearer(gateway, user))
        else:
            body = json.dumps(asked).encode()
            answer = await asyncio.to_thread(gateway.http, "POST", "/inbox/read", body, bearer(gateway, user))
        return json.loads(answer[1])

    async def as_rpc(user: str, method: str, /, **asked: Any) -> dict[str, Any]:
        async with client(gateway, user) as wire:
            answer = await wire.ask("rpc", method=f"inbox.{method}", data=asked)
        return answer["rpc"]["data"] if "rpc" in answer else {"error": answer["error"]}

    yield over_http if request.param == "http" else as_rpc


async def test_clients_list_page_by_page_and_read(gateway: RunningGateway, user: str, ask: Ask) -> None:
    for number in range(5):
        gateway.api("notify", user=user, data={"id": f"n{number}", "n": number})
    first = await ask(user, "list", limit=2)
    newest = first["notifications"][0]
    assert newest == {"id": "n4", "offset": 5, "ms": newest["ms"], "unread": True, "data": {"id": "n4", "n": 4}}
    second = await ask(user, "list", limit=2, before=first["next"])
    third = await ask(user, "list", limit=2, before=second["next"])
    assert [list(marks(page)) for page in (first, second, third)] == [["n4", "n3"], ["n2", "n1"], ["n0"]]
    assert third == {"notifications": third["notifications"], "unread": 5, "change": 5, "epoch": first["epoch"], "offset": 5, "next": None}
    state = {"epoch": first["epoch"], "offset": 5}
    assert await ask(user, "read", ids=["n2"]) == state | {"unread": 4, "change": 6}
    assert await ask(user, "read", upto=f"{first['epoch']}:4") == state | {"unread": 1, "change": 7}
    assert await ask(user, "read", ids=["n4"], upto=f"{first['epoch']}:4") == state | {"unread": 1, "change": 7}
    assert await ask(user, "read", upto="another:5") == state | {"unread": 1, "change": 7}
    assert marks(await ask(user, "list")) == {"n4": True, "n3": False, "n2": False, "n1": False, "n0": False}
    assert await ask(user, "read", all=True) == state | {"unread": 0, "change": 8}


async def test_nobody_reads_anothers_inbox(gateway: RunningGateway, user: str, ask: Ask) -> None:
    gateway.api("notify", user=user, data={"id": "a"})
    for other in (user[:-1], user + "x", user.upper()):
        assert (await ask(other, "list"))["notifications"] == []
        assert (await ask(other, "read", ids=["a"]))["unread"] == 0
    assert (await ask(new_user(), "read", all=True, user=user))["error"]["code"] == 107
    assert listed(gateway, user)["unread"] == 1


@pytest.mark.parametrize("nobody", ["", "a#b", "#", "a{b}", "}", "x" * 300])
async def test_a_user_without_a_channel_has_no_inbox(gateway: RunningGateway, ask: Ask, nobody: str) -> None:
    for method, request in (("list", {}), ("read", {"all": True})):
        assert (await ask(nobody, method, **request))["error"]["code"] == 103


async def test_a_user_whose_id_leaves_no_room_for_a_namespace_connects_without_an_inbox(gateway: RunningGateway) -> None:
    async with client(gateway, "x" * 250) as wire:
        assert await wire.error("rpc", method="inbox.list") == 103


@pytest.mark.parametrize("somebody", ["a:b", "ü 🦊", "a*b", "?"])
async def test_any_other_user_has_one(gateway: RunningGateway, ask: Ask, somebody: str) -> None:
    somebody += new_user()
    gateway.api("notify", user=somebody, data={"id": "a"})
    assert marks(await ask(somebody, "list")) == {"a": True}
    assert (await ask(somebody, "read", all=True))["unread"] == 0


BAD_READS: list[tuple[Any, str]] = [
    ({}, 'nothing is named: give "ids", "upto" or "all": true'),
    ({"ids": []}, "ids is empty"),
    ({"all": False}, 'nothing is named: give "ids", "upto" or "all": true'),
    ({"upto": ""}, 'nothing is named: give "ids", "upto" or "all": true'),
    ({"ids": ["a"], "user": "u"}, "Object contains unknown field `user`"),
    ({"ids": "a"}, "Expected `array | null`, got `str` - at `$.ids`"),
    ({"ids": ["a", 7]}, "Expected `str`, got `int` - at `$.ids[1]`"),
    ({"ids": ["a", ""]}, "ids are up to 500 texts of 1 to 200 bytes"),
    ({"ids": ["a", "ü" * 101]}, "ids are up to 500 texts of 1 to 200 bytes"),
    ({"ids": ["a"] * 501}, "ids are up to 500 texts of 1 to 200 bytes"),
    ({"all": 1}, "Expected `bool`, got `int` - at `$.all`"),
    ({"upto": 7}, "Expected `str | null`, got `int` - at `$.upto`"),
    ({"upto": "seven"}, "'seven' is not a position; a position is EPOCH:OFFSET, as in 1a2b3c:17"),
    ({"upto": "e:-1"}, "'e:-1' is not a position; a position is EPOCH:OFFSET, as in 1a2b3c:17"),
    ({"upto": f"e:{2**53}"}, f"the offset {2**53} is past {2**53 - 1}"),
    ([], "Expected `object`, got `array`"),
    (None, "Expected `object`, got `null`"),
    ("all", "Expected `object`, got `str`"),
]


@pytest.mark.parametrize("asked, sentence", BAD_READS, ids=lambda part: json.dumps(part)[:40] if part is not None else "null")
def test_a_read_that_cannot_be_is_refused_with_a_sentence_and_changes_nothing(
    gateway: RunningGateway, user: str, asked: Any, sentence: str
) -> None:
    gateway.api("notify", user=user, data={"id": "a"})
    status, answer = gateway.http("POST", "/inbox/read", json.dumps(asked).encode(), bearer(gateway, user))
    assert (status, json.loads(answer)) == (400, {"error": {"code": 107, "message": sentence}})
    assert listed(gateway, user)["change"] == 1


async def test_as_rpc_the_same_reads_have_the_protocols_code(gateway: RunningGateway, user: str) -> None:
    gateway.api("notify", user=user, data={"id": "a"})
    async with client(gateway, user) as wire:
        for asked, _ in BAD_READS:
            answer = await wire.ask("rpc", method="inbox.read", data=asked)
            assert answer["error"] == {"code": 107, "message": "bad request"}, asked
        for asked in ({"limit": -1}, {"limit": "2"}, {"limit": 1.5}, {"before": "seven"}, {"before": 7}, {"after": "e:1"}, []):
            assert await wire.error("rpc", method="inbox.list", data=asked) == 107, asked
        assert (await wire.ask("rpc", method="inbox.list", data={"before": "another:1"}))["error"] == {
            "code": 112,
            "message": "unrecoverable position",
        }
        assert await wire.error("rpc", method="inbox.read") == 107
        assert (await wire.result("rpc", method="inbox.list"))["data"]["unread"] == 1
    async with client(gateway, token="") as anonymous:
        for method in ("inbox.list", "inbox.read"):
            assert await anonymous.error("rpc", method=method, data={"all": True} if method == "inbox.read" else {}) == 103


@pytest.mark.parametrize("body", [b"{", b"\xff", b"all", b'{"all":true}}', b"[" * 2000], ids=repr)
def test_what_is_not_json_is_400_and_changes_nothing(gateway: RunningGateway, user: str, body: bytes) -> None:
    gateway.api("notify", user=user, data={"id": "a"})
    status, answer = gateway.http("POST", "/inbox/read", body, bearer(gateway, user))
    error = json.loads(answer)["error"]
    assert (status, error["code"]) == (400, 107) and error["message"]
    assert listed(gateway, user)["change"] == 1


def test_a_body_over_the_limit_is_413_and_changes_nothing(gateway: RunningGateway, user: str) -> None:
    gateway.api("notify", user=user, data={"id": "a"})
    exactly, over = (json.dumps({"ids": ["none"]}).ljust(size).encode() for size in (LIMIT, LIMIT + 1))
    assert gateway.http("POST", "/inbox/read", exactly, bearer(gateway, user))[0] == 200
    assert gateway.http("POST", "/inbox/read", over, bearer(gateway, user))[0] == 413
    assert listed(gateway, user)["change"] == 1


@pytest.mark.parametrize(
    "query, status, code, sentence",
    [
        ("limit=-1", 400, 107, "limit is a whole number"),
        ("limit=two", 400, 107, "limit is a whole number"),
        ("limit=²", 400, 107, "limit is a whole number"),
        ("limit=10000000000", 400, 107, "limit is a whole number"),
        ("before=seven", 400, 107, "'seven' is not a position; a position is EPOCH:OFFSET, as in 1a2b3c:17"),
        (f"before=e:{2**53}", 400, 107, f"the offset {2**53} is past {2**53 - 1}"),
        ("before=another:1", 416, 112, "the epoch is HERE now"),
        ("before=another:1&limit=0", 416, 112, "the epoch is HERE now"),
    ],
)
def test_a_list_that_cannot_be_is_refused_with_a_sentence(
    gateway: RunningGateway, user: str, query: str, status: int, code: int, sentence: str
) -> None:
    epoch = gateway.api("notify", user=user, data={"id": "a"})["result"]["epoch"]
    path = f"/inbox?{urlencode(dict(pair.split('=') for pair in query.split('&')))}"
    given_status, answer = gateway.http("GET", path, None, bearer(gateway, user))
    assert given_status == status
    assert json.loads(answer) == {"error": {"code": code, "message": sentence.replace("HERE", epoch)}}


def test_a_page_behind_the_future_is_the_first_one(gateway: RunningGateway, user: str) -> None:
    epoch = gateway.api("notify", user=user, data={"id": "a"})["result"]["epoch"]
    assert listed(gateway, user, before=f"{epoch}:1000") == listed(gateway, user)
    assert listed(gateway, user, before=f"{epoch}:1")["notifications"] == []


@pytest.mark.parametrize(
    "given, closed, status, code, sentence",
    [
        (None, False, 403, 103, "an inbox belongs to a user: there is no user"),
        (None, True, 401, 3501, "bad request"),
        ("no token", False, 401, 3500, "invalid token"),
        ("EXPIRED", False, 401, 109, "token expired"),
        ("FORGED", False, 401, 3500, "invalid token"),
    ],
)
def test_who_is_not_known_is_refused_and_changes_nothing(
    gateway: RunningGateway,
    other_gateway: RunningGateway,
    user: str,
    given: str | None,
    closed: bool,
    status: int,
    code: int,
    sentence: str,
) -> None:
    asked = other_gateway if closed else gateway
    gateway.api("notify", user=user, data={"id": "a"})
    tokens = {"EXPIRED": gateway.token(user, seconds=-60), "FORGED": gateway.token(user)[:-4] + "AAAA"}
    headers = {} if given is None else {"Authorization": f"Bearer {tokens.get(given, given)}"}
    for method, path, body in (("GET", "/inbox", None), ("POST", "/inbox/read", b'{"all":true}')):
        given_status, answer = asked.http(method, path, body, headers)
        assert (given_status, json.loads(answer)) == (status, {"error": {"code": code, "message": sentence}})
    assert listed(gateway, user)["unread"] == 1


@pytest.mark.parametrize(
    "origin, status", [("https://evil.example.org", 403), ("null", 403), ("https://app.example.org", 200), ("OWN", 200), ("", 200)]
)
def test_a_page_of_another_origin_reads_nothing_with_the_users_cookie(gateway: RunningGateway, user: str, origin: str, status: int) -> None:
    gateway.api("notify", user=user, data={"id": "a"})
    headers = {"Cookie": f"gateway_token={gateway.token(user)}"}
    if origin:
        headers["Origin"] = origin.replace("OWN", gateway.url)
    given_status, answer = gateway.http("POST", "/inbox/read", b'{"all":true}', headers)
    assert given_status == status
    if status == 403:
        assert json.loads(answer) == {"error": {"code": 103, "message": "allowed_origins does not list this page's origin"}}
    assert listed(gateway, user)["unread"] == (1 if status == 403 else 0)


def test_other_methods_are_405(gateway: RunningGateway, user: str) -> None:
    assert gateway.http("POST", "/inbox", b'{"all":true}', bearer(gateway, user))[0] == 405
    assert gateway.http("GET", "/inbox/read", None, bearer(gateway, user))[0] == 405


# Two devices.


async def test_what_one_device_reads_the_others_hear(gateway: RunningGateway, other_gateway: RunningGateway, user: str) -> None:
    channel = f"notifications:{user}"
    epoch = gateway.api("notify", user=user, data={"id": "a"})["result"]["epoch"]
    async with (
        client(gateway, user) as phone,
        client(other_gateway, user) as laptop,
        stream(gateway, channel, user=user) as third,
        client(gateway, new_user()) as stranger,
    ):
        assert (await third.next()).name == "connected"
        gateway.api("notify", user=user, data={"id": "b"})
        state = {"unread": 2, "change": 2, "epoch": epoch}
        for wire in (phone, laptop):
            assert await wire.publication() == {"channel": channel, "data": {"id": "b"}, "offset": 2}
            assert await wire.publication() == {"channel": channel, "data": {"inbox": state}}
        answer = await phone.result("rpc", method="inbox.read", data={"ids": ["a"]})
        state = {"unread": 1, "change": 3, "epoch": epoch}
        assert answer["data"] == state | {"offset": 2}
        for wire in (phone, laptop):
            assert await wire.publication() == {"channel": channel, "data": {"inbox": state | {"read": ["a"]}}}
        await laptop.result("rpc", method="inbox.read", data={"all": True})
        last = {"unread": 0, "change": 4, "epoch": epoch, "upto": 2}
        for wire in (phone, laptop):
            assert await wire.publication() == {"channel": channel, "data": {"inbox": last}}
        heard = [event.data["data"] for event in await third.many(4)]
        assert heard[1:] == [{"inbox": {"unread": 2, "change": 2, "epoch": epoch}}, {"inbox": state | {"read": ["a"]}}, {"inbox": last}]
        await stranger.result("ping")
        assert not stranger.rest


class Device:
    """A user's device, by the rule of gateway.js: a state is taken unless it is of the same epoch and its change not newer; it
    asks for the state whenever its subscription begins. It comes back by itself, and with its position, while it is ``wanted``.

    ``hold`` keeps answers waiting, as a gateway may that announces what is newer meanwhile; ``release`` takes them.
    """

    def __init__(self, gateway: RunningGateway, user: str) -> None:
        self.gateway = gateway
        self.channel = f"notifications:{user}"
        self.wanted = asyncio.Event()
        self.unread: int | None = None
        self.change = -1
        self.connections = 0
        self._token = gateway.token(user)
        self._epoch = ""
        self._position: dict[str, Any] = {}
        self._connection: ClientConnection | None = None
        self._line = 0
        self._held: list[dict[str, Any]] | None = None
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._begun = asyncio.Event()
        self._id = 1

    async def run(self) -> None:
        while True:
            await self.wanted.wait()
            with contextlib.suppress(*LOST):
                async with opened(self.gateway) as wire:
                    self._connection = wire.connection
                    await self._live(wire.connection)
            self._begun.clear()
            self._connection = None
            for waiting in self._asked.values():
                waiting.cancel()
            self._asked.clear()

    async def _live(self, connection: ClientConnection) -> None:
        if not self.wanted.is_set():
            return
        await connection.send(json.dumps({"id": 1, "connect": {"token": self._token, "subs": {self.channel: self._position}}}))
        async for frame in connection:
            for line in str(frame).split("\n"):
                await self._hear(json.loads(line), connection)

    async def _hear(self, said: dict[str, Any], connection: ClientConnection) -> None:
        if said == {}:
            await connection.send("{}")
        elif "connect" in said:
            await self._begin(said["connect"]["subs"][self.channel], connection)
        elif "pub" in said.get("push", {}):
            self._take_publication(said["push"]["pub"])
        elif said.get("id") in self._asked:
            self._answered(self._asked.pop(said["id"]), said)
        else:
            raise AssertionError(f"not expected: {said}")

    async def _begin(self, result: dict[str, Any], connection: ClientConnection) -> None:
        self.connections += 1
        self._position = {"recover": True, "epoch": result["epoch"], "offset": result.get("offset", 0)}
        for publication in result.get("publications", []):
            self._take_publication(publication)
        self._begun.set()
        await self._send(connection, "inbox.list", {"limit": 0})

    async def _send(self, connection: ClientConnection, method: str, data: Any) -> asyncio.Future[dict[str, Any]]:
        self._id += 1
        answer = self._asked[self._id] = asyncio.get_running_loop().create_future()
        await connection.send(json.dumps({"id": self._id, "rpc": {"method": method, "data": data}}))
        return answer

    def _take_publication(self, publication: dict[str, Any]) -> None:
        if "offset" in publication:
            self._position["offset"] = publication["offset"]
        elif "inbox" in publication["data"]:
            self._take(publication["data"]["inbox"])

    def _answered(self, waiting: asyncio.Future[dict[str, Any]], said: dict[str, Any]) -> None:
        state = said["rpc"]["data"]
        if self._held is None:
            self._take(state)
        else:
            self._held.append(state)
        waiting.set_result(state)

    def _take(self, state: dict[str, Any]) -> None:
        if state["epoch"] == self._epoch and state["change"] <= self.change:
            return
        self._epoch, self.change, self.unread = state["epoch"], state["change"], state["unread"]

    def hold(self) -> None:
        self._held = [] if self._held is None else self._held

    def release(self) -> None:
        held, self._held = self._held or [], None
        for state in held:
            self._take(state)

    def cut(self) -> None:
        """Without a word."""
        self.wanted.clear()
        if self._connection is not None:
            self._connection.transport.abort()

    async def read(self, **request: Any) -> bool:
        """False if there is no line. A line that the gateway ends meanwhile makes it ask again: reading twice changes nothing."""
        while self.wanted.is_set():
            await self._begun.wait()
            if self._connection is None:
                continue
            try:
                await (await self._send(self._connection, "inbox.read", request))
                return True
            except (asyncio.CancelledError, *LOST):
                if asyncio.current_task().cancelling():
                    raise
                await asyncio.sleep(0)
        return False

    @property
    def is_answered(self) -> bool:
        return self._begun.is_set() and not self._asked

    def is_settled(self, epoch: str, change: int) -> bool:
        """It is connected, waits for no answer, and has taken this state."""
        return self.is_answered and (self._epoch, self.change) == (epoch, change)

    def __repr__(self) -> str:
        return f"<{self.unread} unread, change {self.change}, {self.connections} connections, {len(self._asked)} answers awaited>"


@contextlib.asynccontextmanager
async def running(*devices: Device) -> AsyncIterator[None]:
    """They are connected, each with a first state."""
    tasks = [asyncio.create_task(device.run()) for device in devices]
    try:
        for device in devices:
            device.wanted.set()
        yield
        for task in tasks:
            if task.done():
                task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def settled(box: Box, devices: Iterable[Device], seconds: float = 10) -> None:
    """Every device has the state that Valkey has."""
    epoch, change = (word.decode() for word in box.own.client.hmget(box.meta, "epoch", "inbox"))
    try:
        await until(lambda: all(device.is_settled(epoch, int(change)) for device in devices), "", seconds)
    except TimeoutError:
        raise AssertionError(f"valkey has {len(box.unread())} unread, change {change}: {devices}") from None
    assert [device.unread for device in devices] == [len(box.unread())] * len(list(devices))


NAMES = st.sampled_from(["n0", "n1", "n2", "n3", "n4"])
WHO = st.integers(0, 1)
BACK = st.integers(0, SIZE)
HAPPENINGS = st.one_of(
    st.tuples(st.just("notify"), NAMES),
    st.tuples(st.just("notify"), NAMES),
    st.tuples(st.just("plain")),
    st.tuples(st.just("read"), WHO, NAMES),
    st.tuples(st.just("upto"), WHO, BACK),
    st.tuples(st.just("seen"), WHO, NAMES, BACK),
    st.tuples(st.just("all"), WHO),
    st.tuples(st.sampled_from(["cut", "connect", "hold", "release"]), WHO),
    st.tuples(st.sampled_from(["cut", "connect", "hold", "release"]), WHO),
)


@settings(max_examples=150)
@given(st.lists(HAPPENINGS, max_size=30))
def test_two_devices_end_with_the_count_of_valkey_and_of_the_model(
    own: OwnValkey, gateway: RunningGateway, other_gateway: RunningGateway, happenings: list[tuple[Any, ...]]
) -> None:
    """Whatever they do, on a gateway each, and however often each is cut off and comes back."""

    async def play() -> None:
        user = new_user()
        async with asyncio.timeout(20), opened_box(own, gateway.prefix, user) as box:
            model = Model()
            devices = [Device(gateway, user), Device(other_gateway, user)]
            position = await box.notify("first", size=SIZE)
            model.notify("first", SIZE)
            async with running(*devices):
                for happening in happenings:
                    await _happen(box, model, devices, position.epoch, *happening)
                for device in devices:
                    device.release()
                    device.wanted.set()
                await settled(box, devices)
                assert set(box.unread()) == model.unread

    asyncio.run(play())


async def _happen(box: Box, model: Model, devices: list[Device], epoch: str, kind: str, *words: Any) -> None:
    if kind == "notify":
        await box.notify(words[0], size=SIZE)
        model.notify(words[0], SIZE)
    elif kind == "plain":
        await box.plain()
        model.plain()
    elif kind == "connect":
        devices[words[0]].wanted.set()
    elif kind in ("cut", "hold", "release"):
        getattr(devices[words[0]], kind)()
    else:
        ids = [words[1]] if kind in ("read", "seen") else None
        upto = max(0, model.top - words[-1]) if kind in ("upto", "seen") else None
        named = {"ids": ids, "upto": None if upto is None else f"{epoch}:{upto}", "all": kind == "all"}
        if await devices[words[0]].read(**named):
            model.read(ids, upto)


async def test_an_answer_that_was_overtaken_brings_no_older_count_back(gateway: RunningGateway, box: Box) -> None:
    device = Device(gateway, box.user)
    await box.notify("a")
    device.hold()
    async with running(device):
        await until(lambda: device.connections and device.is_answered, "the answer is here, and waits")
        await box.notify("b")
        await settled(box, [device])
        device.release()
        await settled(box, [device])


# Announcements that were lost on the way.


async def test_what_a_killed_link_did_not_bring_is_said_again_to_a_device_that_stays(
    own: OwnValkey, gateway: RunningGateway, other_gateway: RunningGateway, box: Box
) -> None:
    devices = [Device(gateway, box.user), Device(other_gateway, box.user)]
    await box.notify("a")
    await box.notify("b")
    async with running(*devices):
        await settled(box, devices)
        for words in (box.read_words("a"), box.notify_words("c"), box.notify_words("c"), box.read_words()):
            own.kill_links(*words)
            await settled(box, devices)
        for id in ("d", "e"):
            own.kill_links(*box.notify_words(id))
            own.kill_links(*box.read_words("d"))
        await settled(box, devices)
        assert [device.connections for device in devices] == [1, 1], "they never came back: they never left"
        assert [device.unread for device in devices] == [1, 1]


async def test_a_device_whose_socket_was_full_ends_with_the_right_count(gateway: RunningGateway, box: Box) -> None:
    await box.notify("a")
    async with await connected_socket(gateway, user=box.user, small=True) as raw:
        filling = ["x" * 60_000] * 300  # 18 MB: far more than the kernel holds
        await asyncio.to_thread(publish_many, gateway, box.channel, filling)
        for number in range(5):
            await box.notify(f"n{number}")
            await box.read(ids=[f"n{number}"])
        await box.notify("last")
        _, change = await box.state()
        heard: list[dict[str, Any]] = []
        while not heard or heard[-1]["change"] != change:
            publication = (await raw.read_object()).get("push", {}).get("pub", {})
            if "offset" not in publication:
                heard.append(publication["data"]["inbox"])
        assert len(heard) < change - 1, "this socket was never full, and the test shows nothing"
        assert heard[-1]["unread"] == len(box.unread()) == 2


async def test_a_connected_device_hears_that_history_was_removed(gateway: RunningGateway, box: Box) -> None:
    device = Device(gateway, box.user)
    await box.notify("a")
    async with running(device):
        await settled(box, [device])
        gateway.api("history_remove", channel=box.channel)
        await until(lambda: device.unread == 0, "it counts none", 1)


class LatePages:
    """A history that answers each read of what is behind the first page only when it is let."""

    def __init__(self, top: int) -> None:
        self.let = asyncio.Event()
        self._top = top

    async def read(self, channel: str, since: int = 0, limit: int = 0, **options: Any) -> HistoryPage:
        if since > 0:
            await self.let.wait()
        offsets = range(since + 1, min(since + limit, self._top) + 1) if limit else ()
        return HistoryPage(Position("e", self._top), 1, [Publication(offset, b"1", 1) for offset in offsets])

    def subscribe(self, channels: list[bytes]) -> None: ...

    def unsubscribe(self, channels: list[bytes]) -> None: ...


class Follower(Subscription):
    """Has seen nothing; its own wire."""

    paused = False

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel, self, self.heard_of, Position("e", 0))
        self.offsets: list[int] = []

    def begin(self, recovered: bool, publications: list[Publication]) -> None:
        assert recovered

    def gap(self) -> None:
        raise AssertionError("history holds everything")

    def join(self, channel: Channel, publications: list[Publication]) -> list[Publication]:
        return publications

    def heard_of(self, publications: list[Publication]) -> None:
        self.offsets += [publication.offset for publication in publications]


class Announcer:
    """Records of which channels the state has to be announced again."""

    def __init__(self) -> None:
        self.channels: list[Channel] = []

    def on_missed_ephemeral(self, channel: Channel) -> None:
        self.channels.append(channel)


async def test_what_is_announced_while_a_device_catches_up_page_by_page_is_said_again() -> None:
    """It asks for the state when its subscription begins, with the first page; what is read elsewhere meanwhile it does not hear."""
    pages = LatePages(600)
    announcer = Announcer()
    hub = Hub(Config(), Layout("t"), pages, pages, announcer)
    channel = hub.channel("notifications:u")
    hub.on_subscribed(channel.key)
    await channel.opened()
    follower = Follower(channel)
    hub.follow(follower)
    try:
        await until(lambda: follower.begun, "the first page is there")
        assert follower.state is State.CATCHING_UP
        hub.on_announcements({channel.key: [b'{"inbox":{"unread":0,"change":2,"epoch":"e"}}']})
        pages.let.set()
        await until(lambda: follower.state is State.LIVE, "it is live")
        assert 0 in follower.offsets or announcer.channels == [channel]
    finally:
        await hub.close()


# In a browser.

browser, context, page = browsers.browser, browsers.context, browsers.page  # its fixtures

OPEN = """async ({ url, token }) => {
  const { Gateway } = await import(url + "/static/gateway.js");
  window.counts = [];
  window.gateway = new Gateway({ token, backoffMs: 50 });
  gateway.on("unread", (event) => counts.push(event));
  return gateway.inbox.unread;
}"""


def open_inbox(page: Page, gateway: RunningGateway, user: str) -> None:
    page.goto(gateway.url + browsers.BLANK)
    assert page.evaluate(OPEN, {"url": gateway.url, "token": gateway.token(user)}) is None, "not known yet"


def counts(page: Page, unread: int) -> None:
    browsers.wait(page, f"gateway.inbox.unread === {unread}")


def wait_for(page: Page, condition: Callable[[], bool]) -> None:
    """What Playwright notices, it notices while it is asked something."""
    wait_until(lambda: (page.evaluate("0"), condition())[1], "the page's line got there")


def test_the_pages_of_a_user_count_together(page: Page, context: BrowserContext, gateway: RunningGateway, user: str) -> None:
    epoch = gateway.api("notify", user=user, data={"id": "a"})["result"]["epoch"]
    open_inbox(page, gateway, user)
    other = context.new_page()
    open_inbox(other, gateway, user)
    for each in (page, other):
        counts(each, 1)
    for id in ("b", "c", "b"):
        gateway.api("notify", user=user, data={"id": id})
    for each in (page, other):
        browsers.wait(each, "counts.length === 4")
        assert each.evaluate("counts.map(({ unread }) => unread)") == [1, 2, 3, 3]
    page.evaluate("gateway.inbox.read({ ids: ['a'] })")
    counts(other, 2)
    assert other.evaluate("counts.at(-1)") == {"unread": 2, "read": ["a"], "upto": None}
    other.evaluate(f"gateway.inbox.read({{ upto: '{epoch}:3' }})")
    counts(page, 1)
    assert page.evaluate("counts.at(-1)") == {"unread": 1, "read": None, "upto": 3}
    browsers.cut(page)
    assert page.evaluate("gateway.inbox.unread") == 1
    gateway.api("notify", user=user, data={"id": "missed"})
    other.evaluate("gateway.inbox.read({ ids: ['b'] })")
    gateway.api("notify", user=user, data={"id": "missed too"})
    browsers.restore(page)
    for each in (page, other):
        counts(each, 2)
    page.evaluate("gateway.inbox.read({ all: true })")
    counts(other, 0)
    other.close()


def test_a_page_lists_page_by_page_and_knows_the_count_by_itself(page: Page, gateway: RunningGateway, user: str) -> None:
    for number in range(5):
        gateway.api("notify", user=user, data={"id": f"n{number}", "text": "…"})
    open_inbox(page, gateway, user)
    pages = page.evaluate(
        """async () => {
          const pages = [];
          let before;
          do pages.push(await gateway.inbox.list({ limit: 2, before }));
          while ((before = pages.at(-1).next));
          return pages;
        }"""
    )
    assert [list(marks(each)) for each in pages] == [["n4", "n3"], ["n2", "n1"], ["n0"]]
    assert pages[2]["notifications"][0]["data"] == {"id": "n0", "text": "…"}
    assert page.evaluate("counts.map(({ unread }) => unread)") == [5], "one state, however often it is told"
    assert browsers.failure(page, "gateway.inbox.list({ before: 'another:1' })")["code"] == 112
    assert browsers.failure(page, "gateway.inbox.read()")["code"] == 107
    assert page.evaluate("gateway.inbox.unread") == 5


class LateAnswers:
    """Between a page and its gateway: the first answers to inbox.list wait until they are let."""

    def __init__(self, page: Page, *, instead: str = "") -> None:
        self.late: list[str] = []
        self._holds = True
        self._instead = instead
        page.route_web_socket("**/connection/websocket", self._connect)

    def _connect(self, socket: WebSocketRoute) -> None:
        self._socket = socket
        socket.connect_to_server().on_message(self._pass)

    def _pass(self, message: str | bytes) -> None:
        if not (self._holds and '"rpc":' in str(message)):
            self._socket.send(message)
        elif self._instead:
            self._holds = False
            self._socket.send(f'{{"id":{json.loads(message)["id"]},{self._instead}}}')
        else:
            self.late.append(str(message))

    def let(self) -> None:
        self._holds = False
        for message in self.late:
            self._socket.send(message)


def test_an_answer_that_comes_late_brings_no_older_count_back(page: Page, gateway: RunningGateway, user: str) -> None:
    gateway.api("notify", user=user, data={"id": "a"})
    answers = LateAnswers(page)
    open_inbox(page, gateway, user)
    page.evaluate("void (window.listed = gateway.inbox.list())")
    wait_for(page, lambda: len(answers.late) == 2)
    gateway.api("notify", user=user, data={"id": "b"})
    counts(page, 2)
    answers.let()
    assert page.evaluate("listed.then(({ unread }) => unread)") == 1, "the answer is of its own moment"
    assert page.evaluate("counts.map(({ unread }) => unread)") == [2]


def test_a_page_whose_question_failed_for_now_asks_again(page: Page, gateway: RunningGateway, user: str) -> None:
    gateway.api("notify", user=user, data={"id": "a"})
    LateAnswers(page, instead='"error":{"code":100,"message":"internal server error","temporary":true}')
    open_inbox(page, gateway, user)
    page.wait_for_function("() => gateway.inbox.unread === 1")


def test_where_only_event_streams_get_through_the_inbox_is_there_too(page: Page, gateway: RunningGateway, user: str) -> None:
    epoch = gateway.api("notify", user=user, data={"id": "a"})["result"]["epoch"]
    gateway.api("notify", user=user, data={"id": "b"})
    page.add_init_script(browsers.BLOCKED_WEBSOCKET)
    open_inbox(page, gateway, user)
    page.evaluate(f"void gateway.subscribe('notifications:{user}')")
    counts(page, 2)
    assert page.evaluate("gateway.transport") == "sse"
    page.evaluate("gateway.inbox.read({ ids: ['a'] })")
    counts(page, 1)
    gateway.api("notify", user=user, data={"id": "c"})
    counts(page, 2)
    assert list(marks(page.evaluate(f"gateway.inbox.list({{ limit: 2, before: '{epoch}:3' }})"))) == ["b", "a"]
    assert browsers.failure(page, "gateway.inbox.list({ before: 'another:1' })")["code"] == 112
    assert browsers.failure(page, "gateway.inbox.read()")["code"] == 107
