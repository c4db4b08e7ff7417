"""The timekeeper against the kernel's loops, tick by tick, and against what must hold of any timekeeper."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestclock.linux import Timekeeper, Timex, adjtimex_freq, clocksource, tick_length
from guestclock.linux.ntp import ADJ_FREQUENCY
from guestclock.sim import WidthObserver, watching

KHZ = st.sampled_from([999_999, 1_000_000, 2_100_000, 2_596_122, 2_900_000, 3_400_001])
HZ = st.sampled_from([100, 250, 300, 1000])
NAMES = st.sampled_from(["tsc", "hpet", "kvm-clock", "hyperv"])
PPB = st.integers(-500_000, 500_000)
FREQ = PPB.map(adjtimex_freq)
SECOND = 10**9


class Loops:
    """The same kernel functions as loops over normalised fields, as the C has them: the oracle.

    One tick whenever cycle_interval is complete; each accumulates (by powers of two) and adjusts.
    """

    def __init__(self, clock, cycles, hz, monotonic_ns):
        self.clock, self.hz = clock, hz
        self.cycle_last = cycles
        self.xtime_sec, rest = divmod(monotonic_ns, SECOND)
        self.raw_sec = self.xtime_sec
        self.xtime_nsec = self.raw_nsec = rest << clock.shift
        self.tick_length = self.tick_base = tick_length(0, hz)
        self.setup()

    def setup(self):
        clock = self.clock
        interval = (SECOND // self.hz) << clock.shift
        self.cycle_interval = max((interval + clock.mult // 2) // clock.mult, 1)
        self.xtime_interval = self.cycle_interval * clock.mult
        self.xtime_remainder = interval - self.xtime_interval
        self.raw_interval = self.cycle_interval * clock.mult
        self.mult = clock.mult
        self.error_shift = 32 - clock.shift
        self.ntp_tick = interval << self.error_shift
        self.ntp_error = self.err_mult = 0

    def normalise(self):
        one = SECOND << self.clock.shift
        while self.xtime_nsec >= one:
            self.xtime_nsec -= one
            self.xtime_sec += 1
        while self.raw_nsec >= one:
            self.raw_nsec -= one
            self.raw_sec += 1

    def accumulate(self, offset):
        shift = max(offset.bit_length() - self.cycle_interval.bit_length(), 0) if offset else 0
        while offset >= self.cycle_interval:
            interval = self.cycle_interval << shift
            if offset >= interval:
                offset -= interval
                self.cycle_last += interval
                self.xtime_nsec += self.xtime_interval << shift
                self.raw_nsec += self.raw_interval << shift
                self.normalise()
                self.ntp_error += self.ntp_tick << shift
                self.ntp_error -= (self.xtime_interval + self.xtime_remainder) << (self.error_shift + shift)
            if offset < self.cycle_interval << shift:
                shift -= 1
        return offset

    def adjust(self, offset):
        if self.ntp_tick == self.tick_length:
            mult = self.mult - self.err_mult
        else:
            self.ntp_tick = self.tick_length
            mult = ((self.ntp_tick >> self.error_shift) - self.xtime_remainder) // self.cycle_interval
        self.err_mult = 1 if self.ntp_error > 0 else 0
        mult += self.err_mult
        step = mult - self.mult
        self.mult += step
        self.xtime_interval += self.cycle_interval * step
        self.xtime_nsec -= offset * step
        self.ntp_error += (offset * step) << self.error_shift
        if self.xtime_nsec < 0:
            self.xtime_nsec += SECOND << self.clock.shift
            self.xtime_sec -= 1
        self.normalise()

    def advance(self, cycles):
        """One tick, however late."""
        if cycles - self.cycle_last >= self.cycle_interval:
            self.adjust(self.accumulate(cycles - self.cycle_last))

    def tick_until(self, cycles):
        while cycles - self.cycle_last >= self.cycle_interval:
            self.advance(self.cycle_last + self.cycle_interval)

    def adjust_frequency(self, cycles, freq):
        self.tick_until(cycles)
        base = tick_length(freq, self.hz)
        self.tick_length += base - self.tick_base
        self.tick_base = base
        self.adjust(self.accumulate(cycles - self.cycle_last))

    def forward_now(self, cycles):
        delta = cycles - self.cycle_last
        self.cycle_last = cycles
        self.xtime_nsec += delta * self.mult
        self.raw_nsec += delta * self.clock.mult
        self.normalise()

    def change_clocksource(self, clock, cycles, new_cycles):
        self.forward_now(cycles)
        shift = clock.shift - self.clock.shift
        self.xtime_nsec = self.xtime_nsec << shift if shift > 0 else self.xtime_nsec >> -shift
        self.raw_nsec = self.raw_nsec << shift if shift > 0 else self.raw_nsec >> -shift
        self.clock, self.cycle_last = clock, new_cycles
        self.setup()
        self.tick_length = self.tick_base

    def monotonic_ns(self, cycles):
        return self.xtime_sec * SECOND + (
            (self.xtime_nsec + (cycles - self.cycle_last) * self.mult) >> self.clock.shift
        )

    def raw_ns(self, cycles):
        return self.raw_sec * SECOND + (
            (self.raw_nsec + (cycles - self.cycle_last) * self.clock.mult) >> self.clock.shift
        )

    def state(self):
        shift = self.clock.shift
        return (
            self.cycle_last,
            self.mult,
            self.ntp_error,
            self.err_mult,
            (self.xtime_sec * SECOND << shift) + self.xtime_nsec,
            (self.raw_sec * SECOND << shift) + self.raw_nsec,
        )


def slew(tk, cycles, freq):
    """adjtimex(ADJ_FREQUENCY) on a timekeeper whose ticks come on time."""
    tk.tick_until(cycles)
    tk.adjtimex(cycles, Timex(modes=ADJ_FREQUENCY, freq=freq))


def state_of(tk):
    return (tk.cycle_last, tk.mono_mult, tk.ntp_error, tk.ntp_err_mult, tk.mono_snsec, tk.raw_snsec)


def both(name, khz, hz, cycles, monotonic_ns=5 * SECOND):
    clock = clocksource(name, tsc_khz=khz)
    tk = Timekeeper.start(clock, cycles, hz=hz, monotonic_ns=monotonic_ns, realtime_ns=monotonic_ns + 10**18)
    return tk, Loops(clock, cycles, hz, monotonic_ns)


def agree(tk, loops, cycles):
    return (
        state_of(tk) == loops.state()
        and tk.monotonic_ns(cycles) == loops.monotonic_ns(cycles)
        and tk.raw_ns(cycles) == loops.raw_ns(cycles)
    )


# What may happen between two looks: ("pass", ticks, part of a tick in 2^-16), ("freq", freq) or ("source", name).
EVENTS = st.lists(
    st.tuples(st.just("pass"), st.integers(0, 700), st.integers(0, 65535))
    | st.tuples(st.just("freq"), FREQ)
    | st.tuples(st.just("source"), NAMES),
    max_size=8,
)


def play(tk, loops, events, start, khz, look):
    """Both through the same events; `look(cycles)` after each."""
    cycles = start
    for event in events:
        if event[0] == "pass":
            cycles += event[1] * tk.cycle_interval + (event[2] * tk.cycle_interval >> 16)
            tk.tick_until(cycles)
            loops.tick_until(cycles)
        elif event[0] == "freq":
            slew(tk, cycles, event[1])
            loops.adjust_frequency(cycles, event[1])
        else:
            new = clocksource(event[1], tsc_khz=khz)
            tk.tick_until(cycles)
            loops.tick_until(cycles)
            tk.change_clocksource(new, cycles, cycles + 12345)
            loops.change_clocksource(new, cycles, cycles + 12345)
            cycles += 12345
        look(cycles)
    return cycles


@settings(deadline=None)
@given(NAMES, KHZ, HZ, st.integers(0, 2**62), EVENTS)
def test_lazy_ticks_are_the_kernels_loop(name, khz, hz, start, events):
    with watching(WidthObserver()):
        tk, loops = both(name, khz, hz, start)

        def look(cycles):
            assert agree(tk, loops, cycles)

        play(tk, loops, events, start, khz, look)


@settings(deadline=None)
@given(
    KHZ,
    FREQ,
    st.sampled_from(["0", "grow", "grow - step", "-step", "2 * step", "grow - 3 * step"]),
    st.integers(-2, 2) | st.integers(-(10**11), 10**11),
    st.integers(1, 60),
)
def test_dithering_from_any_error_is_the_kernels_loop(khz, freq, around, more, ticks):
    """Errors at and around the borders of the range that the closed form relies on, and far outside."""
    tk, loops = both("tsc", khz, 250, 0)
    slew(tk, 0, freq)
    loops.adjust_frequency(0, freq)
    grow, step = tk._error_per_tick(), tk.cycle_interval << tk._error_shift
    borders = {
        "0": 0, "grow": grow, "grow - step": grow - step, "-step": -step, "2 * step": 2 * step,
        "grow - 3 * step": grow - 3 * step,
    }  # fmt: skip
    tk.ntp_error = loops.ntp_error = borders[around] + more
    cycles = ticks * tk.cycle_interval
    tk.tick_until(cycles)
    loops.tick_until(cycles)
    assert agree(tk, loops, cycles)


def never_dithers(tk, ticks):
    cycles = ticks * tk.cycle_interval
    tk.cycle_last += cycles
    tk.mono_snsec += cycles * tk.mono_mult
    tk.raw_snsec += cycles * tk.raw_mult


def test_the_loop_catches_a_timekeeper_that_does_not_dither(monkeypatch):
    monkeypatch.setattr(Timekeeper, "_dither", never_dithers)
    tk, loops = both("tsc", 2_596_122, 250, 0)
    slew(tk, 0, adjtimex_freq(100))
    loops.adjust_frequency(0, adjtimex_freq(100))
    later = 1000 * tk.cycle_interval
    tk.tick_until(later)
    loops.tick_until(later)
    assert not agree(tk, loops, later)


@settings(deadline=None)
@given(KHZ, HZ, FREQ, st.lists(st.integers(1, 400), min_size=1, max_size=6), st.integers(0, 65535))
def test_a_late_tick_is_the_kernels_late_tick(khz, hz, freq, gaps, part):
    """advance(): all complete intervals at one multiplier, one adjustment, the rest of the interval kept."""
    tk, loops = both("tsc", khz, hz, 0)
    slew(tk, 0, freq)
    loops.adjust_frequency(0, freq)
    cycles = 0
    for gap in gaps:
        cycles += gap * tk.cycle_interval + (part * tk.cycle_interval >> 16)
        tk.advance(cycles)
        loops.advance(cycles)
        assert agree(tk, loops, cycles)


@settings(deadline=None)
@given(KHZ, HZ, FREQ, st.integers(0, 500), st.integers(1, 500))
def test_how_far_idle_ticks_can_lead_astray(khz, hz, freq, before, gap):
    """A CPU that sleeps through `gap` ticks keeps its multiplier: at most one step of it, times the gap."""
    eager, late = (both("tsc", khz, hz, 0)[0] for _ in range(2))
    for tk in (eager, late):
        slew(tk, 0, freq)
        tk.tick_until(before * tk.cycle_interval)
    cycles = (before + gap) * eager.cycle_interval
    eager.tick_until(cycles)
    late.advance(cycles)
    apart = abs(eager.monotonic_ns(cycles) - late.monotonic_ns(cycles))
    assert apart <= (gap * eager.cycle_interval >> eager.clock.shift) + 1


# ---- MONOTONIC_RAW is a line


@settings(deadline=None)
@given(KHZ, HZ, st.integers(0, 2**62), FREQ, st.lists(st.tuples(st.integers(0, 10**12), st.booleans()), max_size=6))
def test_raw_is_one_line_however_often_it_is_accumulated(khz, hz, start, freq, moves):
    """floor((A + T * mult) >> shift), for T before and after any accumulation; NTP and REALTIME do not matter."""
    tk, _ = both("tsc", khz, hz, start)
    a, mult, shift = tk.raw_line()
    cycles = start
    for step, settime in moves:
        cycles += step
        slew(tk, cycles, freq) if not settime else tk.inject_offset(cycles, -1_000)
        cycles += 17
        tk.tick_until(cycles)
        for at in (cycles, cycles + 10**10):
            assert tk.raw_ns(at) == (a + at * mult) >> shift
    assert tk.raw_line() == (a, mult, shift)


def test_monotonic_is_not_that_line_once_it_is_slewed():
    tk, _ = both("tsc", 2_596_122, 250, 0)
    a, mult, shift = tk.raw_line()
    slew(tk, 0, adjtimex_freq(50_000))
    assert tk.monotonic_ns(10**10) != (a + 10**10 * mult) >> shift


def test_without_ntp_monotonic_and_raw_are_one():
    tk, _ = both("tsc", 2_596_122, 250, 0)
    assert tk.steady
    tk.tick_until(10**13)
    assert tk.steady
    assert tk.monotonic_ns(10**13 + 5) == tk.raw_ns(10**13 + 5)


def test_at_300_hz_a_tick_is_no_whole_number_of_ns_and_the_kernel_slews_from_the_start():
    tk, _ = both("tsc", 2_596_122, 300, 0)
    assert not tk.steady
    tk.tick_until(2_596_122_000 * 1000)
    assert tk.monotonic_ns(tk.cycle_last) != tk.raw_ns(tk.cycle_last)


@settings(deadline=None)
@given(KHZ, st.sampled_from([100, 250, 1000]), FREQ, st.integers(0, 10**5), st.integers(1, 10**7))
def test_steady_means_that_ticks_can_be_left_out(khz, hz, freq, before, ticks):
    """After a slew is over MONOTONIC is a line again, parallel to RAW."""
    ticked, left = (both("tsc", khz, hz, 0)[0] for _ in range(2))
    for tk in (ticked, left):
        slew(tk, 0, freq)
        slew(tk, before * tk.cycle_interval + 99, 0)
        tk.tick_until((before + 10_000) * tk.cycle_interval)
    assert left.steady
    cycles = ticked.cycle_last + ticks * ticked.cycle_interval + 5
    ticked.tick_until(cycles)
    assert ticked.monotonic_ns(cycles) == left.monotonic_ns(cycles)
    ticked.forward_now(cycles)
    left.forward_now(cycles)
    assert state_of(ticked) == state_of(left)


@settings(deadline=None)
@given(
    KHZ,
    st.lists(
        st.tuples(st.just("freq"), st.sampled_from([0, 0, 0, 6554, -6554]))
        | st.tuples(st.just("pass"), st.integers(0, 3), st.integers(0, 65535))
        | st.tuples(st.just("step")),
        min_size=1,
        max_size=6,
    ),
)
def test_steady_is_said_only_where_it_is_true(khz, events):
    tk, loops = both("tsc", khz, 250, 0)
    cycles = 0
    for event in events:
        if event[0] == "step":
            tk.inject_offset(cycles, 1)
        else:
            cycles = play(tk, loops, [event], cycles, khz, lambda c: None)
    if tk.steady:
        later = cycles + 1000 * tk.cycle_interval
        unticked = tk.monotonic_ns(later), tk.raw_ns(later)
        rate = tk.mono_mult
        tk.tick_until(later)
        assert ((tk.monotonic_ns(later), tk.raw_ns(later)), tk.mono_mult) == (unticked, rate)


@pytest.mark.parametrize("then", ["step", "offset"])
def test_a_correction_under_way_is_not_steady(then):
    """A multiplier that is one more until the next tick; an error that the next tick will see."""
    tk, _ = both("tsc", 2_596_122, 250, 0)
    half = tk.cycle_interval // 2
    slew(tk, 0, adjtimex_freq(-100_000))
    slew(tk, half, 0)
    assert (tk._error_per_tick(), tk.ntp_err_mult, tk.ntp_error > 0) == (0, 0, True)
    if then == "step":
        tk.tick_until(tk.cycle_interval)
        tk.inject_offset(tk.cycle_interval, 5)
        assert (tk.ntp_err_mult, tk.ntp_error) == (1, 0)
    assert not tk.steady


def test_while_slewed_no_tick_can_be_left_out():
    tk, _ = both("tsc", 2_596_122, 250, 0)
    slew(tk, 0, adjtimex_freq(100))
    assert not tk.steady
    later = 10**6 * tk.cycle_interval
    unticked = tk.monotonic_ns(later)
    tk.tick_until(later)
    assert tk.monotonic_ns(later) != unticked


# ---- MONOTONIC is continuous, REALTIME steps, BOOTTIME sleeps


@settings(deadline=None)
@given(NAMES, KHZ, HZ, EVENTS)
def test_monotonic_never_goes_back_and_no_change_moves_it(name, khz, hz, events):
    """At a change of rate or clocksource the value stays, to the ns (0: both sides floor the same sum)."""
    tk, loops = both(name, khz, hz, 1000)
    before = [tk.monotonic_ns(1000)]
    cycles = 1000
    for event in events:
        if event[0] == "pass":
            cycles = play(tk, loops, [event], cycles, khz, lambda c: None)
            assert tk.monotonic_ns(cycles) >= before[-1]
        else:
            tk.tick_until(cycles)
            at_change = (tk.monotonic_ns(cycles), tk.raw_ns(cycles))
            cycles = play(tk, loops, [event], cycles, khz, lambda c: None)
            assert (tk.monotonic_ns(cycles), tk.raw_ns(cycles)) == at_change
        before.append(tk.monotonic_ns(cycles))


def test_a_clocksource_change_that_forgets_forward_now_is_caught(monkeypatch):
    monkeypatch.setattr(Timekeeper, "forward_now", lambda self, cycles: None)
    tk, _ = both("tsc", 2_596_122, 250, 0)
    before = tk.monotonic_ns(10**7)
    tk.change_clocksource(clocksource("hpet", tsc_khz=1), 10**7, 55)
    assert tk.monotonic_ns(55) != before


@given(PPB)
def test_the_rate_that_was_asked_for_is_reached(ppb):
    """Over an hour MONOTONIC gains what the frequency says, to the tick during which it was set and one mult step."""
    tk, _ = both("tsc", 2_596_122, 250, 0)
    slew(tk, 0, adjtimex_freq(ppb))
    hour = 3600 * 2_596_122_000
    tk.tick_until(hour)
    gained = tk.monotonic_ns(hour) - tk.raw_ns(hour)
    assert abs(gained - ppb * 3600) <= 60 + abs(ppb * 3600) // 10**6


def test_what_adjtimex_can_say():
    """freq is in 2^-16 ppm: 1 ppb is 65.536 of them, so the frequency is right to 0.008 ppb."""
    assert adjtimex_freq(1_000_000) == 65_536_000
    assert [adjtimex_freq(p) for p in (1, -1, 100)] == [66, -66, 6554]


def test_a_realtime_step_moves_only_realtime():
    tk, _ = both("tsc", 2_596_122, 250, 0)
    slew(tk, 0, adjtimex_freq(1234))
    t = 10**10
    tk.tick_until(t)
    before = (tk.monotonic_ns(t), tk.raw_ns(t), tk.boottime_ns(t), tk.realtime_ns(t))
    tk.inject_offset(t, -3_600 * SECOND)
    after = (tk.monotonic_ns(t), tk.raw_ns(t), tk.boottime_ns(t), tk.realtime_ns(t))
    assert after[:3] == before[:3]
    assert after[3] == before[3] - 3_600 * SECOND
    assert tk.ntp_error == 0


# ---- a counter that goes back, or leaps


def test_a_reader_never_sees_time_before_the_last_tick():
    tk, _ = both("tsc", 2_596_122, 250, 10**9)
    tk.tick_until(2 * 10**9)
    last = tk.cycle_last
    assert tk.monotonic_ns(last - 1) == tk.monotonic_ns(last - 10**8) == tk.monotonic_ns(last)
    assert tk.monotonic_ns(last + 10**6) > tk.monotonic_ns(last)


def test_forward_now_on_a_counter_that_went_back_goes_on_from_there():
    """Without it time would stand still until the counter has caught up: the control."""
    moved, stalled = (both("tsc", 2_596_122, 250, 10**9)[0] for _ in range(2))
    now = moved.monotonic_ns(10**9)
    moved.forward_now(10**8)
    assert moved.monotonic_ns(10**8) == now
    assert moved.monotonic_ns(10**8 + 2_596_122) == now + 999_999
    assert stalled.monotonic_ns(10**8 + 2_596_122) == now


def test_a_leap_beyond_half_the_range_freezes_readers_but_is_accumulated():
    """0.75 * 2^64 cycles forward (the catchup leap): a reader takes it for backwards, the next tick for 168 years."""
    tk, _ = both("tsc", 2_596_122, 250, 10**9)
    now = tk.monotonic_ns(10**9)
    leap = 10**9 + 3 * 2**62
    assert tk.monotonic_ns(leap) == now
    tk.advance(leap)
    assert tk.monotonic_ns(leap) - now > 168 * 365 * 86400 * SECOND
    # Control: 15/16 of the range is behind for both.
    other, _ = both("tsc", 2_596_122, 250, 10**9)
    other.advance(10**9 + 15 * 2**60)
    assert other.cycle_last == 10**9


def test_a_counter_may_wrap():
    tk, _ = both("tsc", 2_596_122, 250, 2**64 - 1000)
    now = tk.monotonic_ns(2**64 - 1000)
    tk.tick_until(2_596_122_000)
    assert tk.monotonic_ns(2_596_122_000) - now == pytest.approx(SECOND, abs=1000)
    assert tk.cycle_last < 2**40


# ---- sleep


def slept(tk, cycles, new_cycles, rtc, nonstop=0):
    """(REALTIME, BOOTTIME, MONOTONIC, RAW) gained by a sleep."""

    def clocks(c):
        return tk.realtime_ns(c), tk.boottime_ns(c), tk.monotonic_ns(c), tk.raw_ns(c)

    before = clocks(cycles)
    tk.suspend(cycles, rtc[0])
    tk.resume(new_cycles, rtc[1], nonstop)
    return tuple(b - a for a, b in zip(before, clocks(new_cycles), strict=True))


def test_a_sleep_moves_realtime_and_boottime_alone():
    tk, _ = both("tsc", 2_596_122, 250, 0)
    rtc = tk.realtime_ns(0)
    assert slept(tk, 0, 77, (rtc, rtc + 5 * SECOND)) == (5 * SECOND, 5 * SECOND, 0, 0)


def test_a_persistent_clock_that_went_back_takes_nothing_away():
    tk, _ = both("tsc", 2_596_122, 250, 0)
    rtc = tk.realtime_ns(0)
    assert slept(tk, 0, 77, (rtc, rtc - 5 * SECOND)) == (0, 0, 0, 0)


def test_what_ntp_had_still_to_correct_is_dropped_by_a_sleep():
    tk, _ = both("tsc", 2_596_122, 250, 0)
    slew(tk, 0, adjtimex_freq(77))
    tk.tick_until(10**9)
    assert tk.ntp_error != 0
    slept(tk, 10**9, 10**9, (0, 1))
    assert tk.ntp_error == 0


def test_a_nonstop_counter_goes_before_the_persistent_clock():
    tk, _ = both("tsc", 2_596_122, 250, 0)
    rtc = tk.realtime_ns(0)
    assert slept(tk, 0, 77, (rtc, rtc + 5 * SECOND), nonstop=4_999_999_321)[:2] == (4_999_999_321, 4_999_999_321)


def test_a_sleep_too_short_for_the_persistent_clock_is_lost():
    tk, _ = both("tsc", 2_596_122, 250, 0)
    rtc = tk.realtime_ns(0)
    assert slept(tk, 0, 77, (rtc, rtc)) == (0, 0, 0, 0)


@given(st.lists(st.integers(2 * SECOND, 100 * SECOND), min_size=1, max_size=30))
def test_the_error_of_a_coarse_clock_does_not_grow_over_many_sleeps(sleeps):
    """delta_delta: system - persistent clock stays within a second, however often the machine sleeps."""
    tk, _ = both("tsc", 2_596_122, 250, 0)
    true = start = tk.realtime_ns(0)
    for ns in sleeps:
        floor_then = true // SECOND * SECOND
        true += ns
        tk.suspend(0, floor_then)
        tk.resume(0, true // SECOND * SECOND)
    assert abs(tk.realtime_ns(0) - true) < 2 * SECOND
    # Control: the truth did move.
    assert true - start >= 2 * SECOND * len(sleeps)


def test_without_the_compensation_the_error_would_grow():
    """Sleeping 2.6 s from .0 to .6 each time (the clock set back meanwhile): 0.6 s lost each time, uncompensated."""
    plain = sum((SECOND * i + 2_600_000_000) // SECOND * SECOND - SECOND * i for i in range(10))
    assert 10 * 2_600_000_000 - plain == 6 * SECOND


@pytest.mark.parametrize(
    ("set_by", "compensated"), [(-SECOND - 1, False), (-SECOND, True), (2 * SECOND - 1, True), (2 * SECOND, False)]
)
def test_the_window_of_the_compensation_is_not_symmetric(set_by, compensated):
    """-1 s <= delta_delta < 2 s: beyond, somebody is taken to have set a clock."""
    tk, _ = both("tsc", 2_596_122, 250, 0)
    rtc = tk.realtime_ns(0) - set_by
    tk.suspend(0, rtc)
    assert tk.suspend_time_ns == rtc + (set_by if compensated else 0)
    assert tk.old_delta_ns == (0 if compensated else set_by)


def test_a_suspended_timekeeper_takes_no_ticks():
    tk, _ = both("tsc", 2_596_122, 250, 0)
    tk.suspend(0, 0)
    with pytest.raises(AssertionError, match="suspended"):
        tk.tick_until(10**9)
    tk.resume(5, 1)
    with pytest.raises(AssertionError, match="resume without suspend"):
        tk.resume(5, 1)
