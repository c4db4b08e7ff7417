"""A machine: its clocks, what KVM reads of them, and changes of clocksource, rate and wall time."""

from __future__ import annotations

from fractions import Fraction
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestclock.errors import UserError
from guestclock.linux import VCLOCK_HVCLOCK, VCLOCK_NONE, VCLOCK_PVCLOCK, VCLOCK_TSC, Timex
from guestclock.linux.ntp import ADJ_MAXERROR, ADJ_STATUS, ADJ_TAI, STA_PLL
from guestclock.machine import Counter, HostSpec, X86Machine
from guestclock.sim import PS_PER_NS, PS_PER_S, Scheduler, Timeline, WidthObserver, cp, drawn_ps, watching

SECOND = 10**9
GHZ = HostSpec(tsc_khz=1_000_000, uptime_ns=0, tsc_at_start=0)


def make(section_ps=0, **spec):
    timeline = Timeline(section_ps)
    return timeline, X86Machine(timeline, HostSpec(**spec))


def on_one_line(readings, mult, shift):
    """Whether one A gives floor((A + T * mult) >> shift) = ns for every (ns, T)."""
    lo = max((ns << shift) - tsc * mult for ns, tsc in readings)
    hi = min((ns + 1 << shift) - tsc * mult for ns, tsc in readings)
    return lo < hi


# ---- reading


def test_400_masterclock_snapshots_over_20_s_lie_on_one_line():
    """[X] on the test machine: mult 6462414, shift 24, one common A."""
    rng = Random(1)
    timeline, machine = make(drawn_ps(rng, 0, 500_000), tsc_khz=2_596_122)
    snapshots = []
    for _ in range(400):
        timeline.now_ps += rng.randint(0, 2 * PS_PER_S // 20)
        if rng.random() < 0.1:
            machine.adjust_frequency(rng.randint(-500_000, 500_000))  # RAW does not care
        snapshots.append(machine.get_time_and_clockread("raw"))
    assert snapshots[-1][1] - snapshots[0][1] > 15 * 2_596_122_000
    assert on_one_line(snapshots, 6462414, 24)
    # Controls: another mult, one reading 2 ns off, the NTP-slewed base of kernels before 5.5.
    assert not on_one_line(snapshots, 6462415, 24)
    assert not on_one_line([*snapshots[:200], (snapshots[200][0] + 2, snapshots[200][1])], 6462414, 24)
    timeline.now_ps += PS_PER_S
    assert not on_one_line([*snapshots, machine.get_time_and_clockread("boottime")], 6462414, 24)


def test_the_clocks_at_the_start():
    _, machine = make(uptime_ns=5 * SECOND, realtime_ns=10**18 + 7)
    assert machine.ktime_get_ns() == machine.ktime_get_raw_ns() == machine.ktime_get_boottime_ns() == 5 * SECOND
    assert machine.ktime_get_real_ns() == 10**18 + 7
    assert machine.rdtsc() == 5 * 2_596_122_000


def test_a_calibration_that_is_off_shows_in_every_clock():
    """tsc_hz is the truth, tsc_khz what the kernel believes: 100 ppm fast here."""
    timeline, machine = make(tsc_khz=1_000_000, tsc_hz=1_000_100_000, uptime_ns=0)
    timeline.now_ps = 100 * PS_PER_S
    assert machine.ktime_get_raw_ns() == 100 * SECOND + 10_000_000
    exact = Timeline()
    other = X86Machine(exact, HostSpec(tsc_khz=1_000_000, uptime_ns=0))
    exact.now_ps = 100 * PS_PER_S
    assert other.ktime_get_raw_ns() == 100 * SECOND


def test_each_read_takes_its_time():
    timeline = Timeline(section_ps=30_000)
    machine = X86Machine(timeline, GHZ)
    assert machine.rdtsc() == 0
    assert machine.rdtsc() == 30
    assert machine.ktime_get_raw_ns() == 60
    assert machine.get_time_and_clockread() == (90, 90)
    assert timeline.now_ps == 4 * 30_000
    assert machine.tsc_at(5_000_000) == 5_000
    assert timeline.now_ps == 4 * 30_000


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**13), min_size=1, max_size=20), st.integers(-500_000, 500_000))
def test_time_and_clockread_are_consistent_at_that_tsc(waits, ppb):
    """Recomputed from the TSC that came with it, RAW (REALTIME, BOOTTIME) is what was read."""
    timeline, machine = make(section_ps=1000)
    machine.adjust_frequency(ppb)
    for wait in waits:
        timeline.now_ps += wait
        tk = machine.timekeeper
        ns, tsc = machine.get_time_and_clockread("raw")
        assert ns == tk.raw_ns(tsc) + tk.offs_boot_ns
        real, tsc = machine.get_realtime_and_clockread()
        assert real == tk.realtime_ns(tsc)
        boot, tsc = machine.get_time_and_clockread("boottime")
        assert boot == tk.boottime_ns(tsc)
        assert boot != tk.boottime_ns(tsc + 10)  # control


