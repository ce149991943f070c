"""``gateway worker MODULE:NAME``: runs the worker that a module of the user's makes."""

from __future__ import annotations

import difflib
import importlib
import os
import pkgutil
import sys
import traceback
from types import ModuleType
from typing import TYPE_CHECKING

import click

from ..errors import GatewayError
from ..runtime import tracing
from ..store.embedded import configured_url
from .log_setup import set_up_logging
from .options import load_for_valkey, settings_options

if TYPE_CHECKING:
    from ..work import Worker

__all__ = ["worker"]


@click.command()
@click.argument("place", metavar="MODULE:NAME")
@click.option("--queue", "queues", multiple=True, metavar="Q", help="Work on this queue instead of the worker's own; may be repeated.")
@click.option("--concurrency", type=click.IntRange(1, 1000), metavar="N", help="How many jobs run at once.")
@settings_options
def worker(
    place: str, queues: tuple[str, ...], concurrency: int | None, config: str | None, valkey_url: str | None, data_dir: str | None
) -> None:
    """Run the jobs of work queues with the handlers of a Worker, NAME in MODULE, until SIGTERM or Ctrl-C.

    MODULE is looked for in the current directory, too. A second signal ends it at once.
    """
    from .leaving import run_worker

    module, colon, name = place.partition(":")
    if not module or not colon or not name:
        raise click.UsageError(f'{place!r} is not MODULE:NAME, as in "shop.jobs:worker"')
    settings = load_for_valkey(config, valkey_url=valkey_url, data_dir=data_dir)
    set_up_logging(settings)
    found = _worker_in(_imported(module), name)
    try:
        # What the worker's module set holds where neither the command line nor the configuration says otherwise.
        found.configure(
            url=configured_url(settings) if settings.valkey_url or settings.data_dir else None,
            prefix=settings.prefix if "prefix" in settings.model_fields_set else None,
            queues=list(dict.fromkeys(queues)) or None,
            concurrency=concurrency,
        )
        if not found.handlers:
            raise ValueError(f'{place} has no handler: decorate one with @{name}.job("name")')
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    with tracing.started(settings.telemetry.traces):
        run_worker(found)


def _imported(name: str) -> ModuleType:
    """The module. Raises GatewayError in one line: where it is not found, with the one that may be meant; where it raises, with the line that did."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise _failure(name, error) from None  # the module is there, and imports one that is not
        raise GatewayError(f"there is no module {error.name!r} in {os.getcwd()} or among those installed{_alike(error.name)}") from None
    except Exception as error:
        raise _failure(name, error) from None


def _failure(name: str, error: Exception) -> GatewayError:
    line = traceback.extract_tb(error.__traceback__)[-1]
    return GatewayError(f"module {name} cannot be imported: {type(error).__name__}: {error} ({line.filename}, line {line.lineno})")


def _alike(name: str) -> str:
    """A module that is named alike, in the same package or the current directory."""
    package, _, own = name.rpartition(".")
    paths = list(sys.modules[package].__path__) if package in sys.modules else [os.getcwd()]
    return _did_you_mean(own, [each.name for each in pkgutil.iter_modules(paths)])


def _worker_in(module: ModuleType, name: str) -> Worker:
    from ..work import Worker

    workers = [each for each, value in vars(module).items() if isinstance(value, Worker)]
    found = getattr(module, name, None)
    if isinstance(found, Worker):
        return found
    shown = f"{found!r:.60}" if isinstance(found, int) else f"of the type {type(found).__name__}"  # a text may be a URL with its password
    what = f"is {shown}, which is no Worker" if hasattr(module, name) else "is not there"
    similar = _did_you_mean(name, workers) or (f"; its workers are {', '.join(workers)}" if workers else "; the module has no Worker")
    raise GatewayError(f"{module.__name__}:{name} {what}{similar}")


def _did_you_mean(name: str, names: list[str]) -> str:
    similar = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {similar[0]!r}?" if similar else ""
