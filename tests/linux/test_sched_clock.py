"""The scheduler's clocks: how fine, how continuous, and what a jump does to them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestclock.linux.sched_clock import Charged, GenericSchedClock, KvmSchedClock, NativeSchedClock, cyc2ns_scale

KHZ = st.integers(100_000, 5_000_000)
SECOND = 10**9


@given(KHZ, st.integers(0, 2**60), st.integers(0, 10**16))
def test_native_begins_at_0_and_counts_true_to_one_step_of_its_multiplier(khz, start, cycles):
    clock = NativeSchedClock.start(khz, start)
    assert clock.ns(start) == 0
    true = cycles * 10**6 / khz
    assert abs(clock.ns(start + cycles) - true) <= 2 + true / clock.mul


@given(KHZ)
def test_its_shift_is_at_most_31(khz):
    mul, shift = cyc2ns_scale(khz)
    assert shift <= 31
    assert mul < 2**32


@given(KHZ, KHZ, st.integers(0, 2**60))
def test_a_change_of_rate_is_continuous(khz, other, tsc):
    clock = NativeSchedClock.start(khz, 1000)
    before = clock.ns(tsc + 1000)
    clock.set_scale(other, tsc + 1000)
    assert clock.ns(tsc + 1000) == before
    assert clock.ns(tsc + 1000 + other * 1000) - before == pytest.approx(SECOND, abs=3)


def test_the_kernels_own_sleep_is_not_in_it_and_the_hosts_is():
    clock = NativeSchedClock.start(2_400_000, 0)
    clock.suspend(2_400_000 * 1000)
    clock.resume(77)
    assert clock.ns(77) == pytest.approx(SECOND, abs=1)
    # Nobody tells it of its host's: a counter that jumped is time that passed.
    assert clock.ns(77 + 600 * 2_400_000_000) - clock.ns(77) == pytest.approx(
        600 * SECOND, abs=600 * SECOND / clock.mul
    )
    assert clock.ns(76) <= clock.ns(77)


def test_kvms_is_kvmclock_less_a_constant():
    clock = KvmSchedClock(offset_ns=5 * SECOND, stable=True)
    assert clock.ns(5 * SECOND) == 0
    assert clock.ns(605 * SECOND) == 600 * SECOND
    assert clock.ns(4 * SECOND) > 2**63, "a kvmclock that begins again below is 584 years ahead"


def test_arm64s_halts_over_its_own_suspend():
    clock = GenericSchedClock.start(62_500_000, 10**9)
    now = clock.ns(10**9 + 62_500_000)
    assert now == pytest.approx(SECOND, abs=1)
    clock.suspend(10**9 + 62_500_000)
    assert clock.ns(10**12) == now
    clock.resume(10**12)
    assert clock.ns(10**12) == now
    assert clock.ns(10**12 + 62_500_000) - now == pytest.approx(SECOND, abs=1)


def test_a_jump_is_charged_to_who_ran_but_for_what_steal_covers():
    """600 s of a host's sleep: all of it to the task; as steal time (the series of 2024), none."""
    task = Charged()
    assert task.update(SECOND, 0) == SECOND
    assert task.update(601 * SECOND, 0) == 600 * SECOND
    told = Charged()
    told.update(SECOND, 0)
    assert told.update(601 * SECOND, 600 * SECOND) == 0
    # More steal than time is dropped, not owed.
    assert told.update(602 * SECOND, 700 * SECOND) == 0
    assert told.update(603 * SECOND, 700 * SECOND) == SECOND