@pytest.mark.parametrize("base", ["raw", "boottime"])
def test_kvmclocks_base_is_read_at_once_or_with_the_tsc(base):
    timeline, machine = make()
    machine.adjust_frequency(1000)
    timeline.now_ps += 10 * PS_PER_S
    assert machine.get_kvmclock_base_ns(base) == machine.get_time_and_clockread(base)[0]
    assert machine.get_kvmclock_base_ns("raw") != machine.get_kvmclock_base_ns("boottime")


def test_read_clock_names():
    timeline, machine = make()
    timeline.now_ps += 12345678
    assert machine.read_clock("realtime") == machine.ktime_get_real_ns()
    assert machine.read_clock("monotonic") == machine.ktime_get_ns()
    assert machine.read_clock("monotonic_raw") == machine.ktime_get_raw_ns()
    assert machine.read_clock("boottime") == machine.ktime_get_boottime_ns()
    assert machine.read_clock("tsc") == machine.rdtsc()
    with pytest.raises(UserError, match="host clock: unknown 'tai', expected one of realtime, monotonic"):
        machine.read_clock("tai")


# ---- CPUs that disagree


def test_a_cpu_that_is_behind_cannot_read_time_before_the_last_tick():
    """Ticks are CPU 0's; CPU 1 is 0.1 s behind: its RAW stands still between ticks, its TSC is clamped."""
    timeline, machine = make(cpus=2, skew=(0, -259_612_200))
    timeline.now_ps += 10 * PS_PER_S
    ns, tsc = machine.get_time_and_clockread(cpu=1)
    assert machine.rdtsc(1) < tsc == machine.timekeeper.cycle_last
    assert machine.ktime_get_raw_ns(1) == ns
    assert 0 <= machine.ktime_get_raw_ns(0) - ns < 4_000_000 + 1
    sane_timeline, sane = make(cpus=2)
    sane_timeline.now_ps += 10 * PS_PER_S
    assert sane.get_time_and_clockread(cpu=1) == sane.get_time_and_clockread(cpu=0)


def test_lazy_ticks_do_not_depend_on_who_looks_when():
    """Steady or not, skewed or not: a machine looked at often and one looked at once show the same."""
    for skew in ((), (0, 1000)):
        seen = []
        for looks in (1, 1000):
            timeline, machine = make(cpus=2, skew=skew)
            machine.adjust_frequency(777)
            for i in range(1, looks + 1):
                timeline.now_ps = i * 10 * PS_PER_S // looks
                machine.ktime_get_ns()
            seen.append((machine.ktime_get_ns(), machine.ktime_get_raw_ns(), machine.timekeeper.cycle_last))
        assert seen[0] == seen[1]


# ---- clocksource


@pytest.mark.parametrize(
    ("name", "mode", "snapshot"),
    [
        ("tsc", VCLOCK_TSC, True),
        ("hpet", VCLOCK_NONE, False),
        ("kvm-clock", VCLOCK_PVCLOCK, False),
        ("hyperv", VCLOCK_HVCLOCK, True),
    ],
)
def test_only_tsc_and_hyperv_give_kvm_a_snapshot(name, mode, snapshot):
    timeline, machine = make(clocksource=name)
    timeline.now_ps += PS_PER_S
    assert (machine.clocksource, machine.vclock_mode) == (name, mode)
    assert (machine.get_time_and_clockread() is not None) == snapshot
    assert (machine.get_realtime_and_clockread() is not None) == snapshot
    assert machine.ktime_get_raw_ns() == pytest.approx(1001 * SECOND, abs=1000)
    assert machine.rdtsc() == 1001 * 2_596_122_000


