"""The command ``doctor``: its options, and where it reads tokens from."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from ..origins import ORIGIN_MOST
from .arguments import check_channels
from .options import json_option, settings_options

__all__ = ["doctor"]

WAIT_SECONDS = 32.0  # a ping comes every 25 s by default
FILE_BYTES = 64 * 1024


@click.command()
@click.option(
    "--token",
    "tokens",
    multiple=True,
    metavar="T",
    help="A connection or subscription token, may be repeated; - reads it from standard input, where ps does not show it.",
)
@click.option(
    "--token-file", "files", multiple=True, type=click.Path(exists=True, dir_okay=False), metavar="FILE", help="A file that holds a token."
)
@click.option("--origin", default="", metavar="O", help="The origin of a page, as https://app.example.org.")
@click.option("--channel", default="", metavar="C", help="A channel that the client wants to follow.")
@click.option(
    "--url", default="", metavar="URL", help="Where pages reach the gateway, through the proxy in front: https://live.example.org."
)
@click.option(
    "--wait",
    type=click.FloatRange(1, 600),
    default=WAIT_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="The longest that a connection is held idle.",
)
@json_option
@settings_options
def doctor(
    tokens: tuple[str, ...],
    files: tuple[str, ...],
    origin: str,
    channel: str,
    url: str,
    wait: float,
    as_json: bool,
    config: str | None,
    valkey_url: str | None,
    data_dir: str | None,
) -> int:
    """Find what is wrong, without changing anything: what would be refused, the way through a proxy, Valkey, and this machine."""
    from .doctor.access_check import Asked
    from .doctor.examination import Question, run_doctor
    from .doctor.target import Target

    if channel:
        check_channels([channel])
    if len(origin) > ORIGIN_MOST:
        raise click.UsageError("--origin is too long to be one")
    try:
        target = Target.of(url) if url else None
    except ValueError as error:
        raise click.UsageError(f"--url: {error}") from None
    asked = Asked((*map(_token, tokens), *map(_token_of_file, files)), origin.rstrip("/"), channel)
    return run_doctor(Question(config, valkey_url, data_dir, asked, target, wait), as_json=as_json)


def _token(text: str) -> str:
    found = (sys.stdin.read(FILE_BYTES) if text == "-" else text).strip()
    if not found:
        raise click.UsageError("--token: there is no token on standard input" if text == "-" else "--token is empty")
    return found


def _token_of_file(name: str) -> str:
    with Path(name).open(errors="replace") as file:
        found = file.read(FILE_BYTES).strip()
    if not found:
        raise click.UsageError(f"--token-file: {name} is empty")
    return found
