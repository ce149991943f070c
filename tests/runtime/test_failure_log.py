"""Failures in a row: the first is for people."""

from __future__ import annotations

import logging

import pytest

from gateway.runtime.failure_log import FailureLog

log = logging.getLogger("tests.failures")


def test_the_first_of_each_row_is_logged_at_the_level_and_the_others_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    failures = FailureLog(log, logging.ERROR)
    with caplog.at_level(logging.DEBUG, logger=log.name):
        assert not failures.worked()
        failures.failed("no %s", "answer")
        failures.failed("no %s", "answer again")
        assert failures.worked()
        assert not failures.worked()
        failures.failed("%s", "nothing")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("ERROR", "no answer"),
        ("DEBUG", "no answer again"),
        ("ERROR", "nothing"),
    ]