def test_under_hyperv_the_snapshot_has_the_raw_tsc_and_the_clocks_10_mhz():
    timeline, machine = make(clocksource="hyperv")
    timeline.now_ps += PS_PER_S + 123_456
    ns, tsc = machine.get_time_and_clockread()
    assert tsc == machine.tsc_at(timeline.now_ps)
    assert ns % 100 == machine.timekeeper.raw_ns(machine.timekeeper.cycle_last) % 100


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["tsc", "hpet", "kvm-clock", "hyperv"]), st.integers(0, 10**13)), max_size=8))
def test_a_clocksource_change_moves_no_clock_and_is_told_once(changes):
    timeline, machine = make(clocksources=("tsc", "hpet", "kvm-clock", "hyperv"))
    machine.adjust_frequency(20_000)
    told = []
    machine.on_clocksource_change.append(lambda: told.append(machine.clocksource))
    expected = []
    for name, wait in changes:
        timeline.now_ps += wait
        before = [machine.read_clock(c) for c in ("monotonic", "monotonic_raw", "realtime", "boottime")]
        if name != machine.clocksource:
            expected.append(name)
        assert machine.set_clocksource(name)
        assert [machine.read_clock(c) for c in ("monotonic", "monotonic_raw", "realtime", "boottime")] == before
    assert told == expected


def test_a_clocksource_change_gives_raw_a_new_line():
    timeline, machine = make()
    first = [machine.get_time_and_clockread()]
    machine.set_clocksource("hpet")
    timeline.now_ps += 100 * PS_PER_S
    machine.set_clocksource("tsc")
    timeline.now_ps += PS_PER_S
    assert not on_one_line([*first, machine.get_time_and_clockread()], 6462414, 24)


def test_a_clocksource_that_is_not_there_is_refused():
    _, machine = make()
    with pytest.raises(UserError, match="clocksource: 'kvm-clock' is not on this machine, expected one of tsc, hpet"):
        machine.set_clocksource("kvm-clock")


def test_an_unstable_tsc_is_replaced_and_does_not_come_back():
    _, machine = make()
    told = []
    machine.on_clocksource_change.append(lambda: told.append(machine.clocksource))
    assert not machine.tsc_unstable
    machine.mark_tsc_unstable("KVM discovered backwards TSC")
    machine.mark_tsc_unstable("again")
    assert (machine.tsc_unstable, machine.kvm_check_tsc_unstable(), machine.clocksource) == (True, True, "hpet")
    assert told == ["hpet"]
    assert not machine.set_clocksource("tsc")
    assert machine.clocksource == "hpet"
    assert machine.unstable_why == "KVM discovered backwards TSC"


def test_the_best_of_the_others_takes_over():
    _, machine = make(clocksources=("hpet", "kvm-clock"))
    machine.mark_tsc_unstable("test")
    assert machine.clocksource == "kvm-clock"


def test_hyperv_is_trusted_whatever_the_kernel_thinks_of_the_tsc():
    _, machine = make(clocksource="hyperv")
    machine.mark_tsc_unstable("test")
    assert (machine.clocksource, machine.tsc_unstable, machine.kvm_check_tsc_unstable()) == ("hyperv", True, False)


def test_with_a_scheduler_the_watchdog_takes_a_step_of_its_own():
    """Between mark_tsc_unstable() and the change of clocksource others may run: the flag is set, TSC still in use."""
    timeline = Timeline()
    scheduler = Scheduler(timeline, step_ps=5_000)
    machine = X86Machine(timeline, HostSpec(), scheduler=scheduler)
    seen = []

    async def vcpu():
        await cp("run", delay_ps=1_000_000)
        machine.mark_tsc_unstable("test")
        seen.append((timeline.now_ps, machine.tsc_unstable, machine.clocksource))
        await cp("later", delay_ps=10_000)
        seen.append((timeline.now_ps, machine.tsc_unstable, machine.clocksource))

    scheduler.spawn("vcpu0", vcpu())
    scheduler.run()
    assert seen == [(1_000_000, True, "tsc"), (1_010_000, True, "hpet")]


