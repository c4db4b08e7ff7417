from __future__ import annotations

import statistics
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestclock.runs.timed import Timed


def timed(ticks: list[int], exits: int | None = 0, emulated: int | None = 0) -> Timed:
    return Timed(tuple(sorted(Counter(ticks).items())), exits, emulated)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=200))
def test_statistics_are_those_of_the_samples_one_by_one(ticks: list[int]) -> None:
    found = timed(ticks)
    assert found.samples == len(ticks)
    assert found.average == statistics.mean(map(Fraction, ticks))
    assert found.std_dev == pytest.approx(statistics.pstdev(ticks), rel=1e-9, abs=1e-9)
    assert (found.minimum, found.maximum) == (min(ticks), max(ticks))


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=200), st.integers(1, 100))
def test_a_percentile_is_a_sample_that_so_many_do_not_exceed(ticks: list[int], percent: int) -> None:
    at = timed(ticks).percentile(percent)
    assert at in ticks
    assert 100 * sum(t <= at for t in ticks) >= percent * len(ticks)
    assert 100 * sum(t < at for t in ticks) < percent * len(ticks)


def test_percentiles_by_hand() -> None:
    hundred = timed(list(range(1, 101)))
    assert [hundred.percentile(p) for p in (1, 25, 50, 95, 100)] == [1, 25, 50, 95, 100]
    assert timed([7]).percentile(95) == 7


def test_what_an_interrupt_adds_is_left_out_and_counted() -> None:
    found = timed([10] * 97 + [11, 13, 5000])
    assert found.outlier_above(grain=1) == 13
    assert found.outliers(grain=1) == 1
    assert found.undisturbed(grain=1) == Fraction(970 + 11 + 13, 99)
    assert found.average == Fraction(970 + 11 + 13 + 5000, 100)


def test_a_coarse_counters_next_step_is_no_outlier() -> None:
    """Four in five samples one step, the fifth two: both quartiles are one and the same."""
    found = timed([26] * 80 + [52] * 20)
    assert found.outliers(grain=26) == 0
    assert found.undisturbed(grain=26) == found.average
    assert found.outliers(grain=1) == 20, "this is what knowing the grain is for"


def test_a_wide_spread_has_its_fence_farther_out() -> None:
    found = timed([100] * 25 + [200] * 50 + [300] * 24 + [601])
    assert found.outlier_above(grain=1) == 200 + 3 * 100
    assert found.outliers(grain=1) == 1


@pytest.mark.parametrize(
    ("exits", "emulated", "how"),
    [
        (0, 0, "native"),
        (9, 9, "native"),
        (10, 0, "exits"),
        (10, 10, "exits"),
        (3, 160, "emulated"),
        (None, None, "native"),
    ],
)
def test_kvms_statistics_say_what_became_of_ten_reads(exits: int | None, emulated: int | None, how: str) -> None:
    assert timed([1] * 10, exits, emulated).how == how
