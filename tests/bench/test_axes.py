"""Scales, and numbers as people read them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.bench.amounts import amount, byte_count, number, percent, tick_names
from gateway.bench.axes import cost_scale, fitted_scale

VALUES = st.lists(st.floats(-1e15, 1e15).filter(lambda value: value == 0 or abs(value) > 1e-12), min_size=1, max_size=8)
SCALES = st.sampled_from(["linear", "log"])


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0"),
        (0.98765, "0.988"),
        (4.30, "4.3"),
        (99.96, "100"),
        (1_019_999, "1,020,000"),
        (-3.5, "−3.5"),
        (0.00001, "10⁻⁵"),
        (1.25e15, "1.25 × 10¹⁵"),
        (math.nan, "–"),
    ],
)
def test_a_number_has_three_digits(value: float, text: str) -> None:
    assert number(value) == text


def test_amounts_have_their_unit_and_changes_their_sign() -> None:
    assert (amount(11.24, "µs"), amount(53, ""), amount(800_000, "1/s")) == ("11.2 µs", "53", "800,000 a second")
    assert (percent(0.304), percent(-0.5), percent(11), percent(math.inf)) == ("+30 %", "−50 %", "12 ×", "– ×")
    assert (byte_count(512), byte_count(8 * 2**30)) == ("0.5 KiB", "8 GiB")


def test_ticks_are_told_apart() -> None:
    assert tick_names([0, 500_000, 1e6, 1.5e6]) == ["0", "500,000", "1M", "1.5M"]
    assert tick_names([1_000_001, 1_000_002]) == ["1.000001M", "1.000002M"]


def test_a_linear_axis_of_costs_begins_at_zero_and_ends_at_a_round_number() -> None:
    assert cost_scale([61, 103], "linear").ticks == (0, 50, 100, 150)
    assert cost_scale([0, 0], "linear").ticks == (0, 0.25, 0.5, 0.75, 1)


def test_a_logarithmic_axis_has_powers_of_ten_and_small_ones_twos_and_fives() -> None:
    assert fitted_scale([1, 10_000], "log").ticks == (1, 10, 100, 1000, 10_000)
    assert cost_scale([3, 8], "log").ticks == (2, 5, 10)


def test_a_logarithmic_axis_of_values_with_zero_is_linear() -> None:
    assert not fitted_scale([0, 100], "log").log
    assert not cost_scale([-1, 100], "log").log


@settings(max_examples=50)
@given(VALUES, SCALES)
def test_every_value_has_its_place_on_the_paper_and_ticks_are_few(values: list[float], scale: str) -> None:
    for made in (cost_scale(values, scale), fitted_scale(values, scale)):  # type: ignore[arg-type]  # hypothesis knows no Literal
        assert all(-1e-6 <= made.place(value) <= 1 + 1e-6 for value in (*values, *made.ticks))
        assert 1 <= len(made.ticks) <= 12
        assert list(made.ticks) == sorted(set(made.ticks))