# ---- rates


def test_cpufreq_bends_one_cpus_tsc_and_makes_it_unstable():
    timeline, machine = make(tsc_khz=1_000_000, constant_tsc=False, cpus=2, uptime_ns=0)
    told = []
    machine.on_cpu_khz_change.append(told.append)
    timeline.now_ps = PS_PER_S
    machine.set_cpu_khz(1, 500_000)
    timeline.now_ps = 2 * PS_PER_S
    assert (machine.rdtsc(0), machine.rdtsc(1)) == (2 * SECOND, 1_500_000_000)
    assert (machine.cpu_khz(0), machine.cpu_khz(1), machine.tsc_khz) == (1_000_000, 500_000, 1_000_000)
    assert told == [1]
    assert (machine.tsc_unstable, machine.clocksource) == (True, "hpet")


def test_with_constant_tsc_cpufreq_changes_nothing():
    _, machine = make()
    assert machine.cpu_khz(3) == machine.tsc_khz
    with pytest.raises(UserError, match="set_cpu_khz: the rate is fixed"):
        machine.set_cpu_khz(0, 1)


@given(st.integers(-500_000, 500_000))
def test_ntp_slews_monotonic_realtime_and_boottime_but_not_raw(ppb):
    timeline, machine = make()
    timeline.now_ps += PS_PER_S
    before = [machine.read_clock(c) for c in ("monotonic", "realtime", "boottime", "monotonic_raw")]
    machine.adjust_frequency(ppb)
    assert [machine.read_clock(c) for c in ("monotonic", "realtime", "boottime", "monotonic_raw")] == before
    timeline.now_ps += 1000 * PS_PER_S
    after = [machine.read_clock(c) for c in ("monotonic", "realtime", "boottime", "monotonic_raw")]
    gained = [b - a for a, b in zip(before, after, strict=True)]
    assert gained[0] == gained[1] == gained[2]
    # To 1 ns for the two floors, one tick at the new rate (the tick that was under way), half a step of mult, and
    # ppb^2: NTP's rate is one of ticks, not of RAW.
    assert abs(gained[0] - gained[3] - 1000 * ppb) <= 3 + abs(ppb) * 4 // 1000 + 16


@pytest.mark.parametrize("ppb", [-500_001, 500_001])
def test_a_frequency_beyond_500_ppm_is_refused(ppb):
    _, machine = make()
    with pytest.raises(UserError, match="expected at most 500000 either way"):
        machine.adjust_frequency(ppb)


def test_a_step_moves_realtime_alone_and_not_before_monotonic():
    timeline, machine = make()
    timeline.now_ps += PS_PER_S
    others = ("monotonic", "monotonic_raw", "boottime", "tsc")
    before, real = [machine.read_clock(c) for c in others], machine.ktime_get_real_ns()
    machine.step_realtime(-7 * SECOND)
    assert [machine.read_clock(c) for c in others] == before
    assert machine.ktime_get_real_ns() == real - 7 * SECOND
    with pytest.raises(UserError, match="before MONOTONIC"):
        machine.step_realtime(-(10**19))


# ---- machines on machines


class GuestTsc:
    """What KVM shows a guest: host TSC plus an offset that a VMM may change."""

    def __init__(self, host, offset):
        self.host, self.offset = host, offset

    def at(self, ps, cpu=0):
        return (self.host.tsc_at(ps, cpu) + self.offset) % 2**64


def test_a_machine_may_count_with_a_guests_tsc():
    timeline, host = make()
    guest_tsc = GuestTsc(host, -host.rdtsc())
    guest = X86Machine(timeline, HostSpec(uptime_ns=0, clocksource="kvm-clock"), counter=guest_tsc)
    timeline.now_ps += PS_PER_S
    assert guest.rdtsc() == 2_596_122_000
    assert guest.ktime_get_ns() == SECOND
    assert guest.get_time_and_clockread() is None  # a guest on kvm-clock never gives a masterclock to its own guests
    guest.set_clocksource("tsc")
    assert guest.get_time_and_clockread() == (SECOND, 2_596_122_000)


