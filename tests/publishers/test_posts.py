"""Posts: what becomes of one, what is published of each step, and what is refused."""

from __future__ import annotations

import asyncio
import json

import pytest
from sqlalchemy import insert, select

from publishers import Publisher
from publishers.database import Database, now_ms
from publishers.faults import Fault, Invalid, NotAllowed, NotFound
from publishers.posts import create_channel, create_post, delete_post, edit_post, list_channels, list_posts
from publishers.reactions import react
from publishers.relay import Relay
from publishers.tables import posts, reactions

from ..kit.outboxes import everything, said
from ..kit.refusals import HOSTILE


@pytest.fixture
def database(quick_database: Database) -> Database:
    return quick_database


@pytest.fixture
async def tech(database: Database) -> str:
    """A channel of u1's."""
    await create_channel(database, name="tech", owner="u1", title="Technology")
    return "tech"


async def rows_of(database: Database, target: str) -> list[str]:
    async with database.reading() as connection:
        return sorted((await connection.execute(select(reactions.c.user).where(reactions.c.target == target))).scalars())


async def test_each_step_of_a_posts_life_is_published_in_its_channel(database: Database, tech: str) -> None:
    before = now_ms()
    post = await create_post(database, channel=tech, author="u2", text="first")
    assert before <= post["created_at"] <= now_ms()
    first = {"channel": tech, "author": "u2", "text": "first", "edited_at": None, "reactions": {}}
    assert post == {"id": post["id"], "created_at": post["created_at"], **first}
    counts = await react(database, user="u3", target=f"post:{post['id']}", reaction="love")
    edited = await edit_post(database, post=post["id"], editor="u2", text="second")
    assert post["created_at"] <= edited["edited_at"] <= now_ms()
    assert edited == {**post, "text": "second", "edited_at": edited["edited_at"], "reactions": {"love": 1}}
    assert await list_posts(database, channel=tech) == [edited]
    assert await delete_post(database, post=post["id"], by="u2") is None
    assert await list_posts(database, channel=tech) == []
    assert await said(database, "posts:tech") == [
        {"type": "post.created", "post": post},
        {"type": "reaction", "target": f"post:{post['id']}", "user": "u3", "reaction": "love", "counts": counts},
        {"type": "post.edited", "post": edited},
        {"type": "post.deleted", "post": {"id": post["id"], "channel": tech}},
    ]


async def test_a_relayed_publication_arrives_in_the_live_channel_and_leaves_the_outbox(
    database: Database, tech: str, publisher: Publisher, relay: Relay
) -> None:
    post = await create_post(database, channel=tech, author="u2", text="text")
    await react(database, user="u2", target=f"post:{post['id']}", reaction="like")
    await delete_post(database, post=post["id"], by="u2")
    expected = await said(database, "posts:tech")
    assert await relay.drain() == 3
    page = await publisher.history.read("posts:tech", 0, -1)
    assert [json.loads(each.data) for each in page.publications] == expected
    assert await said(database, "posts:tech") == []


async def test_only_its_author_edits_a_post(database: Database, tech: str) -> None:
    post = await create_post(database, channel=tech, author="u2", text="text")
    before = await everything(database)
    for editor in ("u3", "u1", "U2"):  # u1 owns the channel
        with pytest.raises(NotAllowed, match=rf"^post {post['id']} is u2's: only they can edit it$"):
            await edit_post(database, post=post["id"], editor=editor, text="mine")
    assert await everything(database) == before


async def test_a_post_is_deleted_by_its_author_or_the_owner_of_its_channel(database: Database, tech: str) -> None:
    await create_channel(database, name="other", owner="u4")
    first, second = [(await create_post(database, channel=tech, author="u2", text="text"))["id"] for _ in range(2)]
    before = await everything(database)
    for stranger in ("u3", "u4"):  # u4 owns another channel
        with pytest.raises(NotAllowed, match=rf"^post {first} is u2's: only they and the channel's owner can delete it$"):
            await delete_post(database, post=first, by=stranger)
    assert await everything(database) == before
    await delete_post(database, post=first, by="u2")
    await delete_post(database, post=second, by="u1")
    assert await list_posts(database, channel=tech) == []


async def test_a_deleted_post_is_not_found_again_and_its_id_is_not_given_again(database: Database, tech: str) -> None:
    post = (await create_post(database, channel=tech, author="u2", text="text"))["id"]
    await delete_post(database, post=post, by="u2")
    before = await everything(database)
    gone = rf"^there is no post {post}$"
    with pytest.raises(NotFound, match=gone):
        await delete_post(database, post=post, by="u2")
    with pytest.raises(NotFound, match=gone):
        await edit_post(database, post=post, editor="u2", text="again")
    with pytest.raises(NotFound, match=gone):
        await react(database, user="u3", target=f"post:{post}", reaction="like")
    assert await everything(database) == before
    assert (await create_post(database, channel=tech, author="u2", text="text"))["id"] > post


