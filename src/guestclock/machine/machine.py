"""A machine: counters, a Linux that tells the time by them, and whoever must hear when that changes."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from guestclock.arith import hv_ref_time, mul_u64_u64_shr
from guestclock.errors import UserError
from guestclock.linux.clocksource import (
    HPET_HZ,
    HYPERV_HZ,
    KVM_CLOCK_HZ,
    VCLOCK_HVCLOCK,
    VCLOCK_TSC,
    clocksource,
)
from guestclock.linux.ntp import MAX_FREQ_PPB, adjtimex_freq
from guestclock.linux.timekeeper import Timekeeper
from guestclock.machine.counter import Counter, Derived, TscCounter
from guestclock.machine.spec import HostSpec
from guestclock.sim.checkpoint import cp
from guestclock.sim.field import flag, text, u32
from guestclock.sim.scheduler import Scheduler
from guestclock.sim.state import State
from guestclock.sim.timeline import PS_PER_NS, Timeline

SLEEP_TSC = ("running", "stopped", "reset")
SLEEP_KINDS = ("s3", "s2idle")


class _Condition(State):
    """What the rest of the kernel can see of a machine's condition."""

    tsc_unstable = flag("check_tsc_unstable(): sticky")
    unstable_why = text("the reason given first")
    frozen = flag("user tasks are frozen")
    asleep = flag("the machine is suspended: nothing runs")


class _Cpu(State):
    khz = u32("cpu_tsc_khz: the rate cpufreq last gave this CPU; used without constant_tsc")


_ASLEEP = "a clock read on a machine that is asleep: the reader must wait for awake()"


