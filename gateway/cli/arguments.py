"""How the commands read their arguments. Each raises click.UsageError, which ends the program with status 2."""

from __future__ import annotations

import click

from ..publication import Position, channel_fault

__all__ = ["check_channels", "document_of", "position_of"]


def document_of(text: str, where: str) -> bytes:
    """The JSON document in ``text``; ``where`` names it in the error."""
    from ..rules.json_text import clean, is_json

    data = text.encode(errors="surrogateescape")
    if not is_json(data):
        raise click.UsageError(
            f"{where} is not JSON: {text.strip()[:60]!r}" + (" (a text is written in quotes: '\"hello\"')" if where == "DATA" else "")
        )
    return clean(data)


def position_of(text: str | None) -> Position | None:
    """What ``--since`` names."""
    if text is None:
        return None
    try:
        return Position.parse(text)
    except ValueError as error:
        raise click.UsageError(f"--since: {error}") from None


def check_channels(names: list[str]) -> None:
    """Refuses names that no channel can have."""
    for name in names:
        if fault := channel_fault(name):
            raise click.UsageError(f"{fault}: {name[:60]!r}")
