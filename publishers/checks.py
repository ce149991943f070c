"""What a publisher is given, checked before anything is sent: each mistake raises an error with a sentence that names it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from gateway.errors import BadRequest
from gateway.rules.json_text import is_json, mend_surrogates
from gateway.rules.json_values import json_of, kind_of
from gateway.rules.notifications import channel_of, notification_id
from gateway.store.layout import PublishOptions

__all__ = ["check_options", "document_of", "inbox_of", "notification_json"]

_TEXTS = ("idempotency_key", "version_epoch")
_NUMBERS = {"version": "a whole number", "size": "a whole number of publications", "ttl": "a whole number of seconds"}


def document_of(data: Any, what: str = "the data") -> bytes:
    """``data`` as a JSON document. Raises TypeError or ValueError as ``json_of``, and for a msgspec.Raw, anywhere in it, that holds no JSON.

    What Valkey would refuse is found here: in an outbox it would hold up all that follows it. So halves of surrogate pairs, which a browser's
    JSON may have, are mended.
    """
    text = json_of(data, what)
    if is_json(text):
        return text
    mended = mend_surrogates(text)
    if not is_json(mended):
        raise ValueError(f"{what} holds a msgspec.Raw that is not JSON: {text[:60]!r}")
    return mended


def check_options(**options: Unpack[PublishOptions]) -> None:
    """Raises TypeError for an option of the wrong type, ValueError for an empty key and for a number past 64 bits; an unknown option is ``publish_words``' to refuse."""
    given: Mapping[str, Any] = options
    for name, value in given.items():
        if value is None:
            continue
        if name in _TEXTS:
            if not isinstance(value, str):
                raise TypeError(f"{name} is a text, not {kind_of(value)}")
            if name == "idempotency_key" and not value:
                raise ValueError("idempotency_key is empty, so each publication would be a repeat of the first: give it a text, or None")
        elif name in _NUMBERS:
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} is {_NUMBERS[name]}, not {kind_of(value)}")
            if not -(2**63) <= value < 2**64:  # libvalkey ends the process at a number that Python does not write, of more than 4300 digits
                raise ValueError(f"{name} is {_NUMBERS[name]}, of at most 64 bits")
        elif not isinstance(value, bytes):
            _check_object(name, value)


def _check_object(name: str, value: Any) -> None:
    """``tags`` or ``info``."""
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} is a mapping that becomes a JSON object, not {kind_of(value)}")
    if name == "info":
        json_of(value, "info")
        return
    for tag, text in value.items():
        if not (isinstance(tag, str) and isinstance(text, str)):
            raise TypeError(f"tags are texts, but {tag!r}: {text!r} is among them")


def inbox_of(user: Any) -> str:
    """The channel of a user's inbox. Raises TypeError for what is no text, ValueError for an id that no inbox can belong to."""
    if not isinstance(user, str):
        raise TypeError(f"the user is a text, not {kind_of(user)}")
    return channel_of(user)


def notification_json(user: Any, notification: Any) -> tuple[str, bytes]:
    """The user's inbox, and the notification as JSON. Raises TypeError for a user that is no text, ValueError for what cannot be an inbox's."""
    channel = inbox_of(user)
    data = document_of(notification, "the notification")
    try:
        notification_id(data)
    except BadRequest as error:
        raise ValueError(error.hint) from None
    return channel, data