class Machine:
    """A host, or a guest that is a host to others, built from a HostSpec on a timeline.

    counter: the TSC; None makes the one of the spec. Give a machine below's guest TSC for L1 and L2.
    kvmclock: what the clocksource "kvm-clock" reads, ns; None: an ideal one, true time since power-on.
    scheduler: where the clocksource watchdog runs, a daemon for the scheduler's next run; without one it acts at once.

    Subscribers are lists of callables, called in their order: `on_clocksource_change` (the pvclock_gtod notifier, when
    the clocksource has changed), `on_cpu_khz_change` (cpufreq, with the CPU), and around a sleep `on_suspend_prepare`
    (PM notifier), `on_suspend` and `on_resume` (syscore: hardware off and on), `on_suspend_post` (PM notifier).
    """

    def __init__(
        self,
        timeline: Timeline,
        spec: HostSpec,
        *,
        counter: TscCounter | None = None,
        kvmclock: TscCounter | None = None,
        scheduler: Scheduler | None = None,
    ) -> None:
        self.timeline, self.spec = timeline, spec
        now = timeline.now_ps
        ahead = spec.skew or (() if spec.constant_tsc else (0,) * spec.cpus)
        self._own = Counter(spec.true_hz, spec.first_tsc, now, ahead) if counter is None else None
        self.counter: TscCounter = counter if counter is not None else self._own  # type: ignore[assignment]
        # On one line for all CPUs nobody can see whether cycle_last is that of the latest tick or an older one.
        self._one_line = counter is None and not any(spec.skew) and spec.constant_tsc
        scale = (HYPERV_HZ << 64) * spec.true_hz.denominator // spec.true_hz.numerator
        self._counters: dict[str, TscCounter] = {
            "tsc": self.counter,
            "hpet": Counter(HPET_HZ, 0, now),
            "kvm-clock": kvmclock if kvmclock is not None else Counter(KVM_CLOCK_HZ, spec.uptime_ns, now),
            "hyperv": Derived(self.counter, lambda tsc: hv_ref_time(tsc, scale, 0)),
        }
        self._condition = _Condition(tsc_unstable=spec.tsc_unstable)
        self._cpus = [_Cpu(khz=spec.tsc_khz) for _ in range(spec.cpus)]
        self._rtc_base_ns = spec.realtime_ns + spec.rtc_ahead_ns
        self._rtc_since_ps = now
        self._scheduler = scheduler
        self.timekeeper = Timekeeper.start(
            clocksource(spec.clocksource, tsc_khz=spec.tsc_khz),
            self._counters[spec.clocksource].at(now),
            hz=spec.hz,
            monotonic_ns=spec.uptime_ns,
            realtime_ns=spec.realtime_ns,
        )
        self.on_clocksource_change: list[Callable[[], None]] = []
        self.on_cpu_khz_change: list[Callable[[int], None]] = []
        self.on_suspend_prepare: list[Callable[[], None]] = []
        self.on_suspend: list[Callable[[], None]] = []
        self.on_resume: list[Callable[[], None]] = []
        self.on_suspend_post: list[Callable[[], None]] = []
        self.tasks_frozen: list[Callable[[], bool]] = []  # the freezer waits until each is true

    # ---- the TSC

    @property
    def cpus(self) -> int:
        return self.spec.cpus

    @property
    def constant_tsc(self) -> bool:
        return self.spec.constant_tsc

    @property
    def tsc_khz(self) -> int:
        """The calibrated rate, kHz: what everything in KVM computes with."""
        return self.spec.tsc_khz

    def cpu_khz(self, cpu: int) -> int:
        """get_cpu_tsc_khz(): tsc_khz, or without constant_tsc what cpufreq last said of this CPU; kHz."""
        return self.tsc_khz if self.constant_tsc else self._cpus[cpu].khz

    def rdtsc(self, cpu: int = 0) -> int:
        """One RDTSC on `cpu`, u64. Advances the timeline by what a read takes."""
        assert not self._condition.asleep, _ASLEEP
        return self.counter.at(self.timeline.read_ps(), cpu)

    def tsc_at(self, ps: int, cpu: int = 0) -> int:
        """The TSC of `cpu` at true time ps, u64, for onlookers: no time passes."""
        return self.counter.at(ps, cpu)

    @property
    def tsc_unstable(self) -> bool:
        """check_tsc_unstable(): sticky, host-wide."""
        return self._condition.tsc_unstable

    @property
    def unstable_why(self) -> str:
        """The reason that was given when the TSC became unstable, or nothing."""
        return self._condition.unstable_why

    def kvm_check_tsc_unstable(self) -> bool:
        """As KVM asks: Hyper-V's clock is trusted whatever the kernel thinks of the TSC."""
        return self._condition.tsc_unstable and self.vclock_mode != VCLOCK_HVCLOCK

    # ---- the clocks

    @property
    def clocksource(self) -> str:
        return self.timekeeper.clock.name

    @property
    def vclock_mode(self) -> int:
        return self.timekeeper.clock.vclock_mode

    def ktime_get_ns(self, cpu: int = 0) -> int:
        """CLOCK_MONOTONIC, ns; one clock read, as all ktime_get_*."""
        return self.timekeeper.monotonic_ns(self._cycles(cpu))

    def ktime_get_raw_ns(self, cpu: int = 0) -> int:
        return self.timekeeper.raw_ns(self._cycles(cpu))

    def ktime_get_real_ns(self, cpu: int = 0) -> int:
        return self.timekeeper.realtime_ns(self._cycles(cpu))

    def ktime_get_boottime_ns(self, cpu: int = 0) -> int:
        return self.timekeeper.boottime_ns(self._cycles(cpu))

    def read_clock(self, name: str, cpu: int = 0) -> int:
        """What ReadHostClock answers: "realtime", "monotonic", "monotonic_raw", "boottime" (ns) or "tsc" (cycles)."""
        readers = {
            "realtime": self.ktime_get_real_ns,
            "monotonic": self.ktime_get_ns,
            "monotonic_raw": self.ktime_get_raw_ns,
            "boottime": self.ktime_get_boottime_ns,
            "tsc": self.rdtsc,
        }
        if name not in readers:
            raise UserError(f"host clock: unknown {name!r}, expected one of {', '.join(readers)}")
        return readers[name](cpu)

    # ---- what KVM reads

    def get_kvmclock_base_ns(self, base: str = "raw", cpu: int = 0) -> int:
        """get_kvmclock_base_ns(): RAW + offs_boot since 5.5, or ("boottime") CLOCK_BOOTTIME before; one read, ns."""
        if base == "raw" and self._one_line:  # one line whatever ticks have been taken
            assert not self._condition.asleep, _ASLEEP
            timekeeper = self.timekeeper
            cycles = self._counters[timekeeper.clock.name].at(self.timeline.read_ps(), cpu)
            return timekeeper.raw_ns(cycles) + timekeeper.offs_boot_ns
        return self._base_ns(base, self._cycles(cpu))

    def get_time_and_clockread(self, base: str = "raw", cpu: int = 0) -> tuple[int, int] | None:
        """(kvmclock base in ns, host TSC), both from one ordered TSC read; None unless the clocksource counts TSC."""
        read = self._clockread(cpu)
        return None if read is None else (self._base_ns(base, read[0]), read[1])

    def get_realtime_and_clockread(self, cpu: int = 0) -> tuple[int, int] | None:
        """(REALTIME in ns, host TSC), both from one ordered TSC read; None unless the clocksource counts TSC."""
        read = self._clockread(cpu)
        return None if read is None else (self.timekeeper.realtime_ns(read[0]), read[1])

    def _base_ns(self, base: str, cycles: int) -> int:
        assert base in ("raw", "boottime"), base
        tk = self.timekeeper
        return tk.raw_ns(cycles) + tk.offs_boot_ns if base == "raw" else tk.boottime_ns(cycles)

    def _clockread(self, cpu: int) -> tuple[int, int] | None:
        """(clocksource cycles, TSC) of one read (vgettsc), or None. Under TSC clamped to cycle_last (read_tsc)."""
        mode = self.vclock_mode
        if mode not in (VCLOCK_TSC, VCLOCK_HVCLOCK):
            return None
        now = self._read_ps()
        tsc = self.counter.at(now, cpu)
        if mode == VCLOCK_HVCLOCK:
            return self._counters["hyperv"].at(now, cpu), tsc
        last = self.timekeeper.cycle_last
        tsc = last if tsc < last else tsc
        return tsc, tsc

    def _cycles(self, cpu: int) -> int:
        """One read of the clocksource on `cpu`."""
        return self._counters[self.clocksource].at(self._read_ps(), cpu)

    def _read_ps(self) -> int:
        """The instant of one clock read; the ticks due until then have been taken."""
        self._awake()
        now = self.timeline.read_ps()
        if not (self._one_line and self.timekeeper.steady):
            self._ticks(now)
        return now

    def _ticks(self, ps: int) -> None:
        """Ticks are CPU 0's (tick_do_timer_cpu)."""
        self.timekeeper.tick_until(self._counters[self.clocksource].at(ps))

    def catch_up(self) -> None:
        """Takes the ticks due by now. For whoever is about to set back a counter that this machine counts with."""
        if not self._condition.asleep:
            self._ticks(self.timeline.now_ps)

    # ---- changes

    def set_clocksource(self, name: str) -> bool:
        """Writes current_clocksource. Like the kernel, leaves things as they are (False) for an unstable TSC.

        Raises UserError for a clocksource this machine has not.
        """
        if name not in self.spec.all_clocksources:
            have = ", ".join(self.spec.all_clocksources)
            raise UserError(f"clocksource: {name!r} is not on this machine, expected one of {have}")
        if name == "tsc" and self._condition.tsc_unstable:
            return False
        if name == self.clocksource:
            return True
        now = self._read_ps()
        new = clocksource(name, tsc_khz=self.tsc_khz)
        self.timekeeper.change_clocksource(new, self._counters[self.clocksource].at(now), self._counters[name].at(now))
        for heard in self.on_clocksource_change:
            heard()
        return True

    def mark_tsc_unstable(self, reason: str) -> None:
        """mark_tsc_unstable(): for good. If the TSC is the clocksource, the watchdog then replaces it."""
        if self._condition.tsc_unstable:
            return
        self._condition.tsc_unstable = True
        self._condition.unstable_why = reason
        if self._scheduler is None:
            self._drop_tsc()
        else:
            self._scheduler.spawn("clocksource_watchdog_work", self._watchdog_work(), daemon=True)

    async def _watchdog_work(self) -> None:
        await cp("clocksource_watchdog_work")
        while not self.awake():
            await cp("clocksource_watchdog_work", until=self.awake)
        self._drop_tsc()

    def _drop_tsc(self) -> None:
        if self.clocksource == "tsc":
            rest = [clocksource(n, tsc_khz=self.tsc_khz) for n in self.spec.all_clocksources if n != "tsc"]
            self.set_clocksource(sorted(rest, key=lambda c: -c.rating)[0].name)

    def set_cpu_khz(self, cpu: int, khz: int) -> None:
        """cpufreq changes a CPU's frequency, and without constant_tsc its TSC's rate: the TSC becomes unstable."""
        if self.constant_tsc or self._own is None:
            raise UserError("set_cpu_khz: the rate is fixed, expected a machine of its own without constant_tsc")
        if not 0 <= cpu < self.cpus or not 0 < khz < 2**32:
            raise UserError(f"set_cpu_khz: CPU {cpu}, {khz} kHz: expected a CPU below {self.cpus} and a positive rate")
        now = self.timeline.now_ps
        self._own.set_rate(now, Fraction(khz * self.spec.true_hz, self.tsc_khz), cpu)
        self._cpus[cpu].khz = khz
        self.mark_tsc_unstable("cpufreq changes on SMP")
        for heard in self.on_cpu_khz_change:
            heard(cpu)

    def step_realtime(self, ns: int) -> None:
        """REALTIME moves by ns (signed) at once. Refused, as in the kernel, if it would come before MONOTONIC."""
        if self.timekeeper.offs_real_ns + ns < 0:
            raise UserError(f"step_realtime: {ns} ns would put REALTIME before MONOTONIC, the kernel answers EINVAL")
        self.timekeeper.step_realtime(self._cycles(0), ns)

    def adjust_frequency(self, ppb: int) -> None:
        """adjtimex(ADJ_FREQUENCY): MONOTONIC runs ppb (signed) faster than the clocksource says, from now on."""
        if not -MAX_FREQ_PPB <= ppb <= MAX_FREQ_PPB:
            raise UserError(f"adjust_frequency: {ppb} ppb, expected at most {MAX_FREQ_PPB} either way")
        now = self._read_ps()
        self.timekeeper.adjust_frequency(self._counters[self.clocksource].at(now), adjtimex_freq(ppb))

    # ---- sleep

    def awake(self) -> bool:
        """Guard for kernel workers and timers: false while the machine is suspended."""
        return not self._condition.asleep

    def tasks_run(self) -> bool:
        """Guard for user tasks, VMM and vCPU threads among them: false from the freezer on until they are thawed."""
        return not self._condition.frozen

    def _awake(self) -> None:
        assert not self._condition.asleep, _ASLEEP

    async def sleep(self, ns: int, tsc: str = "running", kind: str = "s3") -> None:
        """The machine sleeps for ns of true time.

        tsc: "running" (counts on), "stopped" (holds) or "reset" (starts again at 0).
        kind: "s3" takes the hardware down and up again; "s2idle" stops timekeeping only, so KVM's hardware hooks do
        not run and the TSC counts on. Without a CPU state that allows it, s2idle is plain idle: then just wait.
        """
        if tsc not in SLEEP_TSC or kind not in SLEEP_KINDS or ns < 0:
            raise UserError(
                f"sleep: {ns} ns, tsc {tsc!r}, kind {kind!r}: expected 0 ns or more, tsc one of {', '.join(SLEEP_TSC)}"
                f", kind one of {', '.join(SLEEP_KINDS)}"
            )
        if tsc != "running" and (kind == "s2idle" or self._own is None):
            raise UserError(f"sleep: tsc {tsc!r}, expected 'running' in s2idle and on a machine whose TSC is a guest's")
        self._call(self.on_suspend_prepare)
        await cp("suspend: prepared")
        self._condition.frozen = True
        await cp("suspend: tasks frozen")
        while not all(frozen() for frozen in self.tasks_frozen):
            await cp("suspend: tasks frozen", until=lambda: all(frozen() for frozen in self.tasks_frozen))
        if kind == "s3":
            self._call(self.on_suspend)
        began = self._suspend()
        if self._own is not None and tsc != "running":
            self._own.hold(began)
        await cp("asleep", delay_ps=ns * PS_PER_NS)
        woke = self.timeline.read_ps()
        if self._own is not None and tsc != "running":
            self._own.release(woke, 0 if tsc == "reset" else None)
        self._resume(began, woke)
        if kind == "s3":
            self._call(self.on_resume)
        await cp("resume: devices")
        self._condition.frozen = False
        self._call(self.on_suspend_post)

    def _suspend(self) -> int:
        """timekeeping_suspend() now; answers the instant."""
        now = self._read_ps()
        self.timekeeper.suspend(self._counters[self.clocksource].at(now), self._persistent_ns(now))
        self._suspend_tsc = self.counter.at(now)
        self._condition.asleep = True
        return now

    def _resume(self, began: int, woke: int) -> None:
        self._condition.asleep = False
        nonstop = 0
        if self.spec.rtc_grain_ns == 0:
            nonstop = (woke - began) // PS_PER_NS
        elif self.spec.nonstop_tsc and self.counter.at(woke) > self._suspend_tsc:
            # clocksource_stop_suspend_timing(): nominal rate, 128-bit product
            tsc = clocksource("tsc", tsc_khz=self.tsc_khz)
            nonstop = mul_u64_u64_shr(self.counter.at(woke) - self._suspend_tsc, tsc.mult, tsc.shift)
        self.timekeeper.resume(self._counters[self.clocksource].at(woke), self._persistent_ns(woke), nonstop)

    def _persistent_ns(self, ps: int) -> int:
        """The persistent clock (CMOS RTC), ns, in its granularity; it keeps true time."""
        ns = self._rtc_base_ns + (ps - self._rtc_since_ps) // PS_PER_NS
        grain = self.spec.rtc_grain_ns or 1
        return ns // grain * grain

    @staticmethod
    def _call(heard: list[Callable[[], None]]) -> None:
        for one in heard:
            one()
