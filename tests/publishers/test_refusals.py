"""What the functions of publishers refuse: each wrong argument by itself, with its error and its words, and nothing is written."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from publishers.database import Database
from publishers.faults import Fault, Invalid, NotFound
from publishers.posts import create_channel, create_post, delete_post, edit_post, list_posts
from publishers.reactions import Reactions, my_reactions, react
from publishers.reviews import create_review, list_reviews, respond

from ..kit.refusals import NOT_TEXTS, Refusal, bad_ids, bad_names, bad_pages, bad_texts, failures

Call = Callable[..., Awaitable[Any]]


async def shared_react(database: Database, **given: Any) -> Any:
    return await Reactions(database).react(**given)


REACTION = {"user": "u2", "target": "review:1", "reaction": "like"}
GOOD: dict[Call, dict[str, Any]] = {  # where u1 has the channel "tech", the post 1 in it, and the review 1
    create_channel: {"name": "a", "owner": "u1"},
    create_post: {"channel": "tech", "author": "u1", "text": "text"},
    edit_post: {"post": 1, "editor": "u1", "text": "new"},
    delete_post: {"post": 1, "by": "u1"},
    list_posts: {"channel": "tech"},
    create_review: {"subject": "r42", "author": "u1", "rating": 4, "text": "text"},
    respond: {"review": 1, "author": "u2", "text": "text"},
    list_reviews: {"subject": "r42"},
    react: REACTION,
    shared_react: REACTION,
    my_reactions: {"user": "u2", "targets": ["review:1"]},
}


def invalid(values: Iterable[Any], words: str = "") -> list[Refusal]:
    return [(value, Invalid, words) for value in values]


def any_words(table: Iterable[Refusal]) -> list[Refusal]:
    return invalid(value for value, *_ in table)


def bad_targets() -> list[Refusal]:
    odd = ["", ":", "review", "review:", ":1", "post1", "posts:1", "Review:1", " post:1", "post:1 ", "post: 1", "post:1\n", "post:1:2"]
    odd += ["review:0012", "review:-1", "review:+1", "review:1e3", "review:1.0", "review:0x1", "review:1_0", "post:١", "post:²", "post:１"]
    odd += ["review:00", "post:\ud800", "\x00post:1", "post:1\x00", "{post}:1", "post:" + "9" * 102_400, "x" * 102_400]
    missing = [f"{kind}:{id}" for kind in ("review", "post") for id in ("0", "404", 2**63 - 1, 2**63, "9" * 18, "9" * 19, "9" * 30)]
    return [
        *((value, Invalid, f"the target is a text, not {type(value).__name__}") for value in NOT_TEXTS),
        *((value, Invalid, f"a target is post:ID or review:ID, not {value[:60]!r}") for value in odd),
        *((value, NotFound, f"there is no {value.replace(':', ' ')}") for value in missing),
    ]


CHANNELS, USERS = bad_names("channel"), bad_names("user")
# A channel without a title has its name for one.
TITLES = [each for each in bad_texts("title", 100) if each[0]] + invalid((None, 0, False, b"", [], {}), "the title is a text")
NOT_RATINGS = [0, 6, -1, 2**63, 10**30, True, False, "5", None, 4.5, 5.0, b"4", [4], {}, "x" * 102_400]
NOT_REACTIONS = [
    "",
    " ",
    "Like",
    "like ",
    "likes",
    "👍",
    "like\x00",
    "\ud800",
    "x" * 102_400,
    0,
    True,
    False,
    b"like",
    ["like"],
    {"like": 1},
]
NOT_TARGETS = [None, 1, "post:1", b"post:1", [None], [1], [["post:1"]], ["a\x00"], ["\ud800"], ["nonsense"], ["post:1"] * 40_000]
REACTIONS = invalid(NOT_REACTIONS, "the reaction is one of like, love, laugh, wow, sad, not ")
BEFORE, LIMITS = (invalid(value for name, value in bad_pages() if name == wanted) for wanted in ("before", "limit"))

REFUSED: list[tuple[Call, str, list[Refusal]]] = [
    (create_channel, "name", [*CHANNELS, ("a:b", Invalid, "a channel's name has no colon")]),
    (create_channel, "owner", bad_names("owner")),
    (create_channel, "title", TITLES),
    (create_post, "channel", [*CHANNELS, ("a:b", NotFound, "there is no channel 'a:b'")]),
    (create_post, "author", bad_names("author")),
    (create_post, "text", bad_texts()),
    (edit_post, "post", bad_ids("post")),
    (edit_post, "editor", bad_names("editor")),
    (edit_post, "text", bad_texts()),
    (delete_post, "post", bad_ids("post")),
    (delete_post, "by", USERS),
    (list_posts, "channel", any_words(CHANNELS)),
    (list_posts, "before", BEFORE),
    (list_posts, "limit", LIMITS),
    (create_review, "subject", bad_names("subject")),
    (create_review, "author", bad_names("author")),
    (create_review, "rating", invalid(NOT_RATINGS, "the rating is one of 1, 2, 3, 4, 5, not ")),
    (create_review, "text", bad_texts()),
    (respond, "review", bad_ids("review")),
    (respond, "author", bad_names("author")),
    (respond, "text", bad_texts()),
    (list_reviews, "subject", any_words(bad_names("subject"))),
    (list_reviews, "before", BEFORE),
    (list_reviews, "limit", LIMITS),
    *((call, name, table) for call in (react, shared_react) for name, table in (("user", USERS), ("target", bad_targets()))),
    *((call, "reaction", REACTIONS) for call in (react, shared_react)),
    (my_reactions, "user", any_words(USERS)),
    (my_reactions, "targets", invalid(NOT_TARGETS)),
]


@pytest.fixture
async def database(quick_database: Database) -> Database:
    await create_channel(quick_database, name="tech", owner="u1")
    await create_post(quick_database, channel="tech", author="u1", text="text")
    await create_review(quick_database, subject="r42", author="u1", rating=4, text="Good soup")
    return quick_database


@pytest.mark.parametrize("call, name, table", REFUSED, ids=[f"{call.__name__} {name}" for call, name, _ in REFUSED])
async def test_a_wrong_argument_is_refused_and_writes_nothing(database: Database, call: Call, name: str, table: list[Refusal]) -> None:
    good = GOOD[call]
    assert await failures(database, lambda value: call(database, **{**good, name: value}), table) == []
    await call(database, **good)


async def test_a_number_of_any_size_is_refused_in_few_words(database: Database) -> None:
    for number in (10**5000, -(10**5000)):
        with pytest.raises(NotFound, match=r"^there is no post"):
            await edit_post(database, post=number, editor="u1", text="text")
        with pytest.raises(Fault):
            await create_review(database, subject="r42", author="u1", rating=number, text="text")
