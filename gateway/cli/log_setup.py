"""Log lines: to standard error, as text for people or as one JSON object a line for programs that collect them."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

from ..config import Config
from ..environment import log_injected
from ..runtime.logs import LineFormatter

__all__ = ["JsonFormatter", "set_up_logging"]

TEXT = "%(asctime)s %(levelname)-7s %(name)s  %(message)s"
WORDY = ("uvicorn", "alembic")  # libraries whose lines below a warning are not logged


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


def set_up_logging(config: Config) -> None:
    """Log lines go to standard error, in the format and from the level that the configuration names."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if config.log_format == "json" else LineFormatter(TEXT))
    logging.basicConfig(level=config.log_level.upper(), handlers=[handler])
    for wordy in WORDY:
        logging.getLogger(wordy).setLevel(logging.WARNING)
    log_injected()  # the configuration was read before there was a log
