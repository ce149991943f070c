"""The last lines of this process's log, for the console. They are bounded by bytes and by number, and hold no secret that the process knows.

A line of the log may quote what came from outside, and an operator with the role ``read`` sees it. So the values of the configuration that are
secrets, and what looks like a token or like a key in a URL, are replaced by ``…``.
"""

from __future__ import annotations

import logging
import re
import sys
from collections import deque
from collections.abc import Iterator
from itertools import islice
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import msgspec

from ..config import Config
from ..rules.json_text import encode
from ..runtime.logs import LineFormatter

__all__ = ["LEVELS", "Line", "LogLines", "Redaction"]

LINES_MOST = 2000
BYTES_MOST = 512 * 1024
LINE_BYTES = 200  # of an entry, besides its text
TEXT_MOST = 4000  # characters
FORMATTED_MOST = 64 * 1024  # characters of a line or a traceback that are searched for secrets
SECRET_LEAST = 4  # characters: a shorter value is in too many words
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}

# What looks like a secret, by a text in lower case that is in all of its kind: to look for that takes a hundredth of the time.
_TOKENS = {
    mark: re.compile(pattern)
    for mark, pattern in {
        # JSON Web Tokens; from a word's beginning, so that each character is looked at once.
        "eyj": r"(?<![\w-])eyJ[\w-]{4,}\.[\w-]+(?:\.[\w-]*)?",
        "v1": r"(?:console\.)?v1[.-](?:read|write)[.-][0-9a-f]{32}[.-][\w.-]+",  # our own, see auth/admin_keys.py
        "token=": r"(?i:(?<=token=))[^&\s\"']+",
        "key=": r"(?i:(?<=key=))[^&\s\"']+",
        "password=": r"(?i:(?<=password=))[^&\s\"']+",
        "bearer ": r"(?i:(?<=bearer ))[^\s\"',]+",
        "apikey ": r"(?i:(?<=apikey ))[^\s\"',]+",
        "://": r"(?<=://)[^/\s@]+(?=@)",  # the login of a URL
    }.items()
}


class Line(msgspec.Struct, gc=False):
    """One line: ``seq`` counts the lines of its process, ``ms`` is unix time in milliseconds, ``level`` one of LEVELS."""

    seq: int
    ms: int
    level: str
    logger: str
    text: str


class Redaction:
    """Replaces secrets in a text."""

    def __init__(self, config: Config) -> None:
        values = {form for value in _secrets_of(config) if len(value) >= SECRET_LEAST for form in _forms(value)}
        self._values = sorted(values, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for value in self._values:
            text = text.replace(value, "…")
        lower = text.lower()
        for mark, pattern in _TOKENS.items():
            if mark in lower:
                text = pattern.sub("…", text)
        return text


def _forms(value: str) -> tuple[str, ...]:
    """How a line may quote it: as it is, in Python's quotes or JSON's, in a URL."""
    return value, repr(value)[1:-1], encode(value).decode()[1:-1], quote(value, safe="")


def _secrets_of(config: Config) -> Iterator[str]:
    yield from (*config.api_keys, *config.admin_keys, *config.admin_read_keys, config.metrics_key)
    yield from (config.tokens.hmac_secret, *config.tokens.previous_hmac_secrets)
    for url in (config.valkey_url, config.database_url):
        parts = urlsplit(url)
        for password in (parts.password or "", dict(parse_qsl(parts.query)).get("password", "")):
            yield from (password, unquote(password))


class LogLines(logging.Handler):
    """A handler for the root logger, which stores lines. ``count`` is how many there were since the start."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.setFormatter(LineFormatter("%(message)s"))
        self._redact = Redaction(config)
        self._lines: deque[Line] = deque()
        self._bytes = 0
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self._redact(self.format(record)[:FORMATTED_MOST])
        except Exception:  # a line whose arguments do not fit it
            self.handleError(record)
            return
        if len(text) > TEXT_MOST:
            text = f"{text[: TEXT_MOST // 2]} … {text[-TEXT_MOST // 2 :]}"  # the end of a traceback says what it was
        self.count += 1
        line = Line(self.count, int(record.created * 1000), _level(record.levelno), record.name, text)
        self._lines.append(line)
        self._bytes += _size(line)
        while self._bytes > BYTES_MOST or len(self._lines) > LINES_MOST:
            self._bytes -= _size(self._lines.popleft())

    def newest(self, most: int, *, level: str = "debug", after: float = 0) -> list[Line]:
        """Up to ``most`` lines of this level or above, written after ``after`` (unix ms), oldest first."""
        least = LEVELS[level]
        fitting = (line for line in self._backwards() if line.ms > after and LEVELS[line.level] >= least)
        return list(islice(fitting, most))[::-1]

    def since(self, count: int) -> list[Line]:
        """The lines that follow line number ``count`` and are still there, oldest first."""
        found: list[Line] = []
        for line in self._backwards():
            if line.seq <= count:
                break
            found.append(line)
        return found[::-1]

    def _backwards(self) -> Iterator[Line]:
        """A copy of the lines, newest first: other threads may write meanwhile."""
        self.acquire()
        try:
            return iter(list(self._lines)[::-1])
        finally:
            self.release()


def _level(number: int) -> str:
    return next((name for name, least in reversed(LEVELS.items()) if number >= least), "debug")


def _size(line: Line) -> int:
    return LINE_BYTES + sys.getsizeof(line.text)
