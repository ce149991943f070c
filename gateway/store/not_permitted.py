"""Valkey refuses a command because of the user's rights: how that is recognized, and what people read about it.

Valkey and Redis word it differently, and differently again where a function of the library runs the command.
"""

from __future__ import annotations

import logging
import re
import time
from typing import Any, Literal

from ..errors import NotPermitted, StoreError

__all__ = ["Lacking", "for_people", "lacking", "name_of", "not_permitted"]

log = logging.getLogger("gateway.rights")

AGAIN_SECONDS = 60.0  # until the same refusal is logged again
LOGGED_MOST = 1000  # refusals that are remembered as logged

Lacking = Literal["command", "key", "channel"]

_LACKING: tuple[tuple[Lacking, re.Pattern[str]], ...] = (
    ("command", re.compile(r"permissions to run the|can't run this command")),
    ("key", re.compile(r"access (?:a key|(?:at least )?one of the keys)")),
    ("channel", re.compile(r"access (?:a channel|one of the channels)|can't publish to the channel")),
)
_FROM_A_FUNCTION = ("ACL failure in script", "The user executing the script can't")
_FAMILIES = ("FCALL", "FUNCTION", "CLIENT", "CLUSTER", "MEMORY", "XINFO")
_AROUND = re.compile(r"^NOPERM |^ERR |ACL failure in script: | script: .*$")

_logged: dict[str, float] = {}


def lacking(text: str) -> Lacking | None:
    """What the user lacks by Valkey's error reply: the right to run the command, or to use a key or a channel. None for any other error."""
    if not text.startswith("NOPERM") and not any(sign in text for sign in _FROM_A_FUNCTION):
        return None
    return next((kind for kind, sign in _LACKING if sign.search(text)), "command")


def not_permitted(text: str, command: str, user: str) -> NotPermitted:
    """The error for people: ``command`` was refused to ``user`` with Valkey's error reply ``text``."""
    reason = _AROUND.sub("", text)
    return NotPermitted(f'Valkey refuses {command} to its user {user!r} ({reason}); "gateway check" names each right that is missing')


def for_people(error: StoreError, packed: bytes, user: str) -> StoreError:
    """The error itself; or, if ``user`` lacks the right to the command that ``packed`` is as it was sent, one that people understand.

    That is logged as well, since many callers try again in silence.
    """
    if not lacking(str(error)):
        return error
    refused = not_permitted(str(error), name_of(*packed.split(b"\r\n", 5)[2:5:2]), user)
    _log_once(refused)
    return refused


def name_of(*words: Any) -> str:
    """The name of a command, of which these are the words: with the second one where that says more."""
    first, *rest = (word.decode(errors="replace") if isinstance(word, bytes) else str(word) for word in words[:2])
    return f"{first.upper()} {rest[0]}" if rest and first.upper() in _FAMILIES else first.upper()


def _log_once(error: NotPermitted) -> None:
    """Logs a refusal, unless the same one was logged within AGAIN_SECONDS: what is refused is tried again and again."""
    text, now = str(error), time.monotonic()
    if now - _logged.get(text, float("-inf")) < AGAIN_SECONDS:
        return
    if len(_logged) >= LOGGED_MOST:
        _logged.clear()
    _logged[text] = now
    log.error("%s", text)
