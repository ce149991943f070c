"""Standard output that takes nothing more, as a file on a full disk, or a pipe whose reader has ended."""

from __future__ import annotations

import logging
import os
import sys

__all__ = ["announce", "discard_output", "write_output"]

log = logging.getLogger("gateway.cli")


def announce(text: str) -> None:
    """Prints what people may want to know of a program that serves others: where nobody can read it, that is logged, and the program goes on."""
    try:
        print(text, flush=True)
    except (OSError, UnicodeError) as error:
        log.warning("standard output takes nothing: %s", error)
        if isinstance(error, OSError):
            discard_output()


def write_output(text: str = "") -> None:
    """Writes it, after what was printed and not written yet. Raises OSError; what is left is dropped then, of which the interpreter would fail at
    its end."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError as error:
        discard_output()
        raise type(error)(f"standard output takes nothing more: {error}") from None


def discard_output() -> None:
    """What is printed from now on, and what was printed and not written yet, is dropped."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
