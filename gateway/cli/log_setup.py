"""Log lines: to standard error, as text for people or as one JSON object a line for programs that collect them."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

from ..config import Config
from ..environment import log_injected
from ..rules.rate_limit import use
from ..runtime.logs import LineFormatter

__all__ = ["JsonFormatter", "StrangersLines", "set_up_logging"]

log = logging.getLogger("gateway.log")

TEXT = "%(asctime)s %(levelname)-7s %(name)s  %(message)s"
WORDY = ("uvicorn", "alembic")  # libraries whose lines below a warning are not logged
# Loggers of lines that anybody can cause, one with each request, and up to which level they do.
OF_STRANGERS = {f"gateway.{name}": logging.INFO for name in ("api", "emulation", "http", "metrics", "session", "sse", "websocket")}
OF_STRANGERS["uvicorn.error"] = logging.WARNING  # that a request is no HTTP
LINES_PER_SECOND, LINES_SECONDS = 10.0, 100.0  # a thousand lines of one form at once, then ten a second


class JsonFormatter(logging.Formatter):
    """One line: ``time`` (UTC, RFC 3339), ``level``, ``logger``, ``message``, ``process``, and ``exception`` where there is one.

    It is ASCII: what standard error cannot encode, Python would write as escapes that JSON does not have.
    """

    def format(self, record: logging.LogRecord) -> str:
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


class StrangersLines(logging.Filter):
    """Lets only so many lines of one form through that anybody can cause, as with wrong keys: they would fill the disk. One line
    has the number of those that were left out. ``now`` is the clock, in seconds."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now = now
        self._used: dict[str, float] = {}  # by the text without its arguments: the program has some dozens of them
        self._left_out: Counter[str] = Counter()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno > OF_STRANGERS.get(record.name, logging.NOTSET):
            return True
        used = use(self._used.get(record.msg, 0.0), self._now(), LINES_PER_SECOND, LINES_SECONDS)
        if used is None:
            self._left_out[record.msg] += 1
            return False
        self._used[record.msg] = used
        if count := self._left_out.pop(record.msg, 0):
            log.info("%d lines like the next one were left out", count)
        return True


def set_up_logging(config: Config) -> None:
    """Log lines go to standard error, in the format and from the level that the configuration names."""
    handler = logging.StreamHandler(sys.stderr)
    if config.log_level != "debug":
        handler.addFilter(StrangersLines())
    handler.setFormatter(JsonFormatter() if config.log_format == "json" else LineFormatter(TEXT))
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler])
    for wordy in WORDY:
        logging.getLogger(wordy).setLevel(logging.WARNING)
    log_injected()  # the configuration was read before there was a log
