"""Marking notifications as read, and listing them page by page, against a model of the inbox."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import UnrecoverablePosition
from gateway.publication import Position

from ...kit.channels import new_user
from ...kit.examples import examples
from ...kit.gateways import RunningGateway
from ...kit.inboxes import SIZE, Box, Model, marks, opened_box
from ...kit.valkeys import OwnValkey


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
async def test_a_read_marks_the_named_notifications_and_no_others(
    box: Box, three: Position, asked: dict[str, Any], left: set[str], extra: dict[str, Any] | None
) -> None:
    if "upto" in asked:
        asked = asked | {"upto": f"{three.epoch}:{asked['upto']}"}
    change = 3 if extra is None else 4
    state = {"unread": len(left), "change": change, "epoch": three.epoch}
    assert await box.read(**asked) == state | {"offset": 3}
    assert set(box.unread()) == left
    assert (await box.announcements(change))[3:] == ([] if extra is None else [state | extra])
    assert await box.read(**asked) == state | {"offset": 3}, "again, it changes nothing"


@pytest.mark.parametrize("ids", [{}, {"ids": ["a"]}])
async def test_a_read_up_to_a_position_of_another_epoch_marks_nothing(box: Box, three: Position, ids: dict[str, Any]) -> None:
    answer = await box.read(upto="another:3", **ids)
    assert (answer["unread"], answer["change"], answer["epoch"]) == (3, 3, three.epoch)
    assert len(box.unread()) == 3


@pytest.mark.parametrize("limit", [1, 2, 3])
async def test_a_notification_that_another_program_deleted_or_marked_ends_no_list(
    box: Box, three: Position, own: OwnValkey, gateway: RunningGateway, limit: int
) -> None:
    """A page that was short of it had no next one: what was older could not be reached."""
    key = f"{gateway.prefix}:{{{box.channel}}}"
    ((entry, _),) = own.client.xrange(f"{key}:stream", "2", "2")
    own.client.xdel(f"{key}:stream", entry)
    own.client.zadd(f"{key}:inbox", {"foreign": 2.5})
    assert [each["id"] for each in await box.pages(limit)] == ["c", "a"]


# Paging, and everything else, against the model.

IDS = st.sampled_from("abcdefgh")
ACTS = st.one_of(
    st.tuples(st.just("notify"), IDS, st.sampled_from([0, 0, 0, SIZE])),
    st.tuples(st.just("plain"), st.sampled_from([0, 0, 3, SIZE])),
    st.tuples(st.just("read"), st.none() | st.lists(IDS, min_size=1, max_size=4), st.none() | st.integers(0, 30)),
    st.tuples(st.just("remove")),
)


@settings(max_examples=examples(100))
@given(st.lists(ACTS, max_size=30), st.integers(1, 9))
def test_pages_of_any_size_hold_each_notification_once_as_the_model_does(
    own: OwnValkey, gateway: RunningGateway, acts: list[tuple[Any, ...]], limit: int
) -> None:
    async def play() -> None:
        async with opened_box(own, gateway.prefix, new_user()) as box:
            model = Model()
            announced: list[tuple[int, int]] = []
            for act in acts:
                if await _act(box, model, *act):
                    announced.append((len(model.unread), len(announced) + 1))
                assert await box.state() == (announced[-1] if announced else (0, 0)), act
            listed = [(each["id"], each["offset"], each["unread"]) for each in await box.pages(limit)]
            assert listed == model.listed()
            assert box.unread() == {id: model.newest(id) for id in model.unread}
            assert [(state["unread"], state["change"]) for state in await box.announcements(len(announced))] == announced

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


async def test_a_page_holds_a_hundred_notifications_at_most_and_may_hold_none(box: Box) -> None:
    for number in range(101):
        await box.notify(f"n{number}")
    first = await box.list(limit=1000)
    assert (len(first["notifications"]), first["next"]) == (100, f"{first['epoch']}:2")
    last = await box.list(before=first["next"])
    assert (marks(last), last["next"]) == ({"n0": True}, None)
    assert len((await box.list())["notifications"]) == 20
    nothing = await box.list(limit=0)
    assert (nothing["notifications"], nothing["next"], nothing["unread"]) == ([], None, 101)


async def test_a_page_ends_where_it_has_so_many_bytes(box: Box) -> None:
    for number in range(4):
        await box.notify(f"n{number}", text="x" * 100_000)
    first = await box.list()
    assert [each["id"] for each in first["notifications"]] == ["n3", "n2"]
    last = await box.list(before=first["next"])
    assert ([each["id"] for each in last["notifications"]], last["next"]) == (["n1", "n0"], None)


async def test_a_notification_larger_than_a_page_is_a_page(box: Box) -> None:
    for number in range(2):
        await box.notify(f"n{number}", text="x" * 300_000)
    assert [each["id"] for each in (await box.list())["notifications"]] == ["n1"]


async def test_a_page_before_a_position_of_another_epoch_is_refused(box: Box, three: Position) -> None:
    with pytest.raises(UnrecoverablePosition, match=f"the epoch is {three.epoch} now"):
        await box.list(before="another:3")
