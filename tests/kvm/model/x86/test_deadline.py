"""TSC deadlines: the arithmetic of kvm-x86.md 2.6, and its bugs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestclock.arith import kvm_get_time_scale
from guestclock.kvm.model.x86 import deadline as dl

KHZ = 2_596_122
ONE = 1 << 48
u64s = st.integers(0, 2**64 - 1)


def test_a_second_from_now():
    assert dl.deadline_ns(1_000 + KHZ * 1000, 1_000, KHZ) == 10**9
    assert dl.sw_timer_ns(1_000 + KHZ * 1000, 1_000, KHZ, 1000) == 10**9 - 1000


def test_deadlines_in_the_past_or_within_the_advance_expire_at_once():
    assert dl.sw_timer_ns(1_000, 1_000, KHZ, 0) is None
    assert dl.sw_timer_ns(999, 1_000, KHZ, 0) is None
    assert dl.sw_timer_ns(1_000 + KHZ // 1000, 1_000, KHZ, 1000) is None  # 1 µs


def test_a_deadline_more_than_two_hours_away_fires_early():
    last = (2**64 - 1) // 1_000_000
    assert last / (KHZ * 1000) == pytest.approx(1.97 * 3600, rel=0.01)
    assert dl.deadline_ns(last, 0, KHZ) == pytest.approx(1.97 * 3600 * 10**9, rel=0.01)
    assert dl.deadline_ns(last + 1, 0, KHZ) < 1_000  # the product has wrapped: 1.97 h have become 0.2 µs
    three_hours = 3 * 3600 * KHZ * 1000
    assert dl.deadline_ns(three_hours, 0, KHZ) == pytest.approx((3 * 3600 - 2**64 / (KHZ * 10**9)) * 10**9, rel=1e-6)


@given(u64s, st.integers(0, (2**64 - 1) // 1_000_000), st.integers(1, 2**32 - 1))
def test_up_to_the_wrap_it_is_the_exact_quotient(now, delta, khz):
    assert dl.deadline_ns((now + delta) % 2**64, now, khz) == delta * 1_000_000 // khz


def test_a_timer_of_ns_as_a_deadline():
    shift, mult = kvm_get_time_scale(KHZ * 1000, 10**9)
    assert dl.target_deadline(5, 10**9, mult, shift) == 5 + 2_596_121_999


def test_the_preemption_timer_counts_host_cycles():
    assert dl.preemption_timer_cycles(10_000, 4_000, 1_000, ONE, 48, 5) == 5_000
    assert dl.preemption_timer_cycles(10_000, 9_500, 1_000, ONE, 48, 5) == 0
    assert dl.preemption_timer_cycles(10_000, 11_000, 0, ONE, 48, 5) == 0
    assert dl.preemption_timer_cycles(10_000, 0, 0, 2 * ONE, 48, 5) == 5_000
    assert dl.preemption_timer_cycles(10_000, 0, 0, ONE // 4, 48, 5) == 40_000


def test_what_the_preemption_timer_cannot_reach_is_left_to_an_hrtimer():
    assert dl.preemption_timer_cycles(2**37 - 1, 0, 0, ONE, 48, 5) == 2**37 - 1
    assert dl.preemption_timer_cycles(2**37, 0, 0, ONE, 48, 5) is None
    assert dl.preemption_timer_cycles(2**63, 0, 0, ONE // 2**17, 48, 31) is None  # the quotient needs 65 bits


@given(st.integers(-20_000, 20_000), st.integers(0, 5000))
def test_the_advance_learns_an_eighth_and_stays_within_bounds(late, advance_ns):
    after = dl.adjusted_advance_ns(advance_ns, late, KHZ)
    step = abs(late) * 1_000_000 // KHZ // 8
    if abs(late) < 100 or abs(late) > 10_000:
        assert after == advance_ns
    else:
        aim = advance_ns + (step if late > 0 else -step)
        assert after == (aim if 0 <= aim <= 5000 else 1000)
