"""A stranger's requests, each with a line of the log, do not fill the disk."""

from __future__ import annotations

import logging

import pytest

from gateway.cli.log_setup import LINES_PER_SECOND, LINES_SECONDS, StrangersLines

from ..kit.clock import FrozenClock

AT_ONCE = int(LINES_PER_SECOND * LINES_SECONDS)


def line(text: str, *args: object, logger: str = "gateway.api", level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord(logger, level, __file__, 1, text, args, None)


def test_of_lines_that_anybody_can_cause_some_are_written_and_the_others_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    clock = FrozenClock()
    lines = StrangersLines(clock)
    with caplog.at_level(logging.INFO):
        written = [lines.filter(line("refused, %d", number)) for number in range(AT_ONCE + 50)]
        assert sum(written) == AT_ONCE and not caplog.messages
        assert lines.filter(line("another form")), "each form counts for itself"
        clock.pass_time(1)
        assert sum(lines.filter(line("refused, %d", number)) for number in range(50)) == LINES_PER_SECOND
    assert caplog.messages == ["50 lines like the next one were left out"]


def test_so_are_those_of_requests_that_are_no_http() -> None:
    lines = StrangersLines(FrozenClock())
    garbage = [
        lines.filter(line("Invalid HTTP request received.", logger="uvicorn.error", level=logging.WARNING)) for _ in range(2 * AT_ONCE)
    ]
    assert sum(garbage) == AT_ONCE
    assert lines.filter(line("Exception in ASGI application", logger="uvicorn.error", level=logging.ERROR))


@pytest.mark.parametrize("options", [{"level": logging.WARNING}, {"logger": "gateway.worker"}, {"logger": "shop"}], ids=str)
def test_warnings_and_what_no_stranger_can_cause_are_always_written(options: dict[str, object]) -> None:
    lines = StrangersLines(FrozenClock())
    assert all(lines.filter(line("a line", **options)) for _ in range(2 * AT_ONCE))  # type: ignore[arg-type]
