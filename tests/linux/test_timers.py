"""Timers of each clock over slews, steps, sleeps and jumps: never early, late only where the kernel is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestclock.linux import Timekeeper, Timex, clocksource
from guestclock.linux.ntp import ADJ_FREQUENCY
from guestclock.linux.ticks import Ticks, cycles_at
from guestclock.linux.timers import (
    CLOCK_SET_BOOT,
    CLOCK_SET_WALL,
    EAGAIN,
    ECANCELED,
    KTIME_MAX,
    CpuBase,
    Hrtimer,
    Timerfd,
    clock_was_set,
)

KHZ = 2_596_122
SECOND = 10**9


def guest():
    tk = Timekeeper.start(
        clocksource("tsc", tsc_khz=KHZ), 0, hz=250, monotonic_ns=100 * SECOND, realtime_ns=1_760_000_000 * SECOND
    )
    return tk, CpuBase.start(tk)


def seconds(count):
    return int(count * KHZ * 1000)


def run(tk, cpu, until):
    """Interrupts as they come, up to a counter value; what fired, by MONOTONIC."""
    fired = []
    while True:
        at = cycles_at(tk, cpu.expires_next_ns)
        if cpu.expires_next_ns == KTIME_MAX or at > until:
            return fired
        before = cpu.expires_next_ns
        fired += cpu.interrupt(tk, at)
        assert cpu.expires_next_ns != before


@given(st.integers(-500, 500), st.integers(1, 10**10))
def test_a_monotonic_timer_is_never_early_and_on_time_to_the_ns(ppm, delay):
    tk, cpu = guest()
    tk.adjtimex(0, Timex(modes=ADJ_FREQUENCY, freq=ppm << 16))
    timer = Hrtimer(expires_ns=100 * SECOND + delay)
    cpu.enqueue(timer)
    run(tk, cpu, seconds(20))
    assert timer.fired == 1
    assert timer.expires_ns <= timer.fired_at_ns <= timer.expires_ns + 1


def test_an_interrupt_that_comes_early_fires_nothing_and_sets_itself_again():
    tk, cpu = guest()
    timer = Hrtimer(expires_ns=101 * SECOND)
    cpu.enqueue(timer)
    assert cpu.interrupt(tk, seconds(0.99)) == ()
    assert cpu.expires_next_ns == 101 * SECOND
    assert cpu.interrupt(tk, cycles_at(tk, 101 * SECOND)) == (timer,)


CASES = [  # clock, deadline in s from now, sleep injected
    ("monotonic", 50, 600),
    ("boottime", 50, 600),
    ("realtime", 50, 600),
    ("tai", 50, 600),
    ("boottime", 650, 600),
]


@pytest.mark.parametrize(("clock", "deadline_s", "slept_s"), CASES)
def test_an_injected_sleep_makes_due_what_is_due_and_does_not_shorten_monotonic(clock, deadline_s, slept_s):
    tk, cpu = guest()
    base = {"monotonic": tk.monotonic_ns, "boottime": tk.boottime_ns}.get(clock, tk.realtime_ns)(0)
    timer = Hrtimer(clock=clock, expires_ns=base + deadline_s * SECOND)
    cpu.enqueue(timer)
    tk.inject_sleeptime64(seconds(1), slept_s * SECOND)
    clock_was_set(tk, (cpu,), CLOCK_SET_WALL + CLOCK_SET_BOOT)
    run(tk, cpu, seconds(700))
    assert timer.fired == 1
    due_s = deadline_s if clock == "monotonic" else max(1, deadline_s - slept_s)
    assert timer.fired_at_ns == pytest.approx((100 + due_s) * SECOND, abs=2) or due_s == 1
    assert cycles_at(tk, timer.fired_at_ns) >= seconds(due_s) - 3


def test_who_names_the_wall_clock_alone_leaves_boottime_timers_waiting():
    """clock_was_set_delayed(), as v3 of the 2021 series called it: the next interrupt, whatever brings it, fires it."""
    for named, late in ((CLOCK_SET_WALL + CLOCK_SET_BOOT, False), (CLOCK_SET_WALL, True)):
        tk, cpu = guest()
        timer, other = Hrtimer(clock="boottime", expires_ns=150 * SECOND), Hrtimer(expires_ns=140 * SECOND)
        cpu.enqueue(timer)
        cpu.enqueue(other)
        tk.inject_sleeptime64(seconds(1), 600 * SECOND)
        interrupted = clock_was_set(tk, (cpu,), named)
        assert bool(interrupted) == (not late)
        assert clock_was_set(tk, (cpu,), CLOCK_SET_WALL + CLOCK_SET_BOOT) == (), "a later call finds nothing to do"
        assert cpu.expires_next_ns == (140 * SECOND if late else 0)
        run(tk, cpu, seconds(200))
        assert timer.fired == 1
        if late:
            assert timer.fired_at_ns == other.fired_at_ns


def test_an_interrupt_looks_at_the_clocks_anew_whoever_forgot_to_tell():
    tk, cpu = guest()
    timers = [Hrtimer(clock=clock, expires_ns=tk.read_ns(clock, 0) + 50 * SECOND) for clock in ("boottime", "realtime")]
    for timer in (*timers, Hrtimer(expires_ns=103 * SECOND)):
        cpu.enqueue(timer)
    tk.inject_sleeptime64(seconds(1), 600 * SECOND)
    run(tk, cpu, seconds(10))
    assert [timer.fired_at_ns for timer in timers] == [103 * SECOND] * 2


def test_a_jump_of_the_counter_fires_all_that_is_due_once_and_periods_are_counted():
    tk, cpu = guest()
    ticks = Ticks(due_ns=100 * SECOND + 4_000_000, period_ns=4_000_000)
    tick = Hrtimer(expires_ns=100 * SECOND + 4_000_000, period_ns=4_000_000, restarts=True)
    timers = [Hrtimer(expires_ns=(101 + i) * SECOND) for i in range(5)]
    for timer in (tick, *timers):
        cpu.enqueue(timer)
    after = cycles_at(tk, 700 * SECOND)
    fired = cpu.interrupt(tk, after)
    assert len(fired) == 6
    assert [t.fired for t in timers] == [1] * 5
    assert (tick.fired, tick.overrun) == (1, 600 * 250 - 1)
    assert tick.expires_ns == 700 * SECOND + 4_000_000
    ticks.until(tk, after)
    assert tk.monotonic_ns(after) == 700 * SECOND


@given(st.integers(1, 10**9), st.integers(0, 10**11))
def test_forward_goes_to_the_first_period_after_now(period, late):
    timer = Hrtimer(expires_ns=1000, period_ns=period)
    periods = timer.forward(1000 + late)
    assert periods == late // period + 1
    assert 1000 + late < timer.expires_ns <= 1000 + late + period


def test_a_periodic_timerfd_counts_every_period_that_passed():
    tk, cpu = guest()
    timer = Hrtimer(expires_ns=101 * SECOND, period_ns=SECOND)
    fd = Timerfd.set(cpu, tk, timer)
    assert fd.read(cpu, tk, 0) == -EAGAIN
    for fired in run(tk, cpu, seconds(10.5)):
        assert fired is timer
        fd.fire()
    assert fd.ticks == 1, "it is not queued again until it is read"
    assert fd.read(cpu, tk, seconds(10.5)) == 10
    assert timer.expires_ns == 111 * SECOND


@pytest.mark.parametrize("change", ["set", "inject", "sleep", "none", "monotonic"])
def test_cancel_on_set_is_told_once_per_change_of_realtime(change):
    tk, cpu = guest()
    clock = "monotonic" if change == "monotonic" else "realtime"
    fd = Timerfd.set(cpu, tk, Hrtimer(clock=clock, expires_ns=2**62), cancel_on_set=True)
    at = seconds(1)
    for _ in range(2):
        if change in ("set", "monotonic"):
            tk.settimeofday(at, tk.realtime_ns(at) + 5 * SECOND)
        elif change == "inject":
            tk.inject_sleeptime64(at, 600 * SECOND)
        elif change == "sleep":
            tk.suspend(at, 0)
            tk.resume(at, 0, 600 * SECOND)
        fd.clock_was_set(tk)
        fd.clock_was_set(tk)
        answers = [fd.read(cpu, tk, at), fd.read(cpu, tk, at)]
        expected = -EAGAIN if change in ("none", "monotonic") else -ECANCELED
        assert answers == [expected, -EAGAIN]
