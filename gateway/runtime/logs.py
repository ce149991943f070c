"""Log lines: what comes from outside cannot end a line, begin another one, or steer the terminal that shows it."""

from __future__ import annotations

import logging

__all__ = ["LineFormatter", "printable", "printable_json"]

_INDENT = "    "


def printable(text: str) -> str:
    """The text with everything that is not to be seen, control characters and line ends too, written as Python's escapes."""
    if text.isprintable():
        return text
    # Not by the codec unicode_escape, which Python imports when it is first used: there may be no file descriptor left then.
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def printable_json(text: str) -> str:
    """JSON on one line; what is not to be seen is written as an escape of JSON, which means the same to programs."""
    if text.isprintable():
        return text
    # Of what is not to be seen, a tab alone may be between tokens, where an escape is no JSON; in a string JSON does not allow it.
    return "".join(each if each.isprintable() else " " if each == "\t" else _escape(each) for each in text)


def _escape(character: str) -> str:
    units = character.encode("utf-16-be", errors="surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


class LineFormatter(logging.Formatter):
    """A record is one line, whatever its arguments hold. The lines of a traceback follow it, indented, so that none looks like a record."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(super().formatMessage(record))

    def formatException(self, ei: object) -> str:
        return _indented(super().formatException(ei))  # type: ignore[arg-type]  # typeshed's name of its type is private

    def formatStack(self, stack_info: str) -> str:
        return _indented(super().formatStack(stack_info))


def _indented(text: str) -> str:
    return "\n".join(_INDENT + printable(line) for line in text.split("\n"))
