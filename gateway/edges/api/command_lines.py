"""The older form of the server API, ``POST /api``: one command a line. Libraries send it that date from before each method had a path of its own
(gocent before version 4, and those of Ruby and PHP of that time).

    {"method": "publish", "params": {"channel": "posts:tech", "data": 1}}
    {"method": "info", "params": {}}

The answer has a line for each: its ``result`` or its ``error``, and its ``id`` where it has one.
"""

from __future__ import annotations

import msgspec

from ...errors import ClientError
from ...rules.json_text import UNREADABLE, decode_json, mend_surrogates, raw_object
from ...rules.protocol import error_json
from ...session.node import Node
from .methods import METHODS, in_order
from .outcomes import Malformed, Outcome

__all__ = ["NotFound", "answer_lines"]


class NotFound(ClientError):
    """The server API has no such method."""

    code, message = 104, "not found"


class _Command(msgspec.Struct):
    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")
    id: int = 0


_read_lines = msgspec.json.Decoder(_Command).decode_lines


async def answer_lines(node: Node, body: bytes) -> bytes:
    """Carries out the commands, one after the other, and returns the lines of the answer. Raises Malformed, and then no command was carried out."""
    commands = [(command.method.lower(), command) for command in _read(body)]
    known = [(name, _params(command)) for name, command in commands if name in METHODS]
    outcomes = iter(await in_order(node, known))
    return b"\n".join([_line(command, next(outcomes) if name in METHODS else _unknown(name)) for name, command in commands])


def _read(body: bytes) -> list[_Command]:
    try:
        return [decode_json(body, _Command)]  # which may be on several lines
    except UNREADABLE:
        return _lines(body)


def _lines(body: bytes) -> list[_Command]:
    try:
        commands = _read_lines(mend_surrogates(body))
    except UNREADABLE as error:
        raise Malformed(str(error)) from None
    if not commands:
        raise Malformed("it is empty")
    return commands


def _params(command: _Command) -> bytes:
    params = bytes(command.params)
    return params if params != b"null" else b"{}"


def _unknown(name: str) -> Outcome:
    return b"", error_json(NotFound(f"there is no method {name[:60]!r}"))


def _line(command: _Command, outcome: Outcome) -> bytes:
    result, error = outcome
    numbered = {"id": b"%d" % command.id} if command.id else {}
    return raw_object(numbered | ({"result": result} if error is None else {"error": error}))
