"""What is unread in an inbox is counted once, in Valkey, whatever is trimmed, repeated, removed or lost."""

from __future__ import annotations

import json

import pytest
import valkey

from gateway.errors import StoreError
from gateway.store.layout import publish_words

from ...kit.inboxes import NOT_A_NOTIFICATION, Box, marks, opened_box
from ...kit.valkeys import OwnValkey
from ...kit.waiting import until


async def test_a_trimmed_notification_is_neither_counted_nor_listed(box: Box) -> None:
    for id in ("read", "unread", "a", "updated", "b", "updated"):
        await box.notify(id)
    await box.read(ids=["read", "a"])
    for id, unread in (("c", ["b", "c", "updated"]), ("d", ["c", "d", "updated"])):
        await box.notify(id, size=3)
        assert sorted(box.unread()) == unread
    assert await box.marks() == {"d": True, "c": True, "updated": True}
    assert [state["unread"] for state in (await box.announcements(9))[-2:]] == [3, 3]
    assert box.own.client.zrange(box.inbox_key, 0, -1) == [b"updated", b"c", b"d"]


async def test_the_size_and_time_of_an_inbox_are_those_of_its_namespaces_history(own: OwnValkey, prefix: str, user: str) -> None:
    common = {"size": 100, "ttl": 300, "meta_ttl": 3600}
    async with opened_box(own, prefix, user, {"": common, "notifications": common | {"size": 2}}) as box:
        for id in ("a", "b", "c"):
            await box.notify(id)
        assert await box.marks() == {"c": True, "b": True}
        assert sorted(box.unread()) == ["b", "c"]
        kept = [own.client.ttl(key) for key in (box.meta, box.unread_key, box.inbox_key)]
        assert all(3590 < seconds <= 3600 for seconds in kept), kept


async def test_plain_publications_are_not_counted_but_take_room_in_the_history(box: Box) -> None:
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
    assert [state["unread"] for state in await box.announcements(4)] == [1, 2, 1, 0]


@pytest.mark.parametrize("next_act", ["list", "read", "notify"])
async def test_removing_history_empties_the_inbox(box: Box, next_act: str) -> None:
    await box.notify("a")
    await box.notify("b")
    await box.read(ids=["b"])
    await box.history.remove(box.channel)
    if next_act == "list":
        listed = await box.list()
        assert listed == {"notifications": [], "unread": 0, "change": 4, "epoch": listed["epoch"], "offset": 2, "next": None}
    elif next_act == "read":
        assert (await box.read(ids=["a"]))["unread"] == 0
    else:
        await box.notify("c")
        assert await box.marks() == {"c": True}
    assert sorted(box.unread()) == (["c"] if next_act == "notify" else [])
    assert (await box.announcements(4))[-1]["change"] == 4


async def test_notifications_whose_history_expired_are_not_counted(box: Box) -> None:
    await box.notify("a", ttl=1000)
    box.own.client.pexpire(box.stream, 1)
    await until(lambda: not box.own.client.exists(box.stream), "it expired")
    assert await box.state() == (0, 2)
    assert (await box.announcements(2))[-1]["unread"] == 0
    await box.notify("b")
    assert await box.marks() == {"b": True}


@pytest.mark.parametrize("next_act", ["list", "read", "notify", "plain"])
@pytest.mark.parametrize("loss", ["the counter", "everything"])
async def test_an_inbox_that_lost_its_keys_begins_a_new_epoch(box: Box, loss: str, next_act: str) -> None:
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


async def test_an_inbox_whose_stream_somebody_else_wrote_to_counts_from_zero(box: Box) -> None:
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


async def test_a_relay_that_repeats_its_rows_notifies_once(box: Box) -> None:
    rows = [(number, json.dumps({"id": id})) for number, id in enumerate(("a", "b", "a"), 1)]
    await box.history.relay(box.channel, "outbox", rows[:2], notify=True)
    await box.read(all=True)
    await box.history.relay(box.channel, "outbox", rows, notify=True)
    assert await box.marks() == {"a": True, "b": False}
    assert await box.state() == (1, 4)
    await box.history.relay(box.channel, "outbox", rows, notify=True)
    assert await box.state() == (1, 4)


async def test_a_notification_without_history_is_not_in_the_inbox(box: Box) -> None:
    assert await box.history.notify(box.channel, publish_words(b'{"id":"a"}', ttl=0)) is None
    listed = await box.list()
    assert listed == {"notifications": [], "unread": 0, "change": 0, "epoch": listed["epoch"], "offset": 0, "next": None}


@pytest.mark.parametrize(
    "data",
    [
        *("{}", '{"ID":"a"}', '{"id":""}', '{"id":null}', '{"id":7}', '{"id":["a"]}', '{"id":{"id":"a"}}'),
        *(json.dumps({"id": "x" * 201}), json.dumps({"id": "ü" * 101}, ensure_ascii=False), '["id"]', '[{"id":"a"}]', '"id"'),
        *("1", "null", "", "{", "no JSON", '{"id":"a","deep":' + "[" * 1000 + "]" * 1000 + "}"),
    ],
    ids=lambda data: data[:20],
)
async def test_data_that_is_no_notification_is_refused_and_not_published(box: Box, data: str) -> None:
    with pytest.raises(StoreError) as refusal:
        await box.history.notify(box.channel, publish_words(data, idempotency_key="k", version=9))
    assert f"GATEWAY {NOT_A_NOTIFICATION}" in str(refusal.value)
    assert not box.own.client.exists(*box.keys)


@pytest.mark.parametrize("id", ["x", "x" * 200, "ü" * 100, " ", '"\\/%s%d', "\n\0", "🦊"])
async def test_any_text_up_to_200_bytes_is_an_id(box: Box, id: str) -> None:
    await box.notify(id)
    assert await box.marks() == {id: True}
    await box.read(ids=[id])
    assert await box.marks() == {id: False}
    assert (await box.announcements(2))[-1]["read"] == [id]


UNLISTED = {
    "nested deeper than clients read": b'{"id":"odd","deep":' + b"[" * 300 + b"]" * 300 + b"}",
    "no JSON to us": b'{"id":"odd","n":NaN}',
    "no UTF-8": b'{"id":"odd","t":"\xff"}',
    "two ids": b'{"id":7,"id":"odd"}',
}


@pytest.mark.parametrize("data", UNLISTED.values(), ids=UNLISTED)
async def test_a_notification_that_cannot_be_decoded_does_not_hide_the_others(box: Box, data: bytes) -> None:
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
