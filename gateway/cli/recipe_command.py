"""``gateway recipe``: prints a file for a program around the gateway, for the present configuration."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from ..config import load
from ..recipes import RECIPES, Installation, recipe
from .options import config_option

__all__ = ["recipe_command"]

NAME = "live.example.org"  # of nobody: RFC 2606

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_PATH = re.compile(r"/(?:[A-Za-z0-9_-][A-Za-z0-9_.-]*/)*")


@click.command("recipe")
@click.argument("kind", type=click.Choice(list(RECIPES)))
@click.option("--name", default=NAME, show_default=True, metavar="HOST", help="Host name under which clients reach the gateway.")
@click.option("--path", default="/", show_default=True, metavar="/PATH/", help="Path of that host under which a proxy offers the gateway.")
@config_option
def recipe_command(kind: str, name: str, path: str, config: str | None) -> None:
    """Print a file for a program around the gateway, for the present configuration.

    It names paths and ports as they are configured, and secrets by the variables and files that hold them. Save it, and read
    its comments.
    """
    if not _NAME.fullmatch(name):
        raise click.UsageError(f"--name: {name!r} is not the name of a host")
    whole = f"/{path.strip('/')}/".replace("//", "/")
    if not _PATH.fullmatch(whole):
        raise click.UsageError(f"--path: {path!r} is not a path of letters, digits, dots, dashes and underscores, as in /live/")
    file = str(Path(config).absolute()) if config else ""
    sys.stdout.write(recipe(kind, load(config), Installation(name, whole, file, _program())))


def _program() -> str:
    """The command ``gateway`` of this installation."""
    return str(Path(sys.executable).with_name("gateway"))
