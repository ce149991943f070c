"""Log lines: what comes from outside cannot forge one."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from gateway.runtime.logs import LineFormatter, printable, printable_json

FORMATTER = LineFormatter("%(levelname)s %(message)s")


def record(message: str, *arguments: object, raised: BaseException | None = None) -> logging.LogRecord:
    info = (type(raised), raised, raised.__traceback__) if raised is not None else None
    return logging.LogRecord("gateway", logging.INFO, "file.py", 1, message, arguments, info)


@pytest.mark.parametrize(
    ("given", "written"),
    [
        ("a\nINFO forged", "a\\nINFO forged"),
        ("a\r\x0b\x0c\x1c", "a\\r\\x0b\\x0c\\x1c"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\x85next\u2028line", "\\x85next\\u2028line"),
        ("\u202ereversed", "\\u202ereversed"),
        ("\udc80half", "\\udc80half"),
        ("Zoë 東京 → …", "Zoë 東京 → …"),
    ],
)
def test_what_cannot_be_seen_is_written_as_an_escape(given: str, written: str) -> None:
    assert printable(given) == written
    assert FORMATTER.format(record("client %s refused", given)) == f"INFO client {written} refused"


WITHOUT_DESCRIPTORS = """
import os, resource
from gateway.runtime.logs import printable
free = os.dup(0)
os.close(free)
resource.setrlimit(resource.RLIMIT_NOFILE, (free, free))
print(printable("Exception in ASGI application\\n"))
"""


def test_a_line_is_written_where_no_file_descriptor_is_left() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_DESCRIPTORS], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("Exception in ASGI application\\n\n", "")


def test_what_cannot_be_seen_in_json_is_an_escape_of_json_or_a_space_between_tokens() -> None:
    given = '{"a":\t[1],\t"b": "\x9b31m\x7f\u202e\U000e0001é"}'
    written = printable_json(given)
    assert written.isprintable() and json.loads(written) == json.loads(given)


def test_the_lines_of_a_traceback_cannot_look_like_a_record() -> None:
    try:
        raise ValueError("bad\nINFO forged\x1b[2J")
    except ValueError as error:
        lines = FORMATTER.format(record("it failed", raised=error)).split("\n")
    assert lines[0] == "INFO it failed" and any("Traceback" in line for line in lines)
    assert all(line.startswith("    ") for line in lines[1:]) and "\x1b" not in "".join(lines)


def test_a_stack_is_indented_too() -> None:
    written = record("where")
    written.stack_info = f"Stack:\n{sys.version.split()[0]}"
    assert all(line.startswith("    ") for line in FORMATTER.format(written).split("\n")[1:])
