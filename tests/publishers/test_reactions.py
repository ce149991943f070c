"""Reactions: one of a user per target, counts that are right whatever races; and how they fold into one notification."""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event, select, text

from gateway.config import Config
from gateway.live.inbox import Inbox
from publishers import Publisher
from publishers import folding as folding_module
from publishers.database import Database, Transaction
from publishers.faults import Fault, Invalid, NotFound
from publishers.folding import WINDOW_MS, Folding
from publishers.posts import create_channel, create_post, delete_post, list_posts
from publishers.reactions import REACTIONS, Reactions, my_reactions, react
from publishers.relay import Relay
from publishers.reviews import create_review, list_reviews, story_of
from publishers.tables import folds, reactions

from ..kit import forks, relays
from ..kit.clock import FrozenClock
from ..kit.outboxes import everything, said, table_away
from ..kit.refusals import HOSTILE
from ..kit.waiting import eventually, until

Counts = dict[str, int]


@pytest.fixture
def database(quick_database: Database) -> Database:
    return quick_database


async def new_review(database: Database, author: str = "author", text: str = "Good soup") -> str:
    """A target to react to."""
    return story_of((await create_review(database, subject="r42", author=author, rating=4, text=text))["id"])


@pytest.fixture
async def review(database: Database) -> str:
    return await new_review(database)


@pytest.fixture
async def post(database: Database) -> str:
    await create_channel(database, name="tech", owner="owner")
    return f"post:{(await create_post(database, channel='tech', author='author', text='Good news'))['id']}"


async def reactions_of(database: Database, target: str) -> dict[str, str]:
    """User → reaction, from the table that has one row of each."""
    async with database.reading() as connection:
        rows = (await connection.execute(select(reactions.c.user, reactions.c.reaction).where(reactions.c.target == target))).all()
    assert len({row.user for row in rows}) == len(rows)
    return {row.user: row.reaction for row in rows if row.reaction is not None}


async def counts_of(database: Database, target: str) -> Counts:
    """The counts that readers of the target's list get."""
    listed = [*await list_reviews(database, subject="r42", limit=200), *await list_posts(database, channel="tech", limit=200)]
    kind = target.partition(":")[0]
    return next(each["reactions"] for each in listed if f"{kind}:{each['id']}" == target and ("subject" in each) == (kind == "review"))


async def publications_of(database: Database, target: str) -> list[Any]:
    channel = target if target.startswith("review:") else "posts:tech"
    return [each for each in await said(database, channel) if each["type"] == "reaction" and each["target"] == target]


async def assert_agreement(database: Database, target: str) -> dict[str, str]:
    """The stored reactions, their counts and the publications about them agree. Returns user → reaction."""
    now = await reactions_of(database, target)
    assert await counts_of(database, target) == Counter(now.values())
    replayed: dict[str, str] = {}
    for publication in await publications_of(database, target):
        user, reaction = publication["user"], publication["reaction"]
        assert replayed.get(user) != reaction, "a repeated reaction is not published"
        replayed.pop(user, None)
        if reaction is not None:
            replayed[user] = reaction
        assert publication["counts"] == Counter(replayed.values()), "the counts are those of the publications so far"
    assert replayed == now
    return now


# One of a user per target.


