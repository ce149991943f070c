"""The lines of the log that the console has: bounded, one line each, and without secrets."""

from __future__ import annotations

import json
import logging
import sys
import time
import timeit
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from gateway.config import Config, Tokens
from gateway.console.log_lines import BYTES_MOST, FORMATTED_MOST, LINES_MOST, TEXT_MOST, LogLines, Redaction

from ..kit.operators import READ_KEY, WRITE_KEY
from ..kit.tokens import ticket, token

SECRETS = {
    "admin_keys": [WRITE_KEY],
    "admin_read_keys": [READ_KEY],
    "api_keys": ["an api key"],
    "metrics_key": "a metrics key",
    "tokens": Tokens(hmac_secret="a secret of tokens", previous_hmac_secrets=["an older secret"]),
    "valkey_url": "valkey://user:p%40ssword@localhost",
    "database_url": "postgresql://user:pass-of-sql@localhost/x",
}


@pytest.fixture
def lines() -> LogLines:
    return LogLines(Config(**SECRETS))


@pytest.fixture
def logger(lines: LogLines) -> Iterator[logging.Logger]:
    logger = logging.getLogger("tests.console")
    logger.addHandler(lines)
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.removeHandler(lines)


def test_the_newest_lines_of_a_level_are_found_oldest_first(lines: LogLines, logger: logging.Logger) -> None:
    for number in range(5):
        logger.log((logging.DEBUG, logging.WARNING)[number % 2], "line %d", number)
    assert [line.text for line in lines.newest(2)] == ["line 3", "line 4"]
    assert [line.text for line in lines.newest(9, level="info")] == ["line 1", "line 3"]
    assert [line.text for line in lines.since(3)] == ["line 3", "line 4"]
    assert lines.newest(9, after=lines.newest(1)[0].ms) == []
    assert (lines.count, lines.newest(1)[0].seq, lines.newest(1)[0].level) == (5, 5, "debug")


def test_what_comes_from_outside_begins_no_line_and_ends_in_bounds(lines: LogLines, logger: logging.Logger) -> None:
    logger.info("from %s", "x\n2026-01-01 ERROR forged\x1b[31m" + "y" * 10 * TEXT_MOST)
    text = lines.newest(1)[0].text
    assert "\n" not in text and "\x1b" not in text and len(text) <= TEXT_MOST + 3


def test_an_error_is_shown_with_the_end_of_its_traceback(lines: LogLines, logger: logging.Logger) -> None:
    try:
        raise ValueError("what it was, with " + WRITE_KEY)
    except ValueError:
        logger.exception("it failed")
    text = lines.newest(1)[0].text
    assert text.startswith("it failed") and text.endswith("ValueError: what it was, with …")


def test_neither_many_lines_nor_long_ones_take_more_than_their_memory(lines: LogLines, logger: logging.Logger) -> None:
    for number in range(LINES_MOST + 10):
        logger.debug("%d", number)
    assert len(lines.newest(10 * LINES_MOST)) == LINES_MOST
    for _ in range(200):
        logger.debug("語" * TEXT_MOST)  # two bytes each
    found = lines.newest(10 * LINES_MOST)
    assert 20 < len(found) < 100 and sum(sys.getsizeof(line.text) for line in found) <= BYTES_MOST


def test_a_line_whose_arguments_do_not_fit_breaks_nothing(lines: LogLines, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", False)
    logger.propagate = False
    logger.info("%d", "no number")
    logger.propagate = True
    assert lines.newest(9) == []


@pytest.mark.parametrize("text", ["eyJ", "://", "token=", "bearer ", "v1.read.", "a@"])
def test_no_line_takes_long_to_be_searched_for_secrets(text: str) -> None:
    began = time.process_time()
    Redaction(Config(**SECRETS))(text * (FORMATTED_MOST // len(text)))
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(
    "secret",
    [
        *(
            WRITE_KEY,
            READ_KEY,
            "an api key",
            "a metrics key",
            "a secret of tokens",
            "an older secret",
            "p%40ssword",
            "p@ssword",
            "pass-of-sql",
        ),
        *(token("ann"), ticket("posts:1"), "console.v1-read-" + "0" * 32 + "-1-2.3", "v1.write." + "0" * 32 + ".1795716197.4c3f.8142"),
    ],
)
def test_no_secret_is_shown(secret: str) -> None:
    assert secret not in Redaction(Config(**SECRETS))(f"it got {secret}, which is wrong")


@pytest.mark.parametrize(
    "line, shown",
    [
        ("GET /sse?channel=a&token=abc.def&x=1", "GET /sse?channel=a&token=…&x=1"),
        ("/history?subscription_token=abc", "/history?subscription_token=…"),
        ("/api/info?api_key=abc HTTP/1.1", "/api/info?api_key=… HTTP/1.1"),
        ("Authorization: Bearer abc", "Authorization: Bearer …"),
        ("?Access_Token=abc&x=1", "?Access_Token=…&x=1"),
        ("valkey://host?db=1&password=abc", "valkey://host?db=1&password=…"),
        ("redis://u:pw@host:1/0 is away", "redis://…@host:1/0 is away"),
        ("client 5f2b joined posts:tech", "client 5f2b joined posts:tech"),
    ],
)
def test_what_looks_like_a_secret_is_not_shown(line: str, shown: str) -> None:
    assert Redaction(Config())(line) == shown


@pytest.mark.parametrize("line", ["key %r", "x=%s", '{"key": %s}'])
def test_a_key_is_not_shown_however_a_line_quotes_it(line: str) -> None:
    key = 'it\'s a "long" \\ key/é'
    quoted = {"key %r": repr(key), "x=%s": quote(key, safe=""), '{"key": %s}': json.dumps(key, ensure_ascii=False)}[line]
    assert "long" not in Redaction(Config(api_keys=[key]))(f"before {quoted} after")


def test_a_line_without_a_secret_costs_a_few_microseconds() -> None:
    redaction, line = Redaction(Config(**SECRETS)), "client 5f2b3c1e-0000-4000-a000-000000000000 of user 'ann' connected from 127.0.0.1"
    fastest = min(timeit.repeat(lambda: redaction(line), number=200, repeat=5)) / 200
    assert fastest < 8e-6, "it is done for each line, while clients wait"
