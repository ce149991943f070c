"""Reviews: what is published about them, which users are notified, and a story that is whole whatever Valkey lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import valkey
from sqlalchemy import insert, select

from publishers import Publisher
from publishers.database import Database, now_ms
from publishers.faults import NotFound
from publishers.migrator import identity
from publishers.reactions import react
from publishers.relay import Relay
from publishers.reviews import create_review, list_reviews, respond, review_history, story_of
from publishers.tables import outbox, reviews

from ..kit.outboxes import everything, said
from ..kit.refusals import HOSTILE, bad_ids, failures
from ..kit.valkeys import OwnValkey
from ..kit.waiting import PATIENCE, until


@pytest.fixture
def database(quick_database: Database) -> Database:
    return quick_database


@pytest.fixture
async def review(database: Database) -> int:
    """The id of a review that u1 wrote."""
    return (await create_review(database, subject="r42", author="u1", rating=4, text="Good soup"))["id"]


# What is published, and who is notified.


async def test_a_new_review_is_published_for_its_subject_and_begins_its_story(database: Database) -> None:
    before = now_ms()
    review = await create_review(database, subject="r42", author="u1", rating=4, text="Good soup")
    assert before <= review["created_at"] <= now_ms()
    recorded = {"subject": "r42", "author": "u1", "rating": 4, "text": "Good soup", "reactions": {}}
    assert review == {"id": review["id"], "created_at": review["created_at"], **recorded}
    assert await said(database, "reviews:r42") == [{"type": "review.created", "review": review}]
    assert await said(database, f"review:{review['id']}") == [{"type": "review.created", "review": review}]
    assert await said(database, "notifications:u1") == []


async def test_responses_and_reactions_are_published_in_the_story_of_the_review_only(database: Database, review: int) -> None:
    other = (await create_review(database, subject="r42", author="u9", rating=1, text="Cold soup"))["id"]
    first = await respond(database, review=review, author="u2", text="Which one?")
    assert first == {"id": first["id"], "review": review, "author": "u2", "text": "Which one?", "created_at": first["created_at"]}
    await react(database, user="u3", target=f"review:{review}", reaction="like")
    second = await respond(database, review=review, author="u1", text="The red one")
    await react(database, user="u3", target=f"review:{review}", reaction=None)
    reaction = {"type": "reaction", "target": f"review:{review}", "user": "u3"}
    assert (await said(database, story_of(review)))[1:] == [
        {"type": "response.created", "response": first},
        {**reaction, "reaction": "like", "counts": {"like": 1}},
        {"type": "response.created", "response": second},
        {**reaction, "reaction": None, "counts": {}},
    ]
    assert [each["review"]["id"] for each in await said(database, "reviews:r42")] == [review, other]
    assert len(await said(database, story_of(other))) == 1


async def test_the_author_of_a_review_is_notified_of_a_response(database: Database, review: int) -> None:
    response = await respond(database, review=review, author="u2", text="  Which\n\none?  ")
    assert await said(database, "notifications:u1") == [
        {
            "id": f"response:{response['id']}",
            "type": "response",
            "text": "u2 responded to your review “Good soup”: “Which one?”",
            "target": f"review:{review}",
            "subject": "r42",
            "actors": ["u2"],
            "count": 1,
        }
    ]
    assert await said(database, "notifications:u2") == []


async def test_a_long_response_is_quoted_by_its_beginning(database: Database, review: int) -> None:
    for text in ("x" * 60, "x" * 61, "word " * 100):
        await respond(database, review=review, author="u2", text=text)
    quoted = [each["text"].partition("”: “")[2] for each in await said(database, "notifications:u1")]
    assert quoted == [f"{'x' * 60}”", f"{'x' * 59}…”", f"{('word ' * 100)[:59].rstrip()}…”"]


async def test_no_user_is_notified_of_a_response_of_their_own(database: Database, review: int) -> None:
    await respond(database, review=review, author="u1", text="I forgot the bread")
    assert await said(database, "notifications:u1") == []
    assert len(await said(database, story_of(review))) == 2


async def test_concurrent_responses_are_published_in_the_order_of_their_ids(database: Database, review: int) -> None:
    made = await asyncio.gather(*[respond(database, review=review, author=f"u{n}", text=f"text {n}") for n in range(2, 14)])
    recorded = [each["response"] for each in (await said(database, story_of(review)))[1:]]
    assert recorded == sorted(made, key=lambda each: each["id"])
    assert (await list_reviews(database, subject="r42"))[0]["responses"] == recorded


async def test_a_response_to_an_unknown_review_is_refused(database: Database, review: int) -> None:
    before = await everything(database)
    with pytest.raises(NotFound, match=rf"^there is no review {review + 1}$"):
        await respond(database, review=review + 1, author="u2", text="text")
    assert await everything(database) == before


async def test_reviews_are_listed_newest_first_with_their_responses(database: Database, review: int) -> None:
    await create_review(database, subject="other", author="u1", rating=1, text="not this one")
    second = await create_review(database, subject="r42", author="u2", rating=5, text="Great soup")
    third = await create_review(database, subject="r42", author="u3", rating=3, text="Some soup")
    for text in ("one", "two"):
        await respond(database, review=review, author="u2", text=text)
    await respond(database, review=second["id"], author="u1", text="three")
    await react(database, user="u2", target=f"review:{review}", reaction="wow")
    newest = await list_reviews(database, subject="r42", limit=2)
    assert [(each["id"], [response["text"] for response in each["responses"]]) for each in newest] == [
        (third["id"], []),
        (second["id"], ["three"]),
    ]
    oldest = await list_reviews(database, subject="r42", before=second["id"])
    assert [(each["id"], [response["text"] for response in each["responses"]]) for each in oldest] == [(review, ["one", "two"])]
    assert oldest[0]["reactions"] == {"wow": 1}
    assert await list_reviews(database, subject="r42", before=review) == []


async def test_a_page_of_reviews_holds_at_most_200(database: Database) -> None:
    row = {"subject": "r42", "author": "u2", "rating": 3, "text": "text", "created_at": 1, "counts": "{}"}
    async with database.transaction() as transaction:
        await transaction.execute(insert(reviews), [row] * 205)
    assert len(await list_reviews(database, subject="r42")) == 30
    assert len(await list_reviews(database, subject="r42", limit=10**6)) == 200


async def test_reviews_are_part_of_a_transaction_of_ones_own_and_undone_with_it(database: Database, review: int) -> None:
    async def something(transaction: Any) -> int:
        new = await create_review(transaction, subject="r42", author="u2", rating=1, text="text")
        await respond(transaction, review=new["id"], author="u3", text="response")
        await react(transaction, user="u3", target=story_of(new["id"]), reaction="sad")
        with pytest.raises(NotFound):
            await respond(transaction, review=404, author="u3", text="response")
        return new["id"]

    before = await everything(database)
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as transaction:
            await something(transaction)
            raise ZeroDivisionError
    assert await everything(database) == before
    async with database.transaction() as transaction:
        new = await something(transaction)
    assert [each["type"] for each in await said(database, story_of(new))] == ["review.created", "response.created", "reaction"]
    assert [each["type"] for each in await said(database, "notifications:u2")] == ["response", "reaction"]


# The story.


class Stories:
    """The stories of reviews: recorded in the database, published by ``relay``, lost from Valkey, read and written again."""

    def __init__(self, database: Database, publisher: Publisher, relay: Relay) -> None:
        self.database = database
        self.publisher = publisher
        self.drain = relay.drain

    async def respond(self, review: int, *texts: str) -> None:
        for text in texts:
            await respond(self.database, review=review, author="u2", text=text)

    async def read(self, review: int, database: Database | None = None) -> list[Any]:
        """As its readers get it, which writes it again where something is lost."""
        return await review_history(review, database=database or self.database, publisher=self.publisher)

    async def data(self, review: int) -> list[Any]:
        return [each["data"] for each in await self.read(review)]

    async def recorded(self, review: int) -> list[Any]:
        """All that the database has of it, published or not."""
        return await said(self.database, story_of(review))

    async def kept(self, review: int) -> list[Any]:
        """What the relay has published of it, as the database remembers it."""
        async with self.database.reading() as connection:
            wanted = select(outbox.c.data).where(outbox.c.channel == story_of(review), outbox.c.published).order_by(outbox.c.id)
            return [json.loads(data) for data in (await connection.execute(wanted)).scalars()]

    async def published(self, review: int) -> list[tuple[int, Any]]:
        """What Valkey holds of it: offset and data."""
        page = await self.publisher.history.read(story_of(review), 0, -1, max_bytes=2**31)
        return [(each.offset, json.loads(each.data)) for each in page.publications]

    async def epoch(self, review: int) -> str:
        return (await self.publisher.history.read(story_of(review))).top.epoch

    async def lose(self, review: int) -> None:
        await self.publisher.history.remove(story_of(review))

    async def lose_after(self, review: int, *texts: str) -> None:
        """Valkey loses it when these responses, too, were published."""
        await self.respond(review, *texts)
        await self.drain()
        await self.lose(review)


@pytest.fixture
def stories(database: Database, publisher: Publisher, relay: Relay) -> Stories:
    return Stories(database, publisher, relay)


async def test_a_story_holds_all_events_of_a_review_in_order(stories: Stories, database: Database, review: int) -> None:
    await stories.respond(review, "one")
    for user, reaction in (("u2", "like"), ("u3", "wow"), ("u2", "love"), ("u3", "wow"), ("u3", None)):
        await react(database, user=user, target=story_of(review), reaction=reaction)
    await stories.respond(review, "two")
    expected = await stories.recorded(review)
    before = now_ms()
    await stories.drain()
    story = await stories.read(review)
    assert [each["data"] for each in story] == expected
    assert [each["offset"] for each in story] == list(range(1, 8))
    assert all(before - 1 <= each["ms"] <= now_ms() + 1 for each in story)
    assert [set(each) for each in story] == [{"offset", "ms", "data"}] * 7
    kinds = [each["data"]["type"].partition(".")[0] for each in story]
    assert kinds == ["review", "response", "reaction", "reaction", "reaction", "reaction", "response"]
    assert await stories.kept(review) == expected, "it stays in the database"
    assert await said(database, "reviews:r42") == [], "the rest goes when it is published"


async def test_a_long_story_is_read_whole(stories: Stories, database: Database, review: int) -> None:
    long = "x" * 9_000  # more than a page of history, more than Valkey takes from a stream at a time
    rows = [{"channel": story_of(review), "data": json.dumps([n, long]), "at": 1, "keep": True} for n in range(300)]
    async with database.transaction() as transaction:
        await transaction.execute(insert(outbox), rows)
    await stories.drain()
    for lost in (False, True):
        if lost:
            await stories.lose(review)
        story = await stories.read(review)
        assert [each["offset"] for each in story] == list(range(1, 302))
        assert [each["data"][0] for each in story[1:]] == list(range(300))


async def test_a_story_is_read_from_one_stream(
    stories: Stories, database: Database, review: int, store: valkey.Valkey, prefix: str
) -> None:
    """Whether it is whole, or has to be written again: no other key is touched, and nothing is searched."""
    for _ in range(3):
        other = (await create_review(database, subject="r42", author="u1", rating=4, text="text"))["id"]
        await stories.respond(other, "one", "two")
    await stories.respond(review, "one")
    await stories.drain()
    for lost in (False, True):
        if lost:
            await stories.lose(review)
        with store.monitor() as monitor:
            assert len(await stories.read(review)) == 2
            store.echo(f"{prefix} is over")
            commands = []
            while f"{prefix} is over" not in (command := monitor.next_command()["command"]):
                commands.append(command)
        own = f"{prefix}:{{{story_of(review)}}}"
        touched = [word for command in commands for word in command.split() if word.startswith(prefix)]
        assert touched and all(word.startswith(own) for word in touched), touched
        verbs = {command.split()[0].upper() for command in commands}
        assert not verbs & {"SCAN", "KEYS", "SSCAN", "HSCAN", "ZSCAN", "XREAD"}, verbs


async def test_reading_a_story_changes_nothing(stories: Stories, database: Database, review: int, monkeypatch: pytest.MonkeyPatch) -> None:
    await stories.drain()
    await stories.respond(review, "one", "two")  # they wait for the relay
    before, rows = await stories.epoch(review), await everything(database)
    monkeypatch.setattr(Database, "claim", None)
    for _ in range(2):
        assert len(await stories.read(review)) == 1
    assert await stories.epoch(review) == before
    assert await everything(database) == rows


async def test_there_is_no_story_of_an_unknown_review(stories: Stories, review: int) -> None:
    with pytest.raises(NotFound, match=rf"^there is no review {review + 1}$"):
        await stories.read(review + 1)


async def test_a_story_that_waits_for_the_relay_is_empty(stories: Stories, review: int) -> None:
    assert await stories.read(review) == []
    await stories.drain()
    assert len(await stories.read(review)) == 1


Loss = Callable[[valkey.Valkey, str], Any]


def keys_lost(*parts: str) -> Loss:
    return lambda client, base: client.delete(*[f"{base}:{part}" for part in parts])


def rewound(client: valkey.Valkey, base: str) -> None:
    """As a Valkey that comes back from an older snapshot: the newest two publications were never there."""
    older = client.xrange(f"{base}:stream")[:-2]
    client.delete(f"{base}:stream")
    for id, fields in older:
        client.xadd(f"{base}:stream", fields, id)
    offset, _, ms = older[-1][0].decode().partition("-")
    client.hset(f"{base}:meta", mapping={"offset": offset, "ms": ms})


LOSSES = {
    "all its keys": keys_lost("meta", "stream", "keys"),
    "its stream": keys_lost("stream"),
    "its counter": keys_lost("meta"),
    "its beginning, trimmed": lambda client, base: client.xtrim(f"{base}:stream", maxlen=2, approximate=False),
    "one in its middle": lambda client, base: client.xdel(f"{base}:stream", client.xrange(f"{base}:stream")[1][0]),
    "its newest, rewound": rewound,
}


@pytest.mark.parametrize("newer", ["none", "published", "waiting"])
async def test_an_incomplete_story_is_rewritten(
    stories: Stories, newer: str, database: Database, store: valkey.Valkey, prefix: str
) -> None:
    """Whole, in order, nothing twice, in another epoch, and what is recorded later follows it."""
    for loss, lose in LOSSES.items():
        review = (await create_review(database, subject="r42", author="u1", rating=4, text=f"loses {loss}"))["id"]
        await stories.respond(review, "one", "two", "three")
        await stories.drain()
        before, old = await stories.epoch(review), await stories.recorded(review)
        lose(store, f"{prefix}:{{{story_of(review)}}}")
        if newer != "none":
            await stories.respond(review, "four", "five")
        if newer == "published":
            await stories.drain()
        expected = old if newer == "waiting" else await stories.recorded(review)
        story = await stories.read(review)
        assert [each["data"] for each in story] == expected, loss
        assert [each["offset"] for each in story] == list(range(1, len(expected) + 1)), loss
        after = await stories.epoch(review)
        assert after != before, loss
        await stories.respond(review, "six")
        await stories.drain()
        recorded = await stories.recorded(review)
        assert await stories.published(review) == list(enumerate(recorded, 1)), loss
        again = await stories.read(review)
        assert [each["data"] for each in again] == recorded, loss
        assert await stories.epoch(review) == after, loss


async def test_a_story_is_written_again_to_a_valkey_that_lost_everything(database: Database, tmp_path: Path) -> None:
    review = (await create_review(database, subject="r42", author="u1", rating=4, text="Good soup"))["id"]
    own = OwnValkey(tmp_path / "own")
    own.start()
    try:
        async with Publisher(own.url) as publisher:
            stories = Stories(database, publisher, Relay(database, publisher.history))
            for round_, forget in enumerate(("FLUSHALL", "FLUSHALL", "FUNCTION FLUSH"), 2):
                await stories.respond(review, f"text {round_}")
                await stories.drain()
                before = await stories.epoch(review)
                own.together(("FLUSHALL",), tuple(forget.split()))
                story = await stories.read(review)
                assert [each["data"] for each in story] == await stories.recorded(review)
                assert [each["offset"] for each in story] == list(range(1, round_ + 1))
                assert await stories.epoch(review) != before
    finally:
        own.close()


async def test_followers_get_a_reset_when_a_story_is_written_again(
    stories: Stories, review: int, store: valkey.Valkey, prefix: str
) -> None:
    await stories.lose_after(review)
    pubsub = store.pubsub(ignore_subscribe_messages=True)
    pubsub.subscribe(f"{prefix}:{{{story_of(review)}}}")
    pubsub.get_message(timeout=PATIENCE)  # the subscription's own
    await stories.read(review)
    message = pubsub.get_message(timeout=PATIENCE)
    pubsub.close()
    assert message and message["data"].decode() == f"@reset {await stories.epoch(review)} 1"


async def test_a_relay_that_died_after_publishing_does_not_double_the_story(stories: Stories, review: int) -> None:
    """It published two and marked none: they are published again after the story that was written again without them."""
    await stories.respond(review, "one")
    await stories.drain()
    await stories.respond(review, "two", "three")
    await dying_after_publishing(stories)
    await stories.lose(review)
    recorded = await stories.recorded(review)
    assert await stories.data(review) == recorded[:2]
    await stories.drain()
    assert await stories.published(review) == list(enumerate(recorded, 1))
    assert await stories.data(review) == recorded


async def test_a_story_is_not_written_again_between_a_relays_publishing_and_its_marking(
    stories: Stories, database: Database, review: int, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the relay has just published would be missing from it."""
    await stories.lose_after(review, "one", "two")
    has_published, go_on, asked, alone_with = asyncio.Event(), asyncio.Event(), asyncio.Event(), database.alone_with

    class Slow(Relay):
        async def _settle(self, done: Any) -> None:
            has_published.set()
            await go_on.wait()
            await super()._settle(done)

    def asking(channel: str) -> Any:
        asked.set()
        return alone_with(channel)

    monkeypatch.setattr(database, "alone_with", asking)
    await stories.respond(review, "three")
    draining = asyncio.create_task(Slow(database, publisher.history).drain())
    await has_published.wait()
    reader = asyncio.create_task(stories.read(review))
    await until(lambda: asked.is_set() or reader.done(), "the reader waits for the relay, or does not")
    assert not reader.done()
    go_on.set()
    await draining
    assert [each["data"] for each in await reader] == await stories.recorded(review)


