"""Clocksources: rates as the kernel registers them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestclock.arith import U64_MAX, clocks_calc_mult_shift, clocksource_update_freq_scale
from guestclock.errors import UserError
from guestclock.linux import VCLOCK_HVCLOCK, VCLOCK_NONE, VCLOCK_PVCLOCK, VCLOCK_TSC, clocksource
from guestclock.linux.clocksource import HPET_HZ, mult_shift

MASK_32 = 2**32 - 1


def test_the_test_machines_tsc():
    tsc = clocksource("tsc", tsc_khz=2_596_122)
    assert (tsc.mult, tsc.shift, tsc.vclock_mode) == (6462414, 24, VCLOCK_TSC)


@pytest.mark.parametrize(
    ("khz", "mult", "shift"),
    [(2_100_000, 7989150, 24), (2_400_000, 6990507, 24), (2_900_000, 5785247, 24), (3_000_000, 5592405, 24)],
)
def test_the_references_table(khz, mult, shift):
    assert mult_shift(khz, 1000, U64_MAX) == (mult, shift)


def test_kvm_clock_is_exactly_a_nanosecond_a_cycle():
    kvm_clock = clocksource("kvm-clock", tsc_khz=1)
    assert (kvm_clock.mult, kvm_clock.shift) == (8388608, 23)
    assert kvm_clock.mult == 1 << kvm_clock.shift


@given(st.integers(1, 2**32 - 1), st.sampled_from([1, 1000]))
def test_a_wide_counter_is_registered_as_arith_says(freq, scale):
    assert mult_shift(freq, scale, U64_MAX) == clocksource_update_freq_scale(freq, scale)
    assert mult_shift(freq, 1000, U64_MAX) == clocks_calc_mult_shift(freq)


def test_a_narrow_counter_gets_a_finer_mult():
    """An HPET of 32 bits wraps after 299 s, so 600 s need not fit: two more bits."""
    narrow, wide = mult_shift(HPET_HZ, 1, MASK_32), mult_shift(HPET_HZ, 1, U64_MAX)
    assert (narrow, wide) == ((2343484437, 25), (585871109, 23))


@given(st.integers(1_000_000, 2**32 - 1), st.sampled_from([MASK_32, U64_MAX]))
def test_mult_is_within_half_a_step_of_the_rate_and_leaves_room_to_slew(freq, mask):
    mult, shift = mult_shift(freq, 1, mask)
    off = abs(mult * freq - (10**9 << shift))
    halved = 2 * (mult + 1) * 111 // 100 >= 2**32  # for the room to slew, after rounding
    assert off <= freq if halved else off * 2 <= freq
    assert mult + mult * 11 // 100 < 2**32
    assert mult * freq * 600 < 2**64 or (mask == MASK_32 and mult * 2**32 < 2**64)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("tsc", VCLOCK_TSC), ("hpet", VCLOCK_NONE), ("kvm-clock", VCLOCK_PVCLOCK), ("hyperv", VCLOCK_HVCLOCK)],
)
def test_vclock_modes(name, mode):
    assert clocksource(name, tsc_khz=2_596_122).vclock_mode == mode


def test_an_unknown_name_is_told_with_the_nearest_one():
    with pytest.raises(
        UserError, match=r"clocksource: unknown 'tcs' \(did you mean 'tsc'\?\), expected one of tsc, hpet"
    ):
        clocksource("tcs", tsc_khz=1)


def test_horizons():
    """suspend-and-freeze D2: 991 s at 2.9 GHz for 64-bit products; 7/8 of the range for the accumulating side."""
    tsc = clocksource("tsc", tsc_khz=2_900_000)
    assert tsc.max_cycles // 2_900_000_000 == 990
    assert tsc.max_raw_delta == 7 * 2**61 - 3
    assert clocksource("hpet", tsc_khz=1).max_cycles == min(MASK_32, 2**64 // (2343484437 * 111 // 100))