def test_a_guests_tsc_that_is_set_back_cannot_set_back_the_guests_time():
    timeline, host = make()
    guest_tsc = GuestTsc(host, 0)
    guest = X86Machine(timeline, HostSpec(uptime_ns=0), counter=guest_tsc)
    timeline.now_ps += PS_PER_S
    guest.catch_up()
    before = guest.timekeeper.raw_ns(guest.timekeeper.cycle_last)
    guest_tsc.offset = -(10**12)
    assert guest.ktime_get_raw_ns() == before
    forward = GuestTsc(host, 0)  # control: forward it is believed
    other = X86Machine(timeline, HostSpec(uptime_ns=0), counter=forward)
    forward.offset = 2_596_122_000
    assert other.ktime_get_raw_ns() == 2_596_122_000 * 6462414 >> 24


def test_a_guests_ticks_are_remembered_when_its_tsc_is_set_back_after_a_read():
    timeline, host = make()
    guest_tsc = GuestTsc(host, 0)
    guest = X86Machine(timeline, HostSpec(uptime_ns=0), counter=guest_tsc)
    timeline.now_ps += PS_PER_S
    before = guest.ktime_get_raw_ns()
    guest_tsc.offset = -2_596_122_000 * 1000
    assert before - 4_000_000 <= guest.ktime_get_raw_ns() <= before


def test_a_counter_that_goes_with_true_time_may_be_any_object():
    timeline = Timeline()
    machine = X86Machine(timeline, GHZ, counter=Counter(Fraction(10**9), 5))
    timeline.now_ps = 2 * PS_PER_NS
    assert machine.rdtsc() == 7


# ---- invariants


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_every_field_fits_the_kernels_type_through_a_random_life(seed):
    rng = Random(seed)
    with watching(WidthObserver()):
        timeline, machine = make(
            drawn_ps(rng, 0, 10_000), cpus=2, skew=(0, rng.randint(-1000, 1000)), clocksources=("tsc", "hpet", "hyperv")
        )
        last = 0
        for _ in range(30):
            timeline.now_ps += rng.randint(0, 10**13)
            rng.choice(
                [
                    lambda: machine.adjust_frequency(rng.randint(-500_000, 500_000)),
                    lambda: machine.step_realtime(rng.randint(-SECOND, SECOND)),
                    lambda: machine.set_clocksource(rng.choice(["tsc", "hpet", "hyperv"])),
                    lambda: machine.get_time_and_clockread(cpu=1),
                ]
            )()
            now = machine.ktime_get_ns()
            assert now >= last
            last = now


# ---- what sets a machine's clocks


def test_a_machines_clocks_are_set_and_steered_as_its_timekeepers():
    """Ticks that are due are taken first, the steady machine's too, so that NTP has heard of every second."""
    timeline, machine = make(realtime_ns=1_760_000_000 * SECOND)
    machine.adjtimex(Timex(modes=ADJ_STATUS | ADJ_MAXERROR, status=STA_PLL, maxerror=0))
    timeline.now_ps += 1000 * PS_PER_S + PS_PER_S // 100
    answer = machine.adjtimex(Timex(modes=ADJ_TAI, constant=37))
    assert (answer.maxerror, answer.tai) == (1000 * 500, 37)
    assert machine.ktime_get_tai_ns() - machine.ktime_get_real_ns() == 37 * SECOND
    assert machine.settimeofday(1_800_000_000 * SECOND) == 0
    assert machine.ktime_get_real_ns() == 1_800_000_000 * SECOND
    assert machine.settimeofday(5) == -22
    monotonic, boottime = machine.ktime_get_ns(), machine.ktime_get_boottime_ns()
    assert machine.inject_sleeptime(600 * SECOND)
    assert machine.ktime_get_ns() == monotonic
    assert machine.ktime_get_boottime_ns() - boottime == 600 * SECOND
    assert not machine.inject_sleeptime(-1)