async def test_rows_that_a_late_relay_repeats_are_not_added_to_the_story_again(
    stories: Stories, database: Database, review: int, publisher: Publisher
) -> None:
    """One that lost its claim and does not know it yet."""
    await stories.lose_after(review, "one", "two")
    await stories.read(review)
    async with database.reading() as connection:
        rows = (await connection.execute(select(outbox.c.id, outbox.c.data).where(outbox.c.channel == story_of(review)))).all()
    await publisher.history.relay(story_of(review), await identity(database), [tuple(row) for row in rows], notify=False)
    assert await stories.published(review) == list(enumerate(await stories.recorded(review), 1))


async def dying_after_publishing(stories: Stories) -> None:
    """A relay that publishes all that waits and dies before it has marked it."""

    class Dying(Relay):
        async def _settle(self, done: Any) -> None:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        await Dying(stories.database, stories.publisher.history).drain()


async def test_a_loss_is_seen_though_as_many_were_published_and_not_marked_yet(stories: Stories, review: int) -> None:
    await stories.lose_after(review)
    await stories.respond(review, "one")
    await dying_after_publishing(stories)
    story = await stories.read(review)
    assert [each["data"]["type"] for each in story][:1] == ["review.created"]


async def test_one_of_many_concurrent_readers_writes_a_lost_story_again(
    stories: Stories, review: int, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stories.lose_after(review, "one", "two")
    written, restore = [], publisher.history.restore

    async def counted(*arguments: Any) -> Any:
        written.append(arguments)
        return await restore(*arguments)

    monkeypatch.setattr(publisher.history, "restore", counted)
    copies = await asyncio.gather(*[stories.read(review) for _ in range(4)])
    recorded = await stories.recorded(review)
    assert [[each["data"] for each in story] for story in copies] == [recorded] * 4
    assert len(written) == 1


async def test_more_readers_than_connections_can_ask_for_a_lost_story_at_once(stories: Stories, database: Database, review: int) -> None:
    await stories.lose_after(review)
    async with Database(database.url.render_as_string(hide_password=False), pool=2) as small:
        small.engine.pool._timeout = 1.0  # type: ignore[attr-defined]
        asking = [stories.read(review, small) for _ in range(3)]
        copies = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(story) for story in copies] == [list] * 3


