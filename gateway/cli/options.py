"""What the commands share: options, and the way from them to Valkey."""

from __future__ import annotations

import logging
import sys
from collections.abc import Coroutine
from typing import Any

import click
import uvloop

from ..config import Config
from ..store.embedded import configured_url

__all__ = [
    "config_option",
    "data_dir_option",
    "open_publisher",
    "run_async",
    "set_up_logging",
    "settings_options",
    "since_option",
]

config_option = click.option("--config", type=click.Path(dir_okay=False), metavar="FILE", help="Configuration in TOML.")
_valkey = click.option("--valkey-url", metavar="URL", help="Valkey to use; absent: the embedded one.")
data_dir_option = click.option("--data-dir", metavar="DIR", help="Folder of the embedded server.")
since_option = click.option("--since", metavar="POSITION", help="EPOCH:OFFSET of the last publication seen.")


def settings_options(command: Any) -> Any:
    """What every command takes that talks to Valkey."""
    return config_option(_valkey(data_dir_option(command)))


def open_publisher(config: Config) -> Any:
    from publishers import Publisher

    return Publisher(configured_url(config), prefix=config.prefix)


def run_async(work: Coroutine[Any, Any, None]) -> None:
    uvloop.run(work)


def set_up_logging(config: Config) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s  %(message)s", level=config.log_level.upper(), stream=sys.stderr)
    for wordy in ("uvicorn", "alembic"):
        logging.getLogger(wordy).setLevel(logging.WARNING)
