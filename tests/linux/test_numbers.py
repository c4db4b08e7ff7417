"""Figures that were worked out by hand before there was a model: it must find them again."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestclock.linux import TK_MIRROR, Timekeeper, Timex, adjtimex_freq, clocksource
from guestclock.linux.ntp import ADJ_FREQUENCY

SECOND = 10**9
KHZ = {"1": 1_000_000, "2.1": 2_100_000, "2.4": 2_400_000, "2.9": 2_900_000, "3.0": 3_000_000}


# ---- what the rates come to

CONSTANTS = {  # GHz: mult, shift, ppm of one step of mult, seconds until a product leaves 64 bits
    "1": (8_388_608, 23, 0.119, 1981),
    "2.1": (7_989_150, 24, 0.125, 991),
    "2.4": (6_990_507, 24, 0.143, 991),
    "2.9": (5_785_247, 24, 0.173, 991),
    "3.0": (5_592_405, 24, 0.179, 991),
}


@pytest.mark.parametrize("ghz", CONSTANTS)
def test_conversion_constants(ghz):
    clock = clocksource("tsc", tsc_khz=KHZ[ghz])
    step_ppm = Fraction(10**6, clock.mult)
    horizon = Fraction(clock.max_cycles, KHZ[ghz] * 1000)
    assert (clock.mult, clock.shift, round(float(step_ppm), 3), round(horizon)) == CONSTANTS[ghz]


def test_kvm_clock_is_a_clocksource_of_nanoseconds():
    clock = clocksource("kvm-clock", tsc_khz=1)
    assert (clock.mult, clock.shift) == CONSTANTS["1"][:2]


# ---- frozen on one machine, run on another


def frozen(ghz, ppm=0, since_tick_ns=1_700_000, skip_ns=0):
    """(A timekeeper frozen now, the counter now). skip_ns: so long after the start, ticks on time."""
    khz = KHZ[ghz]
    tk = Timekeeper.start(
        clocksource("tsc", tsc_khz=khz), 10**12, hz=250, monotonic_ns=100 * SECOND, realtime_ns=10**18
    )
    tk.adjtimex(10**12, Timex(modes=ADJ_FREQUENCY, freq=adjtimex_freq(ppm * 1000)))
    tk.tick_until(10**12 + skip_ns * khz // 10**6)
    cycles = tk.cycle_last + since_tick_ns * khz // 10**6
    tk.forward_now(cycles)
    tk.timekeeping_update(TK_MIRROR)
    return tk, cycles


GAPS = {  # a gap after the freeze that is counted at the destination's rate: what MONOTONIC is off by, ns
    (1_000_000, "2.4", "2.9"): -172_000,
    (1_000_000, "2.4", "2.1"): 143_000,
    (100_000_000, "2.4", "2.9"): -17_200_000,
}


@pytest.mark.parametrize(("gap_ns", "source", "destination"), GAPS)
def test_a_gap_that_is_counted_at_the_new_rate(gap_ns, source, destination):
    tk, cycles = frozen(source)
    stop = cycles + gap_ns * KHZ[source] // 10**6
    right = tk.monotonic_ns(stop)
    tk.rebase(clocksource("tsc", tsc_khz=KHZ[destination]), cycles)
    off = tk.monotonic_ns(stop) - right
    assert off == pytest.approx(gap_ns * (Fraction(KHZ[source], KHZ[destination]) - 1), abs=3)
    assert off == pytest.approx(GAPS[gap_ns, source, destination], rel=0.004)  # given to three digits


def test_a_downtime_that_the_tsc_counts_shows_where_cycle_last_is_not_rebased():
    """The destination makes the TSC go on as if it had run: 2 s of downtime are 2 s of MONOTONIC."""
    tk, cycles = frozen("2.4")
    now = tk.monotonic_ns(cycles)
    tk.forward_now(cycles + 2 * KHZ["2.4"] * 1000)
    assert tk.monotonic_ns(tk.cycle_last) - now == pytest.approx(2 * SECOND, abs=100)
    rebased, cycles = frozen("2.4")
    rebased.rebase(rebased.clock, cycles + 2 * KHZ["2.4"] * 1000)
    assert rebased.monotonic_ns(rebased.cycle_last) == now


CASES = st.tuples(
    st.sampled_from(list(product(KHZ, KHZ))),
    st.integers(-500, 500),
    st.integers(0, 1_000_000),
    st.integers(0, 2**63),
    st.integers(0, 10**9),
)


def moved(case, close, rebase):
    """(MONOTONIC as last read by a vDSO reader that nobody stopped, at the first instant on the destination, tk)."""
    (source, destination), ppm, gap_ns, there, skip_ns = case
    tk, cycles = frozen(source, ppm, skip_ns=skip_ns)
    stop = cycles + gap_ns * KHZ[source] // 10**6
    last = tk.monotonic_ns(stop)
    if close:
        tk.forward_now(stop)
    clock = clocksource("tsc", tsc_khz=KHZ[destination])
    tk.rebase(clock, there if rebase else tk.cycle_last)
    return last, tk.monotonic_ns(there), tk


@given(CASES)
def test_a_gap_that_is_not_closed_is_a_step_back_by_all_of_it(case):
    """The 2017 text as written, cycle_last rebased, vDSO readers going on until the vCPUs stop: 1 ms is 1 ms back."""
    last, first, _ = moved(case, close=False, rebase=True)
    gap_ns = case[2]
    assert last - first == pytest.approx(gap_ns, abs=2 + gap_ns * 501 / 10**6)


@given(CASES)
def test_a_gap_that_is_closed_with_the_old_factors_is_no_step_at_all(case):
    """To the nanosecond, whatever the counter is on the destination, and through a change of shift."""
    last, first, tk = moved(case, close=True, rebase=True)
    assert first == last
    later = case[3] + KHZ[case[0][1]] * 1000
    assert tk.monotonic_ns(later) - first == pytest.approx(SECOND, abs=200)


def test_a_change_of_shift_is_among_the_cases():
    shifts = {clocksource("tsc", tsc_khz=khz).shift for khz in KHZ.values()}
    assert shifts == {23, 24}


@given(CASES)
def test_factors_swapped_without_a_rebase_never_step_back_but_jump_or_stall(case):
    """Which of the two, and how far, is whatever the counter happens to be there."""
    last, first, tk = moved(case, close=True, rebase=False)
    ahead = case[3] - tk.cycle_last
    if ahead < 0:
        assert first == last == tk.monotonic_ns(case[3] + (-ahead) // 2)
    else:
        assert first - last == pytest.approx(ahead * 10**6 / KHZ[case[0][1]], rel=1e-6, abs=2)


def test_a_tsc_put_back_by_what_it_never_counted():
    """v3 where the TSC was reset: MONOTONIC goes back to the last tick, 4 ms, and stands until it is forwarded."""
    tk, cycles = frozen("2.4", since_tick_ns=0)
    stop = cycles + 4 * KHZ["2.4"]
    before, back = tk.monotonic_ns(stop), stop - 600 * KHZ["2.4"] * 1000
    assert before - tk.monotonic_ns(back) == 4_000_000
    assert tk.monotonic_ns(back + KHZ["2.4"] * 1000) == tk.monotonic_ns(back)
    tk.forward_now(back)
    assert tk.monotonic_ns(back + KHZ["2.4"] * 1000) - tk.monotonic_ns(back) == pytest.approx(SECOND, abs=100)
