"""Traces of OpenTelemetry: the few functions that the other packages call.

They do nothing, and import nothing, until the process has a TracerProvider: one that the program set before the gateway, a publisher, a
queue, a worker or a service connects, or one that ``start`` makes of OpenTelemetry's environment variables. ``spans.py`` holds what needs the
packages. A trace travels as its W3C ``traceparent``, a text: in a request's header, in a request of rpc, in a job, in a publication's tags.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from .spans import Attribute, Spans

__all__ = ["Kind", "end", "fail", "find", "is_on", "is_traceparent", "note", "passing", "span", "start", "started", "traceparent", "use"]

Kind = Literal["internal", "server", "client", "producer", "consumer"]

NONE: Mapping[str, Attribute] = {}
END_SECONDS = 1.5  # for the last spans to be exported when a process ends; a worker has 2 to leave

_NOTHING = contextlib.nullcontext()
# Of version 00; a later one begins alike, and may have more at its end. Source: W3C Trace Context, 3.2.
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)

_passed: ContextVar[str] = ContextVar("the traceparent of a request, in a process without spans", default="")
_spans: Spans | None = None


def is_on() -> bool:
    """Whether this process makes spans."""
    return _spans is not None


def is_traceparent(text: str) -> bool:
    """Whether it is a W3C ``traceparent`` with ids that are valid."""
    return _TRACEPARENT.fullmatch(text) is not None


def span(
    name: str, kind: Kind = "internal", *, parent: str | None = None, links: Sequence[str] = (), attributes: Mapping[str, Attribute] = NONE
) -> AbstractContextManager[None]:
    """A span for as long as the block lasts; it is current there, and has failed if the block raises.

    ``parent`` is a ``traceparent``; "", or one that is invalid, begins a trace; None continues the current one. ``links`` are traceparents
    of other traces. Neither data nor users nor the text of an error are in a span. Without a provider it costs about 0.5 µs.
    """
    return _NOTHING if _spans is None else _spans.span(name, kind, parent, links, attributes)


def note(name: str, value: Attribute) -> None:
    """An attribute of the current span."""
    if _spans is not None:
        _spans.note(name, value)


def fail(kind: str) -> None:
    """The current span has failed; ``kind`` is an error's name or code."""
    if _spans is not None:
        _spans.fail(kind)


def traceparent() -> str:
    """The current span's; in a process without spans that of the request, inside ``passing``; else ""."""
    return _passed.get() if _spans is None else _spans.traceparent()


@contextlib.contextmanager
def passing(parent: str) -> Iterator[None]:
    """In a process without spans: inside the block ``traceparent`` is ``parent``, if that is valid."""
    before = _passed.set(parent if is_traceparent(parent) else "")
    try:
        yield
    finally:
        _passed.reset(before)


# Which provider there is.


def use(spans: Spans | None) -> None:
    """Makes spans from now on, or none."""
    global _spans
    _spans = spans


def find() -> None:
    """Makes spans from now on if the program has set a TracerProvider. It costs nothing where no part of the program imported OpenTelemetry."""
    if _spans is None and "opentelemetry.trace" in sys.modules:
        from .spans import Spans, provider_in_use

        if (provider := provider_in_use()) is not None:
            use(Spans(provider))


def start(traces: bool) -> None:
    """``find``; and where the program has no provider and ``traces`` is set, a provider made of OpenTelemetry's environment variables.

    It is called in the process that makes the spans, after any fork. Raises ConfigurationError where a package is missing, or an exporter.
    """
    find()
    if not traces or _spans is not None:
        return
    try:
        from .spans import Spans, made_provider

        use(Spans(made_provider(), ours=True))
    except ImportError as error:
        raise ConfigurationError(f"telemetry.traces needs OpenTelemetry's packages, pip install 'gateway[telemetry]': {error}") from None


def end() -> None:
    """Exports the spans that are left, of a provider that ``start`` made, for up to END_SECONDS; none are made afterwards."""
    ending = _spans
    if ending is not None and ending.ours:
        use(None)
        ending.end(END_SECONDS)


@contextlib.contextmanager
def started(traces: bool) -> Iterator[None]:
    """``start``, and ``end`` after the block: for a program."""
    start(traces)
    try:
        yield
    finally:
        end()
