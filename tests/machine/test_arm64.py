"""An arm64 machine: one counter, clocks out of it, and a sleep that the counter measures."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestclock.errors import UserError
from guestclock.linux import VCLOCK_ARCHTIMER, arch_sys_counter
from guestclock.machine import Arm64Machine, Arm64Spec, Counter, HostSpec, X86Machine
from guestclock.sim import PS_PER_NS, PS_PER_S, Scheduler, Timeline

SECOND = 10**9
CLOCKS = ("monotonic", "monotonic_raw", "boottime", "realtime")


def make(section_ps=0, **spec):
    timeline = Timeline(section_ps)
    return timeline, Arm64Machine(timeline, Arm64Spec(**spec))


# ---- the clocksource


@pytest.mark.parametrize(
    ("hz", "mult", "shift", "width"),
    [
        (19_200_000, 873813333, 24, 56), (24_000_000, 699050667, 24, 56), (25_000_000, 671088640, 24, 56),
        (31_250_000, 268435456, 23, 56), (50_000_000, 335544320, 24, 56), (54_000_000, 310689185, 24, 56),
        (62_500_000, 134217728, 23, 57), (100_000_000, 167772160, 24, 57), (1_000_000_000, 8388608, 23, 61),
    ],
)  # fmt: skip
def test_the_rates_of_the_reference(hz, mult, shift, width):
    clock = arch_sys_counter(hz)
    assert (clock.mult, clock.shift, clock.mask) == (mult, shift, 2**width - 1)
    assert (clock.name, clock.rating, clock.vclock_mode) == ("arch_sys_counter", 400, VCLOCK_ARCHTIMER)


@given(st.integers(1_000_000, 2**32 - 1))
def test_a_counter_is_as_wide_as_40_years_need_but_no_less_than_56_bits(hz):
    width = arch_sys_counter(hz).mask.bit_length()
    cycles = 40 * 365 * 86400 * hz
    assert 2**width >= cycles
    assert width == 56 or 2 ** (width - 1) < cycles


# ---- reading


def test_the_clocks_at_the_start():
    timeline, machine = make(uptime_ns=5 * SECOND, realtime_ns=10**18 + 7)
    assert [machine.read_clock(c) for c in CLOCKS] == [5 * SECOND] * 3 + [10**18 + 7]
    assert machine.read_clock("counter") == 5 * 62_500_000
    assert machine.read_clock("cntfrq") == 62_500_000
    timeline.now_ps += 16 * PS_PER_NS
    assert machine.read_counter(3) == 5 * 62_500_000 + 1
    with pytest.raises(UserError, match=r"unknown 'tsc', expected one of realtime, monotonic, .*, counter, cntfrq"):
        machine.read_clock("tsc")


def test_a_counter_that_is_not_what_cntfrq_says():
    """50 ppm fast: every clock of the host believes CNTFRQ_EL0."""
    timeline, machine = make(counter_hz=25_000_000, true_hz=25_001_250, uptime_ns=0)
    timeline.now_ps += 1000 * PS_PER_S
    assert machine.read_counter() == 25_001_250_000
    assert machine.ktime_get_raw_ns() == 1_000_050_000_000
    assert machine.counter_at(0) == 0
    assert Arm64Spec(true_hz=Fraction(62_500_001, 2)).rate == Fraction(62_500_001, 2)


def test_each_read_takes_its_time_and_onlookers_take_none():
    timeline, machine = make(section_ps=32_000, uptime_ns=0)
    assert [machine.read_counter() for _ in range(3)] == [0, 2, 4]
    assert machine.ktime_get_snapshot() == (1_760_000_000 * 10**9 + 96, 6)
    before = timeline.now_ps
    assert machine.counter_at(10**12) == 62_500_000
    assert timeline.now_ps == before


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**13), min_size=1, max_size=20), st.integers(-500_000, 500_000))
def test_a_snapshot_is_consistent_at_its_counter(waits, ppb):
    """REALTIME recomputed from the counter that came with it is what was read; a tick of the counter off, it is not."""
    timeline, machine = make(section_ps=1000, counter_hz=24_000_000)
    machine.adjust_frequency(ppb)
    for wait in waits:
        timeline.now_ps += wait
        real, counter = machine.ktime_get_snapshot()
        assert real == machine.timekeeper.realtime_ns(counter)
        assert real != machine.timekeeper.realtime_ns(counter + 1)


def test_there_is_no_other_clocksource():
    _, machine = make()
    assert machine.set_clocksource("arch_sys_counter")
    with pytest.raises(UserError, match="'hpet' is not on this machine, expected one of arch_sys_counter"):
        machine.set_clocksource("hpet")


def test_a_guest_that_is_a_host_counts_with_what_it_is_shown():
    timeline = Timeline()
    below = Counter(62_500_000, 7)
    guest = Arm64Machine(timeline, Arm64Spec(uptime_ns=0), counter=below)
    timeline.now_ps += PS_PER_S
    assert guest.read_counter() == 62_500_007
    assert guest.ktime_get_ns() == SECOND


# ---- sleep


def asleep(ns, *, step_ps=0, before_ps=0, **how):
    """What each clock gained over one sleep, and the counter; and the machine."""
    timeline = Timeline()
    scheduler = Scheduler(timeline, step_ps)
    spec = how.pop("spec", Arm64Spec())
    machine = Arm64Machine(timeline, spec, scheduler=scheduler)
    timeline.now_ps += before_ps
    clocks = (*CLOCKS, "counter")
    before = {c: machine.read_clock(c) for c in clocks}
    scheduler.spawn("lid", machine.sleep(ns, **how))
    scheduler.run()
    return {c: machine.read_clock(c) - before[c] for c in clocks}, machine


@pytest.mark.parametrize("kind", [{}, {"kind": "s2idle"}, {"kind": "s3"}])
def test_the_counter_runs_through_every_sleep_and_measures_it(kind):
    gained, machine = asleep(10 * SECOND, **kind)
    assert gained == {
        "monotonic": 0, "monotonic_raw": 0, "boottime": 10 * SECOND, "realtime": 10 * SECOND, "counter": 625_000_000,
    }  # fmt: skip
    assert machine.timekeeper.offs_boot_ns == 10 * SECOND


def test_s2idle_is_the_default_and_leaves_the_hardware_alone():
    for how, heard in (({}, []), ({"kind": "s3"}, ["suspend", "resume"])):
        timeline = Timeline()
        scheduler = Scheduler(timeline)
        machine = Arm64Machine(timeline, Arm64Spec(), scheduler=scheduler)
        log: list[str] = []
        machine.on_suspend.append(lambda log=log: log.append("suspend"))
        machine.on_resume.append(lambda log=log: log.append("resume"))
        scheduler.spawn("lid", machine.sleep(SECOND, **how))
        scheduler.run()
        assert log == heard


@given(st.integers(0, 10**12), st.integers(0, 100 * SECOND), st.sampled_from([19_200_000, 25_000_000, 10**9]))
def test_a_sleep_is_measured_at_the_nominal_rate_whatever_ntp_does(before_ps, ns, hz):
    timeline = Timeline()
    scheduler = Scheduler(timeline)
    machine = Arm64Machine(timeline, Arm64Spec(counter_hz=hz), scheduler=scheduler)
    machine.adjust_frequency(400_000)
    timeline.now_ps += before_ps
    counter, boot = machine.counter_at(timeline.now_ps), machine.ktime_get_boottime_ns()
    scheduler.spawn("lid", machine.sleep(ns))
    scheduler.run()
    clock = machine.timekeeper.clock
    ticks = machine.counter_at(timeline.now_ps) - counter
    slept = ticks * clock.mult >> clock.shift
    assert machine.ktime_get_boottime_ns() - boot == slept
    # control: by NTP's rate it would be 400 ppm more
    assert slept <= 1_000_000 or slept != ticks * machine.timekeeper.mono_mult >> clock.shift


def test_a_sleep_that_cannot_be_is_refused():
    for how in ({"tsc": "stopped"}, {"tsc": "reset"}, {"kind": "s4"}, {"ns": -1}):
        _, machine = make()
        with pytest.raises(UserError, match=r"^sleep: "):
            machine.sleep(**{"ns": SECOND, **how}).send(None)


def test_no_clock_is_read_of_a_machine_that_is_asleep():
    _, machine = make()
    lid = machine.sleep(SECOND)
    for _ in range(3):
        lid.send(None)
    with pytest.raises(AssertionError, match="asleep"):
        machine.read_counter()


# ---- what both architectures have


@pytest.mark.parametrize("machine", [Arm64Machine(Timeline(), Arm64Spec()), X86Machine(Timeline(), HostSpec())])
def test_both_architectures_tell_the_same_clocks_and_change_them_alike(machine):
    assert list(machine.readers())[:4] == ["realtime", "monotonic", "monotonic_raw", "boottime"]
    before = machine.ktime_get_real_ns()
    machine.step_realtime(5)
    assert machine.ktime_get_real_ns() == before + 5
    with pytest.raises(UserError, match="before MONOTONIC"):
        machine.step_realtime(-(10**19))
    with pytest.raises(UserError, match="at most 500000"):
        machine.adjust_frequency(600_000)
