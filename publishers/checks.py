"""What a publisher is given, checked before anything is sent: each mistake raises an error with a sentence that names it.

Valkey and the clients would find most of it, but later, elsewhere, or not at all: JSON has no NaN, and an encoder that writes
``null`` in its place changes what was published.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Unpack

import msgspec

from gateway.errors import BadRequest
from gateway.rules.json_text import MAX_DEPTH, is_json, mend_surrogates
from gateway.rules.notifications import channel_of, notification_id
from gateway.store.layout import PublishOptions

__all__ = ["check_options", "inbox_of", "json_of", "notification_json", "raw_json_of"]

_TEXTS = ("idempotency_key", "version_epoch")
_NUMBERS = {"version": "a whole number", "size": "a whole number of publications", "ttl": "a whole number of seconds"}


def json_of(data: Any, what: str = "the data") -> bytes:
    """``data`` as JSON. Raises TypeError for what JSON does not have, ValueError for NaN, infinity and nesting that is too deep."""
    try:
        text = msgspec.json.encode(data)
    except RecursionError:
        raise ValueError(f"{what} is nested too deep") from None
    except TypeError as error:
        raise TypeError(f"{what} is not JSON: {error}") from None
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH and not is_json(text):
        raise ValueError(f"{what} is nested too deep")
    if b"null" in text:  # the encoder's form of NaN, of infinity, and of None
        _refuse_no_number(msgspec.to_builtins(data), what)
    return text


def _refuse_no_number(value: Any, what: str) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{what} holds {value}, which JSON does not have; publish None or a text instead")
    if isinstance(value, dict):
        value = value.values()
    elif not isinstance(value, list | tuple):
        return
    for each in value:
        _refuse_no_number(each, what)


def raw_json_of(data: Any) -> bytes:
    """``data``, which is JSON text already. Raises TypeError for what is no text, ValueError for text that is not JSON."""
    if not isinstance(data, str | bytes):
        raise TypeError(f"with raw=True the data is JSON text, str or bytes, not {_kind(data)}")
    text = data.encode() if isinstance(data, str) else data
    if not is_json(mend_surrogates(text)):
        raise ValueError(f"with raw=True the data is JSON text, which {text[:60]!r} is not")
    return text


def check_options(**options: Unpack[PublishOptions]) -> None:
    """Raises TypeError for an option of the wrong type; an unknown option is ``publish_words``' to refuse."""
    given: Mapping[str, Any] = options
    for name, value in given.items():
        if value is None:
            continue
        if name in _TEXTS:
            if not isinstance(value, str):
                raise TypeError(f"{name} is a text, not {_kind(value)}")
        elif name in _NUMBERS:
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} is {_NUMBERS[name]}, not {_kind(value)}")
        elif not isinstance(value, bytes):
            _check_object(name, value)


def _check_object(name: str, value: Any) -> None:
    """``tags`` or ``info``."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} is a mapping that becomes a JSON object, not {_kind(value)}")
    if name == "info":
        json_of(value, "info")
        return
    for tag, text in value.items():
        if not (isinstance(tag, str) and isinstance(text, str)):
            raise TypeError(f"tags are texts, but {tag!r}: {text!r} is among them")


def inbox_of(user: Any) -> str:
    """The channel of a user's inbox. Raises TypeError for what is no text, ValueError for an id that no inbox can belong to."""
    if not isinstance(user, str):
        raise TypeError(f"the user is a text, not {_kind(user)}")
    return channel_of(user)


def notification_json(user: Any, notification: Any) -> tuple[str, bytes]:
    """The user's inbox, and the notification as JSON. Raises TypeError for a user that is no text, ValueError for what cannot be an inbox's."""
    channel = inbox_of(user)
    data = json_of(notification, "the notification")
    try:
        notification_id(data)
    except BadRequest as error:
        raise ValueError(error.hint) from None
    return channel, data


def _kind(value: Any) -> str:
    return f"{value!r:.60} ({type(value).__name__})"
