"""What the commands share: their options, a publisher and a producer of jobs, the line of a publication, a warning about a channel."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click
import uvloop

from ..config import Config, load
from ..publication import Publication
from ..runtime.logs import printable, printable_json
from ..store.connect import Address
from ..store.embedded import configured_url
from ..store.library import Library

if TYPE_CHECKING:
    from publishers import Publisher

    from ..work import Queue

__all__ = [
    "Function",
    "config_option",
    "data_dir_option",
    "json_option",
    "line_of",
    "load_for_valkey",
    "open_publisher",
    "open_queue",
    "run_async",
    "settings_options",
    "since_option",
    "warn_if_nobody_can_follow",
]

Function = TypeVar("Function", bound=Callable[..., Any])

config_option = click.option("--config", type=click.Path(dir_okay=False), metavar="FILE", help="Configuration in TOML.")
_valkey = click.option("--valkey-url", metavar="URL", help="Valkey to use; absent: the embedded one.")
data_dir_option = click.option("--data-dir", metavar="DIR", help="Folder of the embedded server.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
since_option = click.option("--since", metavar="POSITION", help="EPOCH:OFFSET of the last publication seen.")


def settings_options(command: Function) -> Function:
    """The options of every command that talks to Valkey."""
    return config_option(_valkey(data_dir_option(command)))


def load_for_valkey(config: str | None, *, valkey_url: str | None, data_dir: str | None) -> Config:
    """The configuration of a command that does nothing but talk to Valkey. Warns where ``--data-dir`` names an embedded server, and the environment or
    the file another Valkey, which is the one."""
    settings = load(config, valkey_url=valkey_url, data_dir=data_dir)
    if data_dir and not valkey_url and settings.valkey_url:
        where = printable(str(Address(settings.valkey_url)))
        print(f"gateway: warning: --data-dir has no effect: valkey_url is set, and the Valkey is {where}", file=sys.stderr)
    return settings


def open_publisher(config: Config) -> Publisher:
    """A publisher on the Valkey that ``config`` means, to be entered with ``async with``. Raises Unavailable if there is none."""
    from publishers import Publisher

    return Publisher(configured_url(config), prefix=config.prefix)


def open_queue(config: Config) -> Queue:
    """A producer of jobs on the Valkey that ``config`` means, to be entered with ``async with``. Raises Unavailable if there is none."""
    from ..work import Queue

    return Queue(configured_url(config), prefix=config.prefix)


async def warn_if_nobody_can_follow(config: Config, call: Callable[..., Awaitable[Any]], channel: str) -> None:
    """Prints a warning where no client can follow the channel: to publish to a misspelled namespace succeeds, and nobody ever sees it."""
    namespace, colon, _ = channel.partition(":")
    rules = config.namespaces.get(namespace) if colon else config.channels
    doubt = ""
    if rules is not None and rules.subscribe == "nobody":
        doubt = f'the rules of {channel} let no client subscribe (subscribe = "nobody"); only the server API can subscribe them'
    elif colon:
        known = await Library(None, config.prefix).stored_rules(call)
        if known is not None and namespace not in known:
            doubt = f"no gateway has a namespace {namespace!r}, so no client can follow {channel}; the namespaces are {_listed(known)}"
    if doubt:
        print(f"gateway: warning: {doubt}", file=sys.stderr)


def _listed(namespaces: dict[str, Any]) -> str:
    return ", ".join(name for name in namespaces if name)


def line_of(channel: str, epoch: str, publication: Publication) -> str:
    """The line that ``subscribe`` and ``history`` print, JSON: ``position`` is what ``--since`` takes; an ephemeral publication has none.

    What a publication holds does not steer the terminal that shows it.
    """
    fields: dict[str, Any] = {"channel": channel}
    if publication.offset:
        fields["position"] = f"{epoch}:{publication.offset}"
    if publication.tags is not None:
        fields["tags"] = json.loads(publication.tags)
    head = json.dumps(fields, ensure_ascii=False)[:-1]
    return printable_json(f'{head}, "data": {publication.data.decode()}}}')


def run_async(work: Coroutine[Any, Any, None]) -> None:
    """Runs ``work`` in a loop of its own."""
    uvloop.run(work)
