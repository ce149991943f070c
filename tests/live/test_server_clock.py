"""When a publication was made: Valkey's clock on the loop's."""

from __future__ import annotations

import pytest

from gateway.live.server_clock import WINDOW_SECONDS, ServerClock

AHEAD = 1_700_000_000  # seconds that Valkey's clock is ahead of the loop's


def ms(loop_seconds: float, ahead: float = AHEAD) -> int:
    """Valkey's unix milliseconds at that time of the loop."""
    return round((loop_seconds + ahead) * 1000)


def close_to(seconds: float) -> object:
    return pytest.approx(seconds, abs=0.002)


def test_an_announcement_that_waited_is_as_old_as_it_is() -> None:
    clock = ServerClock()
    assert clock.made_at(ms(10), 10.001) == close_to(10)
    assert clock.made_at(ms(11), 311) == close_to(11), "the process was stopped for five minutes"
    assert clock.made_at(ms(311), 311.001) == close_to(311)


def test_the_first_announcement_counts_as_new() -> None:
    assert ServerClock().made_at(ms(10), 15) == close_to(15)


@pytest.mark.parametrize("step", [-3600, 5])
def test_a_clock_that_was_set_is_followed(step: int) -> None:
    clock = ServerClock()
    for second in range(10):
        clock.made_at(ms(second), second)
    for second in range(10, 10 + 3 * int(WINDOW_SECONDS)):
        made_at = clock.made_at(ms(second, AHEAD + step), second)
        assert made_at <= second + 0.002, "at no time does a ring live longer for it"
    assert made_at == close_to(second)


def test_a_clock_of_another_pace_is_followed() -> None:
    clock, pace = ServerClock(), 0.9999  # nine seconds a day: Valkey's is slow
    for second in range(0, 100_000, 5):
        assert clock.made_at(ms(second * pace), second) == pytest.approx(second, abs=0.02)
