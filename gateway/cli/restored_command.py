"""``gateway restored``: every channel begins a new epoch, after Valkey came back from a backup. ``store.epochs`` says why."""

from __future__ import annotations

import sys

import click

from ..config import Config
from ..store.connect import Address
from ..store.embedded import configured_url
from ..store.epochs import renew_epochs
from .options import load_for_valkey, run_async, settings_options

__all__ = ["restored"]


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@settings_options
def restored(yes: bool, config: str | None, valkey_url: str | None, data_dir: str | None) -> None:
    """After Valkey came back from a backup: begin a new epoch in every channel. Clients are notified of a gap. It asks first."""
    settings = load_for_valkey(config, valkey_url=valkey_url, data_dir=data_dir)
    if not yes and not sys.stdin.isatty():
        raise click.UsageError("restored has all clients load their state anew; where it cannot ask, give --yes")
    if not yes:
        click.confirm(f"Begin a new epoch in every channel of prefix {settings.prefix}?", abort=True, err=True)
    run_async(_restored(settings))


async def _restored(config: Config) -> None:
    url = configured_url(config)
    count = await renew_epochs(url, config.prefix)
    print(f"{count} channel{'s' * (count != 1)} of prefix {config.prefix} began a new epoch in Valkey at {Address(url)}")
