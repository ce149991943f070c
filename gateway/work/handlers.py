"""What a worker does for each name of a job: the function, how it is run, and how its data is read from JSON.

A handler takes the job and, if it has a second parameter, its data, which msgspec reads by that parameter's annotation, models of
pydantic included. A handler for batches takes a list of jobs and a list of data.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

__all__ = ["BatchRule", "Handler", "NoJson", "Rate", "Reject", "Retry", "describe", "read_rate"]

BURST_SECONDS = 0.02  # what a rate lets start at once: a worker that wakes for each job of a high rate would only do that
RATE = re.compile(r"(\d+(?:\.\d+)?)/(\d*)(ms|s|m|h|d)")
UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
EVERY_LEAST, EVERY_MOST = 0.00002, 86_400_000  # ms, as gateway_take takes them
REASON_CHARACTERS = 900  # of a failure's first line; what follows is the end of its traceback
TRACE_CHARACTERS = 2600


class Retry(Exception):
    """Raised by a handler: the job is tried again after so many seconds. It counts as an attempt; after the last the job is a dead letter."""

    def __init__(self, after: float = 0.0, reason: str = "the handler asked to be called again") -> None:
        if isinstance(after, bool) or not isinstance(after, int | float) or not math.isfinite(after):
            raise TypeError(f"after is a number of seconds, not {after!r:.100}")
        super().__init__(reason)
        self.after = after


@dataclass(frozen=True, slots=True)
class NoJson:
    """Stands for a result that a handler in a process returned and that is no JSON; ``reason`` is why it could not be sent."""

    reason: str


class Reject(Exception):
    """Raised by a handler: the job can never be done, and is a dead letter at once. The message is the reason."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How often jobs may start over all workers: one each ``every`` milliseconds on the average, up to ``burst`` at once."""

    every: float
    burst: int


def read_rate(text: str) -> Rate:
    """``100/s``, ``30/m``, ``5/10s``: how many may start in which time. Raises ValueError."""
    match = RATE.fullmatch(text)
    if match is None or float(match[1]) <= 0 or match[2] == "0":
        raise ValueError(f'a rate is how many in which time, as "100/s", "30/m" or "5/10s" (ms, s, m, h, d), not {text!r}')
    every = int(match[2] or 1) * UNITS[match[3]] / float(match[1])
    if not EVERY_LEAST <= every <= EVERY_MOST:
        raise ValueError(f"a rate is from 1 a day to 50,000,000 a second, not {text!r}")
    return Rate(every, max(1, int(BURST_SECONDS * 1000 / every)))


@dataclass(frozen=True, slots=True)
class BatchRule:
    """Jobs of one name are handled together: up to ``most``, or those that came within ``within`` seconds of the first."""

    most: int
    within: float


@dataclass(frozen=True, slots=True)
class Handler:
    """``function`` and how it is called. ``backoff`` and ``backoff_most`` are seconds: the first attempt again, and the longest wait."""

    name: str
    function: Callable[..., Any]
    kind: Literal["loop", "thread", "process"]
    takes_data: bool
    read: Callable[[bytes | msgspec.Raw], Any]
    serial: Callable[[Any], object] | None = None
    rate: Rate | None = None
    batch: BatchRule | None = None
    backoff: float = 1.0
    backoff_most: float = 600.0


def describe(name: str, function: Callable[..., Any], *, batch: BatchRule | None, process: bool, **options: Any) -> Handler:
    """A handler from a function. Raises TypeError for one that cannot be called with a job, or whose annotation msgspec cannot read."""
    coroutine = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(_underlying(function))
    if process and coroutine:
        raise TypeError(f"{name}: a handler with process=True is a plain function, not a coroutine function")
    if process and batch:
        raise TypeError(f"{name}: a handler with process=True takes one job at a time")
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(f"{name}: a handler cannot be a generator, since nothing would run it: it has a yield")
    if inspect.iscoroutinefunction(options.get("serial")):
        raise TypeError(f"{name}: serial is a plain function, which returns the key: nothing awaits it")
    annotation = _data_annotation(name, function)
    if batch and annotation is not None:
        annotation = _item(name, annotation)
    try:
        read = msgspec.json.Decoder(Any if annotation is None else annotation, dec_hook=_read_model).decode
    except TypeError as error:
        raise TypeError(f"{name}: the annotation of the data cannot be read from JSON: {error}") from None
    kind: Literal["loop", "thread", "process"] = "process" if process else "loop" if coroutine else "thread"
    return Handler(name, function, kind, annotation is not None, read, batch=batch, **options)


def _read_model(kind: Any, value: Any) -> Any:
    """``value``, from JSON, as a class that msgspec does not know: a model of pydantic. Raises ValueError for data that the model refuses; what it
    returns for any other class, msgspec refuses."""
    validate = getattr(kind, "model_validate", None)
    try:
        return value if validate is None else validate(value)
    except Exception as error:  # a validator of the user's may raise anything
        raise ValueError(" ".join(str(error).split())) from None  # a failure is shown by its first line


def _data_annotation(name: str, function: Callable[..., Any]) -> Any:
    """The annotation of the second parameter, Any if it has none; None if there is no second parameter."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = [each for each in inspect.signature(function).parameters.values() if each.kind in kinds]
    if not 1 <= len(parameters) <= 2:
        raise TypeError(f"{name}: a handler takes the job and its data, def {getattr(function, '__name__', 'handler')}(job, data: …)")
    if len(parameters) == 1:
        return None
    annotation = parameters[1].annotation
    if annotation is inspect.Parameter.empty:
        return Any
    if not isinstance(annotation, str):
        return annotation
    try:
        return get_type_hints(_underlying(function), include_extras=True)[parameters[1].name]
    except NameError as error:
        raise TypeError(f"{name}: the annotation {annotation!r} of the data is not known where the handler is defined: {error}") from None


def _underlying(function: Any) -> Any:
    """The function with the annotations: of a partial, that which it calls; of an object that is called, its class's."""
    while isinstance(function, partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def _item(name: str, annotation: Any) -> Any:
    if annotation is Any:
        return Any
    if get_origin(annotation) is not list or len(get_args(annotation)) != 1:
        raise TypeError(f"{name}: a handler of batches takes a list of data, data: list[…]")
    return get_args(annotation)[0]
