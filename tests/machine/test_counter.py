"""Counters as functions of true time."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestclock.machine import Counter, Derived

PS = st.integers(0, 10**18)
HZ = st.integers(1, 10**10) | st.fractions(1, 10**10, max_denominator=1000)


@given(HZ, st.integers(0, 2**63), PS, PS)
def test_a_counter_is_the_floor_of_its_line(hz, base, since, elapsed):
    counter = Counter(hz, base, since)
    exact = base + elapsed * Fraction(hz) / 10**12
    assert counter.at(since + elapsed) == exact.numerator // exact.denominator % 2**64


@given(HZ, st.integers(0, 2**63), PS, st.integers(1, 10**13))
def test_before_its_start_it_goes_on_backwards(hz, base, since, earlier):
    counter = Counter(hz, base, since)
    assert counter.at(since - earlier) <= base or base < hz * earlier


def test_it_wraps_at_64_bits():
    assert Counter(10**12, 2**64 - 1).at(1) == 0


def test_each_cpu_may_be_ahead_or_behind():
    counter = Counter(10**9, 1000, skew=(0, 7, -7))
    assert [counter.at(5000, cpu) for cpu in range(3)] == [1005, 1012, 998]
    assert [Counter(10**9, 1000).at(5000, cpu) for cpu in range(3)] == [1005] * 3


@given(HZ, HZ, st.integers(0, 10**15), st.integers(0, 10**15))
def test_a_new_rate_begins_where_the_old_one_was(hz, then, at, later):
    bent = Counter(hz, 100)
    before = bent.at(at)
    bent.set_rate(at, then)
    assert bent.at(at) == before
    assert bent.at(at + later) == Counter(then, before, at).at(at + later)


def test_one_cpus_rate_may_change_alone():
    counter = Counter(10**9, skew=(0, 0))
    counter.set_rate(1_000_000, 2 * 10**9, cpu=1)
    assert (counter.at(2_000_000, 0), counter.at(2_000_000, 1)) == (2000, 3000)


def test_a_held_counter_holds_and_goes_on_where_it_stopped_or_where_told():
    counter = Counter(10**9, skew=(0, 50))
    counter.hold(1_000_000)
    assert [counter.at(t, 1) for t in (1_000_000, 9_000_000)] == [1050, 1050]
    counter.release(5_000_000)
    assert [counter.at(6_000_000, cpu) for cpu in (0, 1)] == [2000, 2050]
    counter.hold(6_000_000)
    counter.release(7_000_000, base=0)
    assert [counter.at(7_001_000, cpu) for cpu in (0, 1)] == [1, 1]


def test_a_rate_that_changes_while_held_counts_from_the_release():
    counter = Counter(10**9)
    counter.hold(1_000_000)
    counter.set_rate(2_000_000, 3 * 10**9)
    assert counter.at(4_000_000) == 1000
    counter.release(4_000_000)
    assert counter.at(5_000_000) == 4000


def test_a_derived_counter_is_a_rule_over_another_on_the_same_cpu():
    below = Counter(10**9, skew=(0, 100))
    assert Derived(below, lambda tsc: 2 * tsc + 1).at(1_000_000, 1) == 2201


@pytest.mark.parametrize("hz", [0.5, 2.5e9])
def test_float_rates_are_exact_fractions_if_anything(hz):
    assert Counter(Fraction(hz)).at(10**12) == int(hz)
