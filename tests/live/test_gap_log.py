"""Histories that are gone together are one line of the log."""

from __future__ import annotations

import asyncio
import logging

import pytest

from gateway.live.gap_log import GATHER_MOST_SECONDS, GapLog
from gateway.publication import Position

from ..kit.virtual_time import run_in_virtual_time

LINE = "channel c0: history after e:7 is gone; it is at f:0 now"


@pytest.mark.parametrize(
    ("channels", "pause", "lines"),
    [
        (1, 0, [LINE]),
        (5000, 0.0001, [f"{LINE}, and that of 4999 other channels"]),
        (25, 0.9, [f"{LINE}, and that of 11 other channels", f"{LINE.replace('c0', 'c12')}, and that of 12 other channels"]),
    ],
    ids=["one", "many", "without an end"],
)
def test_a_line_is_written_when_no_more_are_found_or_after_a_while(
    channels: int, pause: float, lines: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def lose() -> None:
        gaps = GapLog(asyncio.get_running_loop())
        for number in range(channels):
            gaps.add(f"c{number}", Position("e", 7), Position("f", 0))
            await asyncio.sleep(pause)
        await asyncio.sleep(GATHER_MOST_SECONDS / 4)

    with caplog.at_level(logging.INFO, "gateway.hub"):
        run_in_virtual_time(lose())
    assert [record.message for record in caplog.records][:2] == lines
