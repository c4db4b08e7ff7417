"""Numbers as a reader meets them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestclock.check import Span
from guestclock.report.numbers import (
    clock_value,
    duration,
    folded,
    grouped,
    short_duration,
    signed_duration,
    signed_span,
)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (12_980_662_000, "12 980 662 000"), (-1000, "−1 000")]
)
def test_digits_stand_in_threes(value: int, text: str) -> None:
    assert grouped(value) == text


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0 ns"),
        (-4_987, "−4 987 ns"),
        (999_999, "999 999 ns"),
        (1_000_000, "1.000 ms"),
        (1_234_567, "1.234 567 ms"),
        (5_000_000_000, "5.000 s"),
        (5_000_000_001, "5.000 000 001 s"),
        (-12_980_662_000_000, "−12 980.662 s"),
    ],
)
def test_durations_are_exact_and_short_where_they_are_round(ns: int, text: str) -> None:
    assert duration(ns) == text


@given(st.integers(-(10**19), 10**19))
def test_no_digit_of_a_duration_is_lost(ns: int) -> None:
    number, unit = duration(ns).rsplit(" ", 1)
    whole, _, part = number.replace(" ", "").replace("−", "-").partition(".")
    per = {"ns": 0, "ms": 6, "s": 9}[unit]
    assert int(whole + part.ljust(per, "0")) == ns


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (20, "+20 ns"),
        (0, "0 ns"),
        (-4_986, "−4.986 µs"),
        (999_999, "+1.000 ms"),
        (-200_000_000, "−0.200 s"),
        (999_999_600, "+1.000 s"),
        (1_100_000_000, "+1.100 s"),
        (4_158_050_957_755, "+4 158.051 s"),
    ],
)
def test_short_durations_round_to_three_decimals(ns: int, text: str) -> None:
    assert short_duration(ns) == text


def test_a_sign_where_it_matters() -> None:
    assert signed_duration(4_987) == "+4 987 ns"
    assert signed_duration(0) == "0 ns"
    assert clock_value(3_605_000_004_987) == "3 605.000 004 987"


def test_what_a_reading_leaves_open() -> None:
    assert signed_span(Span(5, 5)) == "+5 ns"
    assert signed_span(Span(-9_857, 5_969)) == "−1 944 ± 7 913 ns"
    assert signed_span(Span(5 * 10**9 - 300, 5 * 10**9 + 300)) == "+5.000 s ± 300 ns"


@given(st.integers(0, 10**14), st.integers(10, 60))
def test_lines_never_break_inside_a_number(ns: int, width: int) -> None:
    text = f"vcpu0 kvmclock steps back {duration(ns)} and more, {grouped(ns)} cycles in all"
    lines = folded(text, width)
    assert " ".join(lines) == text
    assert [line for line in lines if duration(ns) in line]
    assert [line for line in lines if f"{grouped(ns)} cycles" in line]
    atoms = (duration(ns), f"{grouped(ns)} cycles", *re.findall(r"[a-z0-9,]+", text))
    assert max(map(len, lines)) <= max(width, max(map(len, atoms)))


def test_one_of_a_thing_is_named_in_the_singular() -> None:
    from guestclock.report.numbers import counted

    told = [counted(*of) for of in ((1, "sleeps"), (2, "sleeps"), (1, "entries"), (1, "ns"), (1, "reading"))]
    assert told == ["1 sleep", "2 sleeps", "1 entry", "1 ns", "1 reading"]
