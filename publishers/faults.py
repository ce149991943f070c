"""The errors that posts, reviews, reactions and orders raise, with messages for people, and the checks of arguments that they share.

Fault
├── Invalid      an argument is impossible: a ValueError
├── NotFound     the post, review, channel or order does not exist, or does not any more: a LookupError
├── NotAllowed   it belongs to another user: a PermissionError
└── Conflict     the state that it is in does not allow it
"""

from __future__ import annotations

import re
from typing import Any

from gateway.publication import channel_fault
from gateway.rules.notifications import channel_of

__all__ = [
    "Conflict",
    "Fault",
    "Invalid",
    "NotAllowed",
    "NotFound",
    "checked_choice",
    "checked_id",
    "checked_name",
    "checked_page",
    "checked_text",
    "checked_user",
]

TEXT_MOST = 10_000  # characters
NAME_MOST = 100
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


class Fault(Exception):
    """The root of these errors."""


class Invalid(Fault, ValueError):
    """An argument is impossible; the message says which and why."""


class NotFound(Fault, LookupError):
    """There is no such post, review, channel or order."""


class NotAllowed(Fault, PermissionError):
    """It belongs to another user, who alone may do this."""


class Conflict(Fault):
    """The state that it is in does not allow this, as an order that is shipped cannot be cancelled."""


def checked_text(text: Any, what: str = "text", most: int = TEXT_MOST) -> str:
    """The text without blanks around it. Raises Invalid.

    Markup is not removed: a page that shows the text must show it as text.
    """
    if not isinstance(text, str):
        raise Invalid(f"the {what} is a text, not {type(text).__name__}")
    stripped = text.replace("\r\n", "\n").strip()
    if not stripped:
        raise Invalid(f"the {what} is empty")
    if len(stripped) > most:
        raise Invalid(f"the {what} has {len(stripped)} characters; at most {most} are taken")
    if _CONTROL.search(stripped):
        raise Invalid(f"the {what} holds a control character or half a surrogate pair")
    return stripped


def checked_name(name: Any, what: str) -> str:
    """A name that is part of a channel's name, as ``tech`` in ``posts:tech``. Raises Invalid."""
    if not isinstance(name, str):
        raise Invalid(f"the {what} is a text, not {type(name).__name__}")
    fault = channel_fault(name) or (f"a {what} has at most {NAME_MOST} characters" if len(name) > NAME_MOST else "")
    if fault or "#" in name or name != name.strip():
        raise Invalid(fault.replace("the channel", f"the {what}") or f"a {what} has no # and no blanks around it")
    return name


def checked_user(user: Any, what: str = "user") -> str:
    """A user's id, which is part of the name of their inbox. Raises Invalid."""
    name = checked_name(user, what)
    try:
        channel_of(name)
    except ValueError as error:
        raise Invalid(f"the {what}: {error}") from None
    return name


def checked_id(id: Any, what: str) -> int:
    """The id of a row. Raises Invalid for what is no whole number, NotFound for one that no row can have."""
    if isinstance(id, bool) or not isinstance(id, int):
        raise Invalid(f"the id of a {what} is a whole number, not {_short(id)}")
    if not 0 < id < 2**63:
        raise NotFound(f"there is no {what} {_short(id)}")
    return id


def checked_choice(value: Any, choices: tuple[Any, ...], what: str) -> Any:
    """``value``, which is one of ``choices`` and of their type: True is not 1. Raises Invalid."""
    if type(value) not in {type(choice) for choice in choices} or value not in choices:
        raise Invalid(f"the {what} is one of {', '.join(map(str, choices))}, not {_short(value)}")
    return value


def checked_page(before: Any, limit: Any, most: int) -> tuple[int, int]:
    """The id before which a page ends, 0 for the newest page, and how many rows are on it, at most ``most``. Raises Invalid."""
    for name, value in (("before", before), ("limit", limit)):
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
            raise Invalid(f"{name} is a whole number from 0, not {_short(value)}")
    return before, min(limit, most)


def _short(value: Any) -> str:
    try:
        return f"{value!r:.60}"
    except ValueError:  # a number of thousands of digits, which Python does not write
        return "so large a number"
