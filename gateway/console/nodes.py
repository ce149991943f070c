"""The processes of all machines: what each of them is, and the last lines of its log; draining one of them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from ..edges.api.requests import Shape
from ..errors import NotAvailable, StoreError
from ..rules.json_text import decode_json, encode
from ..session.drain import begin_drain, end_drain
from .caller import Caller, Console, Empty, answers_of, read_method, write_method
from .live_figures import link_of
from .log_lines import Line

__all__ = ["ANSWERS", "METHODS"]

LINES_MOST = 200
LINES_BYTES = 256 * 1024  # of the text in one process's answer


class NodeRequest(Shape):
    """``node`` is the uid of a process."""

    node: str


class LogRequest(Shape):
    """Lines of this ``level`` or above that were written after ``after``, unix ms."""

    level: Literal["debug", "info", "warning", "error"] = "debug"
    after: float = 0
    limit: Annotated[int, Meta(ge=1, le=LINES_MOST)] = LINES_MOST


class _Logged(Struct):
    """A process's answer about its log."""

    node: str
    name: str
    lines: list[Line]


class _Drained(Struct):
    """A process's answer to an order to drain, or to end it: ``fault`` is why it does not, "" if it does."""

    fault: str


async def _nodes(caller: Caller, request: Empty) -> bytes:
    """The processes. ``warning`` says if some do not answer; while Valkey is away this one answers alone."""
    try:
        caller.console.require_others()
        expected = len(await caller.node.control.living())
        found = await answers_of(caller, "nodes", dict[str, Any])
    except StoreError as error:
        own = decode_json(_node(caller.console, ""), dict[str, Any])
        return encode({"nodes": [own], "warning": f"the other processes cannot be asked: {error}"})
    ordered = sorted(found, key=lambda node: (str(node.get("name")), str(node.get("uid"))))
    missing = expected - len(found)
    warning = f"{missing} of {expected} processes did not answer: they are of an older version, or hang, or have just ended"
    return encode({"nodes": ordered, **({"warning": warning} if missing > 0 else {})})


def _node(console: Console, pattern: str) -> bytes:
    info: dict[str, Any] = console.orders.info()
    measured = console.measured
    return encode(
        {
            **{name: info[name] for name in ("uid", "name", "version", "uptime")},
            **{name: info[f"num_{name}"] for name in ("clients", "users", "channels", "subs")},
            "cpu": info["process"]["cpu"],
            "rss": info["process"]["rss"],
            "draining": console.node.admission.draining,
            "link": link_of(measured),
            "ready": measured.unready(),
        }
    )


async def _drain(caller: Caller, request: NodeRequest) -> bytes:
    """That process sends its clients elsewhere, and admits none."""
    return await _ordered(caller, "drain", request)


async def _undrain(caller: Caller, request: NodeRequest) -> bytes:
    """That process admits clients again."""
    return await _ordered(caller, "undrain", request)


async def _ordered(caller: Caller, question: str, request: NodeRequest) -> bytes:
    answers = await answers_of(caller, question, _Drained, request)
    if not answers:
        raise NotAvailable(f"no process {request.node[:60]!r} answered")
    if fault := answers[0].fault:
        raise NotAvailable(fault)
    return b"{}"


def _answer_drain(console: Console, pattern: str) -> bytes:
    if not _is_meant(console, pattern):
        return b"null"
    begin_drain(console.node)
    return encode(_Drained(""))


def _answer_undrain(console: Console, pattern: str) -> bytes:
    if not _is_meant(console, pattern):
        return b"null"
    return encode(_Drained(end_drain(console.node)))


def _is_meant(console: Console, pattern: str) -> bool:
    return decode_json(pattern.encode(), NodeRequest).node == console.node.uid


async def _log(caller: Caller, request: LogRequest) -> bytes:
    """The newest lines of all processes' logs, oldest first."""
    answers = await answers_of(caller, "log", _Logged, request)
    lines = [(line.ms, each.node, line.seq, each.name, line) for each in answers for line in each.lines]
    newest = sorted(lines, key=lambda entry: entry[:3])[-request.limit :]
    return encode({"lines": [_shown(node, name, line) for _, node, _, name, line in newest]})


def _shown(node: str, name: str, line: Line) -> dict[str, object]:
    return {"node": node, "name": name, "seq": line.seq, "ms": line.ms, "level": line.level, "logger": line.logger, "text": line.text}


def _logged(console: Console, pattern: str) -> bytes:
    asked = decode_json(pattern.encode(), LogRequest)
    lines = console.lines.newest(asked.limit, level=asked.level, after=asked.after)
    room, first = LINES_BYTES, len(lines)
    while first and (room := room - len(lines[first - 1].text.encode())) >= 0:
        first -= 1
    return encode(_Logged(console.node.uid, console.orders.name, lines[first:]))


METHODS = {
    "nodes": read_method(_nodes, Empty),
    "drain": write_method(_drain, NodeRequest),
    "undrain": write_method(_undrain, NodeRequest),
    "log": read_method(_log, LogRequest),
}
ANSWERS = {"nodes": _node, "drain": _answer_drain, "undrain": _answer_undrain, "log": _logged}
