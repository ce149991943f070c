"""What the publishers' functions refuse: tables of wrong arguments, each with its error and the words of its message.

failures    tries a whole table on one function; nothing of it may be written
HOSTILE     texts that are fine, and dangerous where they are not quoted
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from publishers.database import Database
from publishers.faults import Fault, Invalid, NotFound

from .outboxes import everything

__all__ = ["HOSTILE", "NOT_TEXTS", "Refusal", "bad_ids", "bad_names", "bad_pages", "bad_texts", "failures"]

Refusal = tuple[Any, type[Fault], str]  # what is given, what it raises, words of its message
NOT_TEXTS = [None, 0, 17, True, 1.5, b"text", ["text"], {"text": "text"}]
CONTROL = ["a\x00b", "a\x07b", "\x1b[31mred", "a\x7fb", "a\x9fb", "half a pair \ud83d", "\udc00 the other half"]
BLANKS = [" ", "\n\t ", "　\u00a0"]


def bad_texts(what: str = "text", most: int = 10_000) -> list[Refusal]:
    return [
        *((value, Invalid, f"the {what} is a text, not {type(value).__name__}") for value in NOT_TEXTS),
        *((value, Invalid, f"the {what} is empty") for value in ("", *BLANKS)),
        *((value, Invalid, f"the {what} holds a control character or half a surrogate pair") for value in (*CONTROL, "a\rb")),
        *(("é" * size, Invalid, f"the {what} has {size} characters; at most {most} are taken") for size in (most + 1, 102_400)),
    ]


def bad_names(what: str) -> list[Refusal]:
    return [
        *((value, Invalid, f"the {what} is a text, not {type(value).__name__}") for value in NOT_TEXTS),
        ("", Invalid, f"the {what} has no name"),
        *((value, Invalid, f"a {what} has no # and no blanks around it") for value in (*BLANKS[::2], " a", "a ", "a#b", "#")),
        *(
            (value, Invalid, f"the {what}'s name holds a brace, a control character or half a surrogate pair")
            for value in (*CONTROL, "{a", "a}", "a\nb", "a\n")
        ),
        ("x" * 101, Invalid, f"a {what} has at most 100 characters"),
        ("x" * 102_400, Invalid, f"the {what}'s name is longer than 255 characters"),
    ]


def bad_ids(what: str) -> list[Refusal]:
    not_numbers = [None, True, False, "1", "", 1.0, float("nan"), b"1", [1], {"id": 1}, "x" * 102_400]
    return [
        *((value, Invalid, f"the id of a {what} is a whole number, not ") for value in not_numbers),
        *((value, NotFound, f"there is no {what} {value}") for value in (0, -1, -(2**63), 404, 2**63 - 1, 2**63, 2**64, 10**30)),
    ]


async def failures(database: Database, call: Callable[[Any], Awaitable[Any]], table: Iterable[Refusal]) -> list[str]:
    """Describes each case that was not refused as the table asks; [] if all were. A message is one short line, and nothing is written."""
    wrong, before = [], await everything(database)
    for value, kind, words in table:
        try:
            outcome: Any = await call(value)
        except Exception as error:
            outcome = error
        right = type(outcome) is kind and str(outcome).startswith(words) and "\n" not in str(outcome) and len(str(outcome)) < 200
        if not right:
            wrong.append(f"{value!r:.40}: {outcome!r:.200}, not {kind.__name__}({words!r})")
    if await everything(database) != before:
        wrong.append("something was written")
    return wrong


HOSTILE = [
    "<script>alert('x')</script>",
    '<img src=x onerror="alert(1)">',
    "</textarea><svg/onload=alert(1)>&lt;b&gt; &amp;amp; {{7*7}} ${7*7} %s %00",
    "'; DROP TABLE posts; -- \\' \\\" \\u0000",
    "👩‍👩‍👧‍👦 🇩🇪 e\u0301 \u202eright to left\u202c \u2028 \ufeff zero\u200bwidth",
    "first line\n\n\tthird line",
]


def bad_pages() -> list[tuple[str, Any]]:
    not_numbers = [None, "1", True, 1.5, [1], -1]
    return [*(("before", value) for value in (*not_numbers, 2**63)), *(("limit", value) for value in not_numbers)]