async def test_a_story_is_whole_after_losses_writers_relays_and_readers_at_once(
    stories: Stories, database: Database, review: int, store: valkey.Valkey, prefix: str
) -> None:
    over = asyncio.Event()

    async def write(author: str) -> None:
        for n in range(12):
            await respond(database, review=review, author=author, text=f"text {n}")

    async def drain() -> None:
        while not over.is_set():
            await stories.drain()
            await asyncio.sleep(0)

    async def lose_and_read() -> None:
        for n in range(12):
            list(LOSSES.values())[n % 2](store, f"{prefix}:{{{story_of(review)}}}")
            story = await stories.read(review)
            ids = [each["data"]["response"]["id"] for each in story if "response" in each["data"]]
            assert ids == sorted(set(ids)), "in order, nothing twice, at any moment"

    draining = asyncio.create_task(drain())
    await asyncio.gather(write("u2"), write("u3"), lose_and_read(), lose_and_read())
    over.set()
    await draining
    await stories.drain()
    recorded = await stories.recorded(review)
    assert len(recorded) == 25
    story = await stories.read(review)
    assert [each["data"] for each in story] == recorded
    assert await stories.published(review) == list(enumerate(recorded, 1))


async def test_the_next_reader_writes_a_story_whose_first_reader_was_cancelled(
    stories: Stories, review: int, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stories.lose_after(review, "one")
    begun = asyncio.Event()

    async def hanging_valkey(*_: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(publisher.history, "restore", hanging_valkey)
        reader = asyncio.create_task(stories.read(review))
        await begun.wait()
        reader.cancel()
        await asyncio.wait([reader])
    async with asyncio.timeout(PATIENCE):
        story = await stories.read(review)
    assert [each["data"] for each in story] == await stories.recorded(review)
    await stories.respond(review, "two")
    assert await stories.drain() == 2, "the story and the notification: nothing is locked any more"


# Arguments.


async def test_markup_and_emoji_come_through_as_they_are(database: Database, publisher: Publisher, relay: Relay) -> None:
    for text in HOSTILE:
        review = await create_review(database, subject="<b>r42</b>", author="<i>u1</i>", rating=1, text=text)
        response = await respond(database, review=review["id"], author="u2", text=text)
        assert review["text"] == response["text"] == text
        await relay.drain()
        for lost in (False, True):
            if lost:
                await publisher.history.remove(story_of(review["id"]))
            story = await review_history(review["id"], database=database, publisher=publisher)
            assert [next(iter(each["data"][kind] for kind in ("review", "response") if kind in each["data"])) for each in story] == [
                review,
                response,
            ]
    assert [each["text"] for each in await list_reviews(database, subject="<b>r42</b>")] == HOSTILE[::-1]
    page = await publisher.history.read("notifications:<i>u1</i>", 0, -1)
    notified = [json.loads(each.data)["text"] for each in page.publications]
    assert notified[0] == "u2 responded to your review “<script>alert('x')</script>”: “<script>alert('x')</script>”"
    assert len(notified) == len(HOSTILE)


async def test_every_rating_from_one_to_five_is_taken(database: Database) -> None:
    for rating in range(1, 6):
        assert (await create_review(database, subject="r42", author="u1", rating=rating, text="text"))["rating"] == rating


async def test_invalid_ids_of_a_story_are_refused(database: Database, review: int, publisher: Publisher) -> None:
    assert await failures(database, lambda given: review_history(given, database=database, publisher=publisher), bad_ids("review")) == []
