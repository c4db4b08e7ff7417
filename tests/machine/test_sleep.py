"""A machine that sleeps: who hears of it, and which clock takes the time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestclock.errors import UserError
from guestclock.machine import HostSpec, X86Machine
from guestclock.sim import PS_PER_NS, PS_PER_S, Deadlock, Scheduler, Timeline, cp

SECOND = 10**9
CLOCKS = ("monotonic", "monotonic_raw", "boottime", "realtime")


def make(step_ps=0, **spec):
    timeline = Timeline()
    scheduler = Scheduler(timeline, step_ps)
    return timeline, scheduler, X86Machine(timeline, HostSpec(**{"rtc_grain_ns": 0, **spec}), scheduler=scheduler)


def asleep(scheduler, machine, ns, **how):
    """What each clock gained over one sleep, and the TSC."""
    before = {c: machine.read_clock(c) for c in (*CLOCKS, "tsc")}
    scheduler.spawn("lid", machine.sleep(ns, **how))
    scheduler.run()
    return {c: machine.read_clock(c) - before[c] for c in (*CLOCKS, "tsc")}


@pytest.mark.parametrize(
    ("tsc", "cycles"), [("running", 2_596_122_000 * 9), ("stopped", 0), ("reset", -1100 * 2_596_122_000)]
)
def test_realtime_and_boottime_take_the_sleep_whatever_the_tsc_does(tsc, cycles):
    timeline, scheduler, machine = make()
    timeline.now_ps += 100 * PS_PER_S
    gained = asleep(scheduler, machine, 9 * SECOND, tsc=tsc)
    assert gained == {
        "monotonic": 0,
        "monotonic_raw": 0,
        "boottime": 9 * SECOND,
        "realtime": 9 * SECOND,
        "tsc": cycles,
    }


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 10**13), st.integers(1, 10**13), st.sampled_from(["running", "stopped", "reset"]),
            st.sampled_from([0, 100, -40_000]), st.sampled_from(["tsc", "hpet"]),
        ),
        min_size=1,
        max_size=6,
    )
)  # fmt: skip
def test_boottime_minus_monotonic_is_the_time_slept(naps):
    timeline, scheduler, machine = make()
    total = 0
    for awake_ps, ns, tsc, ppb, source in naps:
        timeline.now_ps += awake_ps
        machine.adjust_frequency(ppb)
        machine.set_clocksource(source)
        asleep(scheduler, machine, ns, tsc=tsc)
        total += ns
        mono, boot = machine.ktime_get_ns(), machine.ktime_get_boottime_ns()
        assert boot - mono == machine.timekeeper.offs_boot_ns == total


def test_with_a_real_rtc_boottime_minus_monotonic_is_not_the_time_slept():
    """The control, and the truth on ordinary hosts: 1 s granularity, so up to a second of each sleep is missing."""
    timeline, scheduler, machine = make(rtc_grain_ns=SECOND, tsc_khz=1_000_000)
    timeline.now_ps += 400 * 10**9
    gained = asleep(scheduler, machine, 3_300_000_000)
    assert gained["boottime"] == 2_600_000_000  # from .4 to .7, which the RTC calls .0
    assert gained["boottime"] == gained["realtime"]


@given(st.integers(0, 10**12), st.integers(0, 20 * SECOND))
def test_after_a_sleep_realtime_is_the_rtcs_second(awake_ps, ns):
    """The compensation makes the sleep start at system time, so that REALTIME is on a second at wake-up, or unmoved."""
    timeline, scheduler, machine = make(rtc_grain_ns=SECOND)
    timeline.now_ps += awake_ps
    gained = asleep(scheduler, machine, ns)
    assert machine.ktime_get_real_ns() % SECOND == 0 or gained["realtime"] == 0
    assert -SECOND < gained["boottime"] - ns <= 1000
    assert gained["boottime"] >= 0


def test_as_measured_in_the_lab():
    """[X] about 9 s of S3: MONOTONIC stands, BOOTTIME +8.88, the TSC runs on by +9.18: apart by the RTC's error.

    The phase within the RTC's second was not recorded; at .12 past it, the model gives these figures.
    """
    timeline, scheduler, machine = make(rtc_grain_ns=SECOND, tsc_khz=1_000_000)
    timeline.now_ps += 120 * 10**9
    gained = asleep(scheduler, machine, 9_180_000_000)
    assert (gained["monotonic"], gained["boottime"], gained["tsc"]) == (0, 8_880_000_000, 9_180_000_000)


def test_a_tsc_that_is_known_to_run_through_measures_the_sleep_itself():
    _, scheduler, machine = make(rtc_grain_ns=SECOND, nonstop_tsc=True)
    gained = asleep(scheduler, machine, 9_180_000_000)
    assert gained["boottime"] == pytest.approx(9_180_000_000, abs=1000)
    _, scheduler, machine = make(rtc_grain_ns=SECOND, nonstop_tsc=True)
    assert asleep(scheduler, machine, 9_180_000_000, tsc="reset")["boottime"] == 9_000_000_000  # back to the RTC


@pytest.mark.parametrize("base", ["raw", "boottime"])
def test_kvmclocks_base_takes_the_sleep(base):
    """RAW + offs_boot, or BOOTTIME: either way kvmclock without masterclock goes on through a host's sleep."""
    _, scheduler, machine = make()
    before = machine.get_kvmclock_base_ns(base), machine.get_time_and_clockread(base)[0]
    asleep(scheduler, machine, 5 * SECOND, tsc="reset")
    after = machine.get_kvmclock_base_ns(base), machine.get_time_and_clockread(base)[0]
    assert [b - a for a, b in zip(before, after, strict=True)] == [5 * SECOND] * 2