@pytest.mark.parametrize("kind", ["post", "review"])
async def test_a_reaction_is_added_changed_and_removed(kind: str, database: Database, request: pytest.FixtureRequest) -> None:
    await create_channel(database, name="tech", owner="owner")
    target = await new_review(database)
    if kind == "post":
        target = f"post:{(await create_post(database, channel='tech', author='author', text='text'))['id']}"
    assert await react(database, user="u2", target=target, reaction="like") == {"like": 1}
    assert await react(database, user="u3", target=target, reaction="like") == {"like": 2}
    assert await react(database, user="u2", target=target, reaction="wow") == {"like": 1, "wow": 1}
    assert await my_reactions(database, user="u2", targets=[target, "post:404"]) == {target: "wow"}
    assert await react(database, user="u3", target=target, reaction=None) == {"wow": 1}
    assert await my_reactions(database, user="u3", targets=[target]) == {}
    assert await react(database, user="u3", target=target, reaction="sad") == {"wow": 1, "sad": 1}
    assert await publications_of(database, target) == [
        {"type": "reaction", "target": target, "user": user, "reaction": reaction, "counts": counts}
        for user, reaction, counts in (
            ("u2", "like", {"like": 1}),
            ("u3", "like", {"like": 2}),
            ("u2", "wow", {"like": 1, "wow": 1}),
            ("u3", None, {"wow": 1}),
            ("u3", "sad", {"wow": 1, "sad": 1}),
        )
    ]
    assert await assert_agreement(database, target) == {"u2": "wow", "u3": "sad"}


@pytest.mark.parametrize("shared", [False, True])
async def test_a_repeated_reaction_is_not_published(database: Database, review: str, shared: bool) -> None:
    reacting = Reactions(database).react if shared else lambda **wanted: react(database, **wanted)
    assert await reacting(user="u2", target=review, reaction=None) == {}
    assert await publications_of(database, review) == []
    for _ in range(3):
        assert await reacting(user="u2", target=review, reaction="like") == {"like": 1}
    assert len(await publications_of(database, review)) == 1
    for _ in range(3):
        assert await reacting(user="u2", target=review, reaction=None) == {}
    assert len(await publications_of(database, review)) == 2
    assert len(await said(database, "notifications:author")) == 1


async def test_each_kind_of_reaction_has_its_own_count(database: Database, review: str, post: str) -> None:
    for n, reaction in enumerate(REACTIONS):
        for user in range(n + 1):
            await react(database, user=f"{reaction}{user}", target=review, reaction=reaction)
    expected = {"like": 1, "love": 2, "laugh": 3, "wow": 4, "sad": 5}
    assert await counts_of(database, review) == expected
    assert list(await counts_of(database, review)) == list(REACTIONS), "in their order"
    assert await counts_of(database, post) == {}


async def test_a_review_and_a_post_with_the_same_id_are_two_targets(database: Database, review: str, post: str) -> None:
    assert review.partition(":")[2] == post.partition(":")[2]
    await react(database, user="u2", target=review, reaction="like")
    await react(database, user="u2", target=post, reaction="sad")
    assert await my_reactions(database, user="u2", targets=[review, post]) == {review: "like", post: "sad"}
    assert (await counts_of(database, review), await counts_of(database, post)) == ({"like": 1}, {"sad": 1})


async def test_reactions_of_a_transaction_of_ones_own_are_undone_with_it(database: Database, review: str) -> None:
    before = await everything(database)
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as transaction:
            await react(transaction, user="u2", target=review, reaction="like")
            await react(transaction, user="u2", target=review, reaction="sad")
            raise ZeroDivisionError
    assert await everything(database) == before
    async with database.transaction() as transaction:
        assert await react(transaction, user="u2", target=review, reaction="like") == {"like": 1}
        with pytest.raises(NotFound):
            await react(transaction, user="u2", target="review:404", reaction="like")
        assert await react(transaction, user="u2", target=review, reaction="sad") == {"sad": 1}
    assert await assert_agreement(database, review) == {"u2": "sad"}


# Races.


async def test_shared_and_single_transactions_agree_when_they_race(database: Database, review: str, post: str) -> None:
    targets = [review, post, await new_review(database), "review:404"]
    several = [Reactions(database, shared_most=7), Reactions(database)]
    ways = [*(each.react for each in several), lambda **wanted: react(database, **wanted)]
    wanted = [{"user": f"u{n % 5}", "target": targets[n % 4], "reaction": (*REACTIONS, None)[n * 7 % 11 % 6]} for n in range(72)]
    outcomes = await asyncio.gather(*[ways[n % 3](**each) for n, each in enumerate(wanted)], return_exceptions=True)
    for each, outcome in zip(wanted, outcomes, strict=True):
        assert isinstance(outcome, NotFound if each["target"] == "review:404" else dict), outcome
    for target in targets[:3]:
        assert set(await assert_agreement(database, target)) <= {f"u{n}" for n in range(5)}
    assert await reactions_of(database, "review:404") == {}