async def test_deleting_a_post_removes_its_reactions_and_no_others(database: Database, tech: str) -> None:
    kept, gone = [(await create_post(database, channel=tech, author="u2", text="text"))["id"] for _ in range(2)]
    for user in ("u3", "u4"):
        for post in (kept, gone):
            await react(database, user=user, target=f"post:{post}", reaction="like")
    await delete_post(database, post=gone, by="u2")
    assert await rows_of(database, f"post:{gone}") == []
    assert await rows_of(database, f"post:{kept}") == ["u3", "u4"]
    assert (await list_posts(database, channel=tech))[0]["reactions"] == {"like": 2}


async def test_nothing_is_published_about_a_post_after_its_deletion(database: Database, tech: str) -> None:
    """Reactions and edits race with the deletion: each comes before it, or finds nothing."""
    post = (await create_post(database, channel=tech, author="u2", text="text"))["id"]
    reacting = [react(database, user=f"r{n}", target=f"post:{post}", reaction="like") for n in range(9)]
    editing = [edit_post(database, post=post, editor="u2", text=f"text {n}") for n in range(3)]
    racing = [*reacting[:4], *editing[:2], delete_post(database, post=post, by="u1"), *reacting[4:], *editing[2:]]
    outcomes = await asyncio.gather(*racing, return_exceptions=True)
    assert outcomes[6] is None
    assert {type(each) for each in outcomes} <= {dict, NotFound, type(None)}
    published = await said(database, "posts:tech")
    assert [each["type"] for each in published].index("post.deleted") == len(published) - 1
    assert len(published) == 2 + sum(isinstance(each, dict) for each in outcomes)
    assert await rows_of(database, f"post:{post}") == []


async def test_of_two_users_who_delete_a_post_at_once_one_does(database: Database, tech: str) -> None:
    post = (await create_post(database, channel=tech, author="u2", text="text"))["id"]
    outcomes = await asyncio.gather(*[delete_post(database, post=post, by=by) for by in ("u1", "u2", "u1")], return_exceptions=True)
    assert sorted(type(each).__name__ for each in outcomes) == ["NoneType", "NotFound", "NotFound"]
    assert [each["type"] for each in await said(database, "posts:tech")] == ["post.created", "post.deleted"]


async def test_the_last_published_edit_is_the_stored_one(database: Database, tech: str) -> None:
    post = (await create_post(database, channel=tech, author="u2", text="text"))["id"]
    await asyncio.gather(*[edit_post(database, post=post, editor="u2", text=f"text {n}") for n in range(10)])
    published = await said(database, "posts:tech")
    assert {each["post"]["text"] for each in published[1:]} == {f"text {n}" for n in range(10)}
    assert await list_posts(database, channel=tech) == [published[-1]["post"]]


# Channels.


async def test_a_channel_is_listed_with_its_title_and_its_owner(database: Database) -> None:
    plain = await create_channel(database, name="tech", owner="u1")
    assert plain == {"name": "tech", "owner": "u1", "title": "tech"}
    titled = await create_channel(database, name="café", owner="u2", title="  <b>Coffee</b>  ")
    assert titled == {"name": "café", "owner": "u2", "title": "<b>Coffee</b>"}
    listed = await list_channels(database)
    assert sorted(listed, key=lambda each: each["owner"]) == [plain, titled]


async def test_a_channel_name_can_be_taken_once(database: Database, tech: str) -> None:
    before = await everything(database)
    with pytest.raises(Invalid, match=r"^there is a channel 'tech' already$"):
        await create_channel(database, name=tech, owner="u2", title="mine")
    assert await everything(database) == before


async def test_of_many_users_who_create_a_channel_at_once_one_does(database: Database) -> None:
    owners = [f"u{n}" for n in range(8)]
    outcomes = await asyncio.gather(*[create_channel(database, name="tech", owner=owner) for owner in owners], return_exceptions=True)
    created = [each for each in outcomes if isinstance(each, dict)]
    refused = [each for each in outcomes if isinstance(each, Invalid) and str(each) == "there is a channel 'tech' already"]
    assert (len(created), len(refused)) == (1, 7), outcomes
    assert await list_channels(database) == created


async def test_a_post_needs_a_channel(database: Database, tech: str) -> None:
    before = await everything(database)
    with pytest.raises(NotFound, match=r"^there is no channel 'Tech'$"):
        await create_post(database, channel="Tech", author="u2", text="text")
    assert await everything(database) == before


# Pages.


async def test_posts_are_listed_in_pages_newest_first(database: Database, tech: str) -> None:
    await create_channel(database, name="other", owner="u1")
    ids = []
    for n in range(7):
        ids.append((await create_post(database, channel=tech, author="u2", text=f"text {n}"))["id"])
        await create_post(database, channel="other", author="u2", text="not this one")
    pages, before = [], 0
    while len(pages) < 9 and (page := await list_posts(database, channel=tech, before=before, limit=3)):
        pages.append([post["id"] for post in page])
        before = page[-1]["id"]
    newest = ids[::-1]
    assert pages == [newest[:3], newest[3:6], newest[6:]]
    assert [post["text"] for post in await list_posts(database, channel=tech)] == [f"text {n}" for n in range(6, -1, -1)]