def test_resume_gives_raw_a_new_line():
    _, scheduler, machine = make()
    line = machine.timekeeper.raw_line()
    asleep(scheduler, machine, SECOND)
    assert machine.timekeeper.raw_line()[0] != line[0]
    assert machine.timekeeper.raw_line()[1:] == line[1:]


def heard_in(machine):
    log = []
    for name in ("on_suspend_prepare", "on_suspend", "on_resume", "on_suspend_post"):
        getattr(machine, name).append(lambda name=name: log.append((name, machine.awake(), machine.tasks_run())))
    return log


def test_who_hears_of_a_sleep_and_in_which_order():
    """Hardware is enabled before the PM notifiers hear of it; every hook may read clocks."""
    _, scheduler, machine = make()
    log = heard_in(machine)
    asleep(scheduler, machine, SECOND)
    assert log == [
        ("on_suspend_prepare", True, True),
        ("on_suspend", True, False),
        ("on_resume", True, False),
        ("on_suspend_post", True, True),
    ]


def test_hooks_see_their_own_side_of_the_sleep():
    _, scheduler, machine = make()
    seen = []
    machine.on_suspend.append(lambda: seen.append((machine.rdtsc(), machine.ktime_get_boottime_ns())))
    machine.on_resume.append(lambda: seen.append((machine.rdtsc(), machine.ktime_get_boottime_ns())))
    asleep(scheduler, machine, 5 * SECOND, tsc="reset")
    assert seen == [(1000 * 2_596_122_000, 1000 * SECOND), (0, 1005 * SECOND)]


def test_s2idle_stops_timekeeping_but_not_the_hardware():
    _, scheduler, machine = make()
    log = heard_in(machine)
    gained = asleep(scheduler, machine, SECOND, kind="s2idle")
    assert [name for name, *_ in log] == ["on_suspend_prepare", "on_suspend_post"]
    assert (gained["monotonic"], gained["boottime"]) == (0, SECOND)


@pytest.mark.parametrize(
    "how", [{"tsc": "off"}, {"kind": "s4"}, {"ns": -1}, {"tsc": "reset", "kind": "s2idle"}]
)  # fmt: skip
def test_a_sleep_that_cannot_be_is_refused(how):
    _, scheduler, machine = make()
    scheduler.spawn("lid", machine.sleep(**{"ns": SECOND, **how}))
    with pytest.raises(UserError, match=r"^sleep: "):
        scheduler.run()


def test_others_can_act_between_the_notifier_and_the_freezer_and_then_wait():
    """A task that minds tasks_run() does nothing while the machine sleeps; a kernel worker minds awake()."""
    timeline, scheduler, machine = make(step_ps=1_000_000)
    seen = []

    async def task():
        while len(seen) < 8:
            await cp("task", delay_ps=400_000)
            if not machine.tasks_run():
                await cp("frozen", until=machine.tasks_run)
            seen.append(timeline.now_ps)
            machine.rdtsc()

    scheduler.spawn("task", task())
    scheduler.spawn("lid", machine.sleep(SECOND))
    scheduler.run()
    gap = max(b - a for a, b in pairwise(seen))
    assert gap > SECOND * PS_PER_NS
    assert seen[0] < 1_000_000  # before the freezer


def test_a_clock_read_on_a_sleeping_machine_is_a_mistake_in_the_model():
    _, scheduler, machine = make()

    async def worker():
        await cp("timer", delay_ps=PS_PER_S)
        machine.rdtsc()

    scheduler.spawn("lid", machine.sleep(2 * SECOND))
    scheduler.spawn("worker", worker())
    with pytest.raises(AssertionError, match="asleep"):
        scheduler.run()


def test_a_guard_on_awake_waits_for_the_resume():
    timeline, scheduler, machine = make()
    seen = []

    async def worker():
        await cp("timer", delay_ps=PS_PER_S)
        await cp("worker", until=machine.awake)
        seen.append((timeline.now_ps, machine.ktime_get_boottime_ns()))

    scheduler.spawn("lid", machine.sleep(2 * SECOND))
    scheduler.spawn("worker", worker())
    scheduler.run()
    assert seen == [(2 * PS_PER_S, 1002 * SECOND)]


def test_waiting_for_a_machine_that_nobody_wakes_is_a_deadlock():
    _, scheduler, machine = make()

    async def waiter():
        await cp("wait for sleep", until=lambda: not machine.awake())

    scheduler.spawn("waiter", waiter())
    with pytest.raises(Deadlock, match="waiter waits at 'wait for sleep'"):
        scheduler.run()


def test_a_tsc_found_broken_during_resume_is_replaced_after_it():
    _, scheduler, machine = make()
    machine.on_resume.append(lambda: machine.mark_tsc_unstable("KVM discovered backwards TSC"))
    scheduler.spawn("later", until(2 * PS_PER_S))
    asleep(scheduler, machine, SECOND, tsc="reset")
    assert (machine.clocksource, machine.tsc_unstable) == ("hpet", True)


def test_the_watchdog_sleeps_too():
    _, scheduler, machine = make()
    machine.on_suspend.append(lambda: machine.mark_tsc_unstable("found on the way down"))
    machine.on_resume.append(lambda: seen.append(machine.clocksource))
    seen = []
    scheduler.spawn("later", until(2 * PS_PER_S))
    asleep(scheduler, machine, SECOND)
    assert seen == ["tsc"]
    assert (machine.clocksource, machine.tsc_unstable) == ("hpet", True)


async def until(ps):
    await cp("later", delay_ps=ps)