async def test_reactions_of_two_processes_agree_when_they_race(database: Database, review: str, post: str) -> None:
    url, both = database.url.render_as_string(hide_password=False), forks.barrier(2)
    processes = [forks.start(relays.reacting, url, [review, post], seed, both) for seed in "ab"]
    await until(lambda: all(process.exitcode is not None for process in processes), "both are done", 60)
    assert [process.exitcode for process in processes] == [0, 0]
    for target in (review, post):
        assert await assert_agreement(database, target)


STEPS = st.lists(
    st.tuples(
        st.booleans(),  # in a shared transaction
        st.lists(
            st.tuples(st.sampled_from(["u1", "u2", "author"]), st.integers(0, 2), st.sampled_from([*REACTIONS[:2], None])),
            min_size=1,
            max_size=6,
        ),
    ),
    max_size=6,
)


@settings(max_examples=12)
@given(STEPS)
async def test_reactions_agree_with_a_naive_dict(database: Database, steps: list[tuple[bool, list[tuple[str, int, str | None]]]]) -> None:
    """The last one of each user and target counts, one after the other or many at once."""
    targets = [await new_review(database), await new_review(database), "review:404404"]
    shared, model = Reactions(database, shared_most=4), {}
    for at_once, some in steps:
        wanted = [{"user": user, "target": targets[target], "reaction": reaction} for user, target, reaction in some]
        if at_once:
            outcomes = await asyncio.gather(*[shared.react(**each) for each in wanted], return_exceptions=True)
        else:
            outcomes = [(await asyncio.gather(react(database, **each), return_exceptions=True))[0] for each in wanted]
        for each, outcome in zip(wanted, outcomes, strict=True):
            assert isinstance(outcome, NotFound if each["target"] == targets[2] else dict), outcome
            if each["target"] != targets[2]:
                model[each["target"], each["user"]] = each["reaction"]
    for target in targets[:2]:
        expected = {user: reaction for (where, user), reaction in model.items() if where == target and reaction is not None}
        assert await assert_agreement(database, target) == expected


# Shared transactions.


async def test_reactions_that_come_together_share_a_transaction(database: Database, review: str, monkeypatch: pytest.MonkeyPatch) -> None:
    transactions, run = [], database.run

    async def counted(work: Any) -> Any:
        transactions.append(work)
        return await run(work)

    monkeypatch.setattr(database, "run", counted)
    shared = Reactions(database, shared_most=10)
    await asyncio.gather(*[shared.react(user=f"u{n}", target=review, reaction="like") for n in range(35)])
    assert len(transactions) == 4
    assert (shared.waiting, shared.peak) == (0, 35)
    assert await counts_of(database, review) == {"like": 35}


async def test_the_last_of_several_concurrent_reactions_of_a_user_counts(database: Database, review: str) -> None:
    shared = Reactions(database)
    minds = ["like", "sad", None, "love", "love", "wow"]
    outcomes = await asyncio.gather(*[shared.react(user="u2", target=review, reaction=each) for each in minds])
    assert outcomes == [{} if each is None else {each: 1} for each in minds]
    assert [each["reaction"] for each in await publications_of(database, review)] == ["like", "sad", None, "love", "wow"]