async def test_a_page_of_posts_holds_at_most_200(database: Database, tech: str) -> None:
    row = {"channel": tech, "author": "u2", "text": "text", "created_at": 1, "counts": "{}"}
    async with database.transaction() as transaction:
        await transaction.execute(insert(posts), [row] * 205)
    assert len(await list_posts(database, channel=tech)) == 30
    assert len(await list_posts(database, channel=tech, limit=10**6)) == 200


# As part of a transaction of one's own.


async def test_posts_are_part_of_a_transaction_of_ones_own(database: Database) -> None:
    async with database.transaction() as transaction:
        await create_channel(transaction, name="tech", owner="u1")
        kept = await create_post(transaction, channel="tech", author="u2", text="kept")
        gone = await create_post(transaction, channel="tech", author="u2", text="gone")
        transaction.publish("posts:tech", "something of one's own")
        kept = await edit_post(transaction, post=kept["id"], editor="u2", text="kept and edited")
        await react(transaction, user="u3", target=f"post:{gone['id']}", reaction="like")
        await delete_post(transaction, post=gone["id"], by="u1")
        assert await list_posts(database, channel="tech") == [], "nobody sees it before it is committed"
    assert await list_posts(database, channel="tech") == [kept]
    published = [each if isinstance(each, str) else each["type"] for each in await said(database, "posts:tech")]
    assert published == ["post.created", "post.created", "something of one's own", "post.edited", "reaction", "post.deleted"]
    assert await rows_of(database, f"post:{gone['id']}") == []


async def test_posts_are_undone_with_the_transaction_they_are_part_of(database: Database, tech: str) -> None:
    post = await create_post(database, channel=tech, author="u2", text="text")
    await react(database, user="u3", target=f"post:{post['id']}", reaction="like")
    before = await everything(database)
    with pytest.raises(ZeroDivisionError):
        async with database.transaction() as transaction:
            await create_channel(transaction, name="other", owner="u1")
            await create_post(transaction, channel="other", author="u2", text="text")
            await edit_post(transaction, post=post["id"], editor="u2", text="edited")
            await react(transaction, user="u4", target=f"post:{post['id']}", reaction="like")
            await delete_post(transaction, post=post["id"], by="u2")
            raise ZeroDivisionError
    assert await everything(database) == before


async def test_a_refusal_leaves_the_rest_of_the_transaction_as_it_is(database: Database, tech: str) -> None:
    async with database.transaction() as transaction:
        post = await create_post(transaction, channel=tech, author="u2", text="text")
        for refused in (
            create_channel(transaction, name=tech, owner="u2"),
            create_post(transaction, channel="nowhere", author="u2", text="text"),
            edit_post(transaction, post=post["id"], editor="u3", text="mine"),
            edit_post(transaction, post=post["id"], editor="u2", text=""),
            delete_post(transaction, post=404, by="u2"),
        ):
            with pytest.raises(Fault):
                await refused
        edited = await edit_post(transaction, post=post["id"], editor="u2", text="edited")
    assert await list_posts(database, channel=tech) == [edited]
    assert [each["type"] for each in await said(database, "posts:tech")] == ["post.created", "post.edited"]


# Arguments.


async def test_markup_and_emoji_come_through_as_they_are(database: Database, tech: str, publisher: Publisher, relay: Relay) -> None:
    for hostile in HOSTILE:
        post = await create_post(database, channel=tech, author="<i>u2</i>", text=hostile)
        assert post["text"] == hostile
        assert (await edit_post(database, post=post["id"], editor="<i>u2</i>", text=f"{hostile}!"))["text"] == f"{hostile}!"
    assert [post["text"] for post in await list_posts(database, channel=tech)] == [f"{text}!" for text in HOSTILE[::-1]]
    await relay.drain()
    page = await publisher.history.read("posts:tech", 0, -1)
    published = [json.loads(each.data)["post"] for each in page.publications]
    assert [each["text"] for each in published] == [f"{text}{mark}" for text in HOSTILE for mark in ("", "!")]
    assert {each["author"] for each in published} == {"<i>u2</i>"}


async def test_a_text_loses_the_blanks_around_it_and_no_more(database: Database, tech: str) -> None:
    longest = "👋" * 10_000
    for given, kept in (("  a  b \n", "a  b"), ("a\r\nb", "a\nb"), (f"\n{longest} ", longest)):
        assert (await create_post(database, channel=tech, author="u2", text=given))["text"] == kept


async def test_the_longest_names_fit(database: Database) -> None:
    name, owner = "ü" * 100, "🦊" * 100
    await create_channel(database, name=name, owner=owner, title="é" * 100)
    post = await create_post(database, channel=name, author=owner, text="text")
    assert await list_posts(database, channel=name) == [post]