async def test_an_unknown_target_fails_alone_in_a_shared_transaction(database: Database, review: str, post: str) -> None:
    shared = Reactions(database)
    targets = ["review:404", review, "post:405", post, "review:406"]
    outcomes = await asyncio.gather(*[shared.react(user="u2", target=each, reaction="like") for each in targets], return_exceptions=True)
    assert [str(each) for each in outcomes[::2]] == ["there is no review 404", "there is no post 405", "there is no review 406"]
    assert [type(each) for each in outcomes[::2]] == [NotFound] * 3
    assert outcomes[1::2] == [{"like": 1}] * 2
    for target in (review, post):
        assert await assert_agreement(database, target) == {"u2": "like"}


async def test_a_cancelled_caller_does_not_cancel_the_others_of_a_shared_transaction(database: Database, review: str) -> None:
    shared = Reactions(database)
    callers = [asyncio.create_task(shared.react(user=f"u{n}", target=review, reaction="like")) for n in range(5)]
    await asyncio.sleep(0)
    assert shared.waiting == 5
    callers[2].cancel()
    async with asyncio.timeout(10):
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert isinstance(outcomes.pop(2), asyncio.CancelledError)
    assert all(isinstance(each, dict) for each in outcomes), outcomes
    assert set(await assert_agreement(database, review)) >= {"u0", "u1", "u3", "u4"}
    assert (await shared.react(user="u9", target=review, reaction="wow"))["wow"] == 1


async def test_a_caller_cancelled_in_its_transaction_leaves_no_lock(
    database: Database, review: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("publishers.engines.BUSY_SECONDS", 0.5)
    begun = asyncio.Event()
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)"
    slow = f"{numbers} SELECT max(i) FROM n UNION ALL SELECT 2"

    async def react_slowly(transaction: Transaction) -> None:
        await react(transaction, user="u2", target=review, reaction="like")
        await transaction.execute(text(slow))

    async with Database(database.url.render_as_string(hide_password=False)) as impatient:
        event.listen(impatient.engine.sync_engine, "before_cursor_execute", lambda *given: given[2] == slow and begun.set())
        gc.disable()  # a gateway collects seldom
        try:
            caller = asyncio.create_task(impatient.run(react_slowly))
            await begun.wait()
            caller.cancel()
            await asyncio.wait([caller])
            assert caller.cancelled()
            assert await react(impatient, user="u3", target=review, reaction="wow") == {"wow": 1}
        finally:
            gc.enable()
            gc.collect()
    assert await assert_agreement(database, review) == {"u3": "wow"}


async def test_reactions_past_the_limit_of_the_queue_are_refused(database: Database, review: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("publishers.reactions.WAITING_MOST", 12)
    shared = Reactions(database)
    reacting = [shared.react(user=f"u{n}", target=review, reaction="like") for n in range(15)]
    outcomes = await asyncio.gather(*reacting, return_exceptions=True)
    assert all(isinstance(each, dict) for each in outcomes[:12])
    assert [type(each) for each in outcomes[12:]] == [Invalid] * 3
    assert str(outcomes[12]) == "12 reactions wait for the database already; try again later"
    assert shared.peak == 12
    assert await shared.react(user="u12", target=review, reaction="like") == {"like": 13}
    assert len(await assert_agreement(database, review)) == 13


class LostDatabase:
    """A database whose connection breaks under the first transaction."""

    def __init__(self, database: Database) -> None:
        self._database, self.lost = database, False

    async def run(self, work: Any) -> Any:
        if self.lost:
            return await self._database.run(work)
        self.lost = True
        raise ConnectionResetError("the database went away")


async def test_callers_that_wait_for_a_lost_database_get_its_error(database: Database, review: str) -> None:
    shared = Reactions(LostDatabase(database), shared_most=3)  # type: ignore[arg-type]
    reacting = [shared.react(user=f"u{n}", target=review, reaction="like") for n in range(5)]
    async with asyncio.timeout(10):
        outcomes = await asyncio.gather(*reacting, return_exceptions=True)
    assert [type(each) for each in outcomes] == [ConnectionResetError] * 3 + [dict] * 2
    assert await assert_agreement(database, review) == {"u3": "like", "u4": "like"}


# Folding.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FrozenClock:
    clock = FrozenClock(1_800_000_000_000)  # unix ms
    monkeypatch.setattr("publishers.reactions.now_ms", clock)
    monkeypatch.setattr("publishers.folding.now_ms", clock)
    return clock


async def react_each(database: Database, target: str, users: Iterable[str], clock: FrozenClock, reaction: str | None = "like") -> None:
    for user in users:
        clock.pass_time(1)
        await react(database, user=user, target=target, reaction=reaction)


async def test_the_first_reaction_is_notified_at_once(database: Database, review: str, post: str) -> None:
    await react(database, user="u2", target=review, reaction="like")
    await react(database, user="u3", target=post, reaction="like")
    first, second = await said(database, "notifications:author")
    assert first.pop("id") != second.pop("id")
    assert first == {"type": "reaction", "text": "u2 reacted to your review “Good soup”", "target": review, "actors": ["u2"], "count": 1}
    assert second == {"type": "reaction", "text": "u3 reacted to your post “Good news”", "target": post, "actors": ["u3"], "count": 1}


async def test_later_reactions_update_the_notification(database: Database, clock: FrozenClock) -> None:
    for users, who, actors in (
        (2, "u2 and u1", ["u2", "u1"]),
        (3, "u3, u2 and 1 other", ["u3", "u2"]),
        (4, "u4, u3 and 2 others", ["u4", "u3"]),
        (14, "u14, u13 and 12 others", ["u14", "u13"]),
    ):
        author, folding = f"author of {users}", Folding(database)
        review = await new_review(database, author)
        await react_each(database, review, [f"u{n}" for n in range(1, users + 1)], clock)
        first, *others = await said(database, f"notifications:{author}")
        assert others == [], "not before the pause is over"
        assert await folding.publish_due(clock.pass_time(1000)) == 1
        assert (await said(database, f"notifications:{author}"))[1:] == [
            {**first, "text": f"{who} reacted to your review “Good soup”", "actors": actors, "count": users}
        ]
        assert await folding.publish_due(clock.pass_time(10**6)) == 0, "nothing happened since"


async def test_an_update_waits_for_the_pause_and_longer_the_older_it_is(database: Database, review: str, clock: FrozenClock) -> None:
    folding, start = Folding(database), clock.now
    published = []
    await react(database, user="u0", target=review, reaction="like")
    for second in range(1, 61):
        clock.now = start + second * 1000
        await react(database, user=f"u{second}", target=review, reaction="like")
        if await folding.publish_due(clock.now):
            published.append(second)
    pauses = [later - earlier for earlier, later in zip([0, *published], published, strict=False)]
    assert published[0] == 1 and pauses == sorted(pauses)
    assert 10 <= pauses[-1] <= 17, "a second and a quarter of its age"
    assert len(await said(database, "notifications:author")) == 1 + len(published) <= 16
    assert len({each["id"] for each in await said(database, "notifications:author")}) == 1


async def test_an_update_is_due_a_second_after_the_first_notification(database: Database, review: str, clock: FrozenClock) -> None:
    await react(database, user="u1", target=review, reaction="like")
    start = clock.now
    clock.pass_time(400)
    await react(database, user="u2", target=review, reaction="like")
    folding = Folding(database)
    assert [await folding.publish_due(now) for now in (start + 400, start + 999, start + 1000, start + 1000)] == [0, 0, 1, 0]


async def test_a_reaction_after_the_window_is_a_new_notification(database: Database, review: str, clock: FrozenClock) -> None:
    folding = Folding(database)
    await react_each(database, review, ["u1"], clock)
    clock.pass_time(WINDOW_MS - 1)
    await react(database, user="u2", target=review, reaction="like")
    assert await folding.publish_due(clock.now) == 1
    clock.pass_time(1)
    await react(database, user="u3", target=review, reaction="like")
    published = await said(database, "notifications:author")
    assert [each["text"].partition(" reacted")[0] for each in published] == ["u1", "u2 and u1", "u3"]
    assert published[0]["id"] == published[1]["id"] != published[2]["id"]
    await react_each(database, review, ["u4"], clock)
    assert await folding.publish_due(clock.pass_time(1000)) == 1
    last = (await said(database, "notifications:author"))[-1]
    assert (last["id"], last["actors"], last["count"]) == (published[2]["id"], ["u4", "u3"], 2)


async def test_a_user_who_reacted_before_is_not_counted_in_a_new_notification(database: Database, review: str, clock: FrozenClock) -> None:
    await react_each(database, review, ["u1"], clock)
    clock.pass_time(WINDOW_MS)
    await react_each(database, review, ["u2", "u1", "u3"], clock)
    await Folding(database).publish_due(clock.pass_time(1000))
    last = (await said(database, "notifications:author"))[-1]
    assert (last["actors"], last["count"]) == (["u3", "u2"], 2)


async def test_a_reaction_that_waited_for_the_first_one_is_counted_with_it(database: Database, review: str, clock: FrozenClock) -> None:
    """On PostgreSQL a transaction takes its time before it waits for the target's row."""
    await react(database, user="u1", target=review, reaction="like")
    clock.pass_time(-2)
    await react(database, user="u2", target=review, reaction="like")
    assert await Folding(database).publish_due(clock.pass_time(1002)) == 1
    last = (await said(database, "notifications:author"))[-1]
    assert (last["actors"], last["count"]) == (["u1", "u2"], 2)


async def is_said(database: Database, number: int) -> bool:
    return len(await said(database, "notifications:author")) == number


async def test_updates_wait_while_the_outbox_is_not_there(
    database: Database, review: str, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As in the middle of a restore: it ended the whole relay."""
    monkeypatch.setattr(folding_module, "LOOK_SECONDS", 0.01)
    await react_each(database, review, ["u1", "u2"], clock)
    clock.pass_time(1000)
    async with table_away(database, "outbox"):
        running = asyncio.create_task(Folding(database).run())  # not sooner: it would be done with the update
        await until(lambda: "folded notifications wait" in caplog.text or running.done(), "the update waits")
    await eventually(lambda: is_said(database, 2), "the update is in the outbox")
    running.cancel()
    await asyncio.wait([running])


async def test_a_user_is_named_in_one_notification_only(database: Database, review: str, clock: FrozenClock) -> None:
    await react_each(database, review, ["u1"], clock)
    clock.pass_time(WINDOW_MS - 10)
    await react_each(database, review, ["u2"], clock)
    clock.pass_time(10)
    await react_each(database, review, ["u3"], clock)
    assert await Folding(database).publish_due(clock.pass_time(10)) == 1
    published = await said(database, "notifications:author")
    assert [each["count"] for each in published] == [1, 1, 2]


async def test_a_removed_reaction_is_no_longer_in_the_notification(database: Database, review: str, clock: FrozenClock) -> None:
    folding = Folding(database)
    await react_each(database, review, ["u1", "u2", "u3"], clock)
    await react_each(database, review, ["u1", "u3"], clock, None)
    await folding.publish_due(clock.pass_time(1000))
    published = await said(database, "notifications:author")
    assert [(each["actors"], each["count"]) for each in published] == [(["u1"], 1), (["u2"], 1)]
    await react_each(database, review, ["u2"], clock, None)
    assert await folding.publish_due(clock.pass_time(10_000)) == 1
    assert await said(database, "notifications:author") == published, "a notification that names no user any more is not published"
    await react_each(database, review, ["u4"], clock, "wow")
    assert await folding.publish_due(clock.pass_time(10_000)) == 1
    last = (await said(database, "notifications:author"))[-1]
    assert (last["id"], last["actors"], last["count"]) == (published[0]["id"], ["u4"], 1)


async def test_removing_a_reaction_of_an_older_notification_publishes_nothing(database: Database, review: str, clock: FrozenClock) -> None:
    await react_each(database, review, ["u1"], clock)
    clock.pass_time(WINDOW_MS)
    await react_each(database, review, ["u1"], clock, None)
    assert await Folding(database).publish_due(clock.pass_time(WINDOW_MS)) == 0
    assert len(await said(database, "notifications:author")) == 1


async def test_no_user_is_notified_of_a_reaction_of_their_own(database: Database, review: str, clock: FrozenClock) -> None:
    folding = Folding(database)
    await react_each(database, review, ["author"], clock)
    assert await said(database, "notifications:author") == []
    assert await counts_of(database, review) == {"like": 1}, "counted it is"
    await react_each(database, review, ["u1", "author", "u2"], clock, "wow")
    assert await folding.publish_due(clock.pass_time(1000)) == 1
    last = (await said(database, "notifications:author"))[-1]
    assert (last["actors"], last["count"]) == (["u2", "u1"], 2)
    await react_each(database, review, ["author"], clock, "sad")
    assert await folding.publish_due(clock.pass_time(WINDOW_MS)) == 0, "nothing is due for it either"


async def test_reactions_of_one_shared_transaction_begin_one_notification(database: Database, review: str, post: str) -> None:
    shared = Reactions(database)
    users = ["author", *(f"u{n}" for n in range(6))]
    await asyncio.gather(*[shared.react(user=user, target=target, reaction="like") for user in users for target in (review, post)])
    published = await said(database, "notifications:author")
    assert sorted((each["target"], each["actors"], each["count"]) for each in published) == [
        (post, ["u5", "u4"], 6),
        (review, ["u5", "u4"], 6),
    ]


async def test_a_storm_on_a_review_is_one_notification(database: Database, review: str, clock: FrozenClock, publisher: Publisher) -> None:
    """Two thousand reactions within a minute."""
    shared, folding, relay = Reactions(database), Folding(database), Relay(database, publisher.history)
    updates = 0
    for second in range(20):
        some = range(second * 100, second * 100 + 100)
        await asyncio.gather(*[shared.react(user=f"u{n}", target=review, reaction="like") for n in some])
        updates += await folding.publish_due(clock.pass_time(3000))
    updates += await folding.publish_due(clock.pass_time(WINDOW_MS))
    published = await said(database, "notifications:author")
    assert len(published) == 1 + updates <= 12
    assert len({each["id"] for each in published}) == 1
    assert published[-1]["count"] == 2000 and published[-1]["text"].endswith("and 1998 others reacted to your review “Good soup”")
    assert await assert_agreement(database, review) == {f"u{n}": "like" for n in range(2000)}
    await relay.drain()
    assert len((await publisher.history.read("notifications:author", 0, -1)).publications) == len(published)
    inbox = json.loads(await Inbox(Config(), publisher.history).list("author", None))
    assert [(each["unread"], each["data"]) for each in inbox["notifications"]] == [(True, published[-1])]
    assert inbox["unread"] == 1


async def test_an_update_of_what_was_read_is_unread_again(
    database: Database, review: str, clock: FrozenClock, publisher: Publisher
) -> None:
    relay, inbox = Relay(database, publisher.history), Inbox(Config(), publisher.history)
    unread = []
    for users in (["u1"], ["u2", "u3"], ["u4"]):
        await react_each(database, review, users, clock)
        await Folding(database).publish_due(clock.pass_time(60_000))
        await relay.drain()
        unread.append(json.loads(await inbox.list("author", None))["unread"])
        if users == ["u1"]:
            await inbox.read("author", b'{"all":true}')
    assert unread == [1, 1, 1]
    assert len(json.loads(await inbox.list("author", None))["notifications"]) == 1


async def test_reactions_to_a_deleted_post_are_not_notified(database: Database, post: str, clock: FrozenClock) -> None:
    await react_each(database, post, ["u1", "u2"], clock)
    await delete_post(database, post=int(post[5:]), by="author")
    folding = Folding(database)
    assert await folding.publish_due(clock.pass_time(1000)) == 1
    assert await folding.publish_due(clock.pass_time(1000)) == 0
    assert [each["count"] for each in await said(database, "notifications:author")] == [1]


async def test_concurrent_publishers_of_due_updates_publish_each_once(database: Database, clock: FrozenClock) -> None:
    targets = [await new_review(database) for _ in range(8)]
    for target in targets:
        await react_each(database, target, ["u1", "u2"], clock)
    clock.pass_time(1000)
    counts = await asyncio.gather(*[Folding(database).publish_due(clock.now) for _ in range(4)])
    assert sum(counts) == 8
    published = await said(database, "notifications:author")
    assert Counter(each["target"] for each in published) == dict.fromkeys(targets, 2)


async def test_no_reaction_is_lost_while_updates_are_published(database: Database, review: str, clock: FrozenClock) -> None:
    """A reaction made while an update is published is in the next one."""
    shared = Reactions(database, shared_most=3)

    async def publish() -> None:
        for _ in range(12):
            await Folding(database).publish_due(clock.pass_time(5000))

    reacting = [react(database, user=f"u{n}", target=review, reaction="like") for n in range(15)]
    sharing = [shared.react(user=f"v{n}", target=review, reaction="wow") for n in range(15)]
    await asyncio.gather(publish(), *reacting, publish(), *sharing)
    await Folding(database).publish_due(clock.pass_time(WINDOW_MS))
    published = await said(database, "notifications:author")
    assert published[-1]["count"] == 30
    assert len({each["id"] for each in published}) == 1


async def test_more_due_updates_than_fit_in_one_transaction_are_published_in_several(database: Database, clock: FrozenClock) -> None:
    row = {"target": "review:1", "recipient": "author", "started_at": clock.now, "published_at": clock.now, "due_at": clock.now}
    async with database.transaction() as transaction:
        await transaction.execute(folds.insert(), [row] * 130)
    folding = Folding(database)
    assert [await folding.publish_due(clock.now) for _ in range(3)] == [100, 30, 0]


async def test_markup_in_texts_and_names_is_notified_unchanged(database: Database, clock: FrozenClock) -> None:
    for n, hostile in enumerate(HOSTILE):
        target = await new_review(database, f"a{n}", hostile)
        await react_each(database, target, ["<b>u1</b>", "😀 'u2'"], clock)
    await Folding(database).publish_due(clock.pass_time(1000))
    for n, hostile in enumerate(HOSTILE):
        line = " ".join(hostile.split())
        quoted = line if len(line) <= 60 else f"{line[:59].rstrip()}…"
        first, second = await said(database, f"notifications:a{n}")
        assert first["text"] == f"<b>u1</b> reacted to your review “{quoted}”"
        assert second["text"] == f"😀 'u2' and <b>u1</b> reacted to your review “{quoted}”"


# Arguments.


async def test_a_refused_reaction_leaves_the_callers_transaction_usable(database: Database, review: str) -> None:
    async def refused(transaction: Transaction) -> None:
        for target in ("review:404", "review:0012", None):
            with pytest.raises(Fault):
                await react(transaction, user="u2", target=target, reaction="like")  # type: ignore[arg-type]

    async with database.transaction() as transaction:
        await refused(transaction)
        await react(transaction, user="u2", target=review, reaction="like")
    assert await assert_agreement(database, review) == {"u2": "like"}


async def test_my_reactions_returns_the_users_reactions_by_target(database: Database, review: str, post: str) -> None:
    await react(database, user="u2", target=review, reaction="like")
    await react(database, user="u3", target=post, reaction="like")
    assert await my_reactions(database, user="u2", targets=[review, post, review]) == {review: "like"}
    assert await my_reactions(database, user="u2", targets=[]) == {}
    assert await my_reactions(database, user="u4", targets=[review, post]) == {}
