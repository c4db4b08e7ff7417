"""An x86 machine: its TSC, what KVM reads with it, and how the TSC loses the kernel's trust."""

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
from guestclock.linux.selection import choose
from guestclock.machine.counter import AnyCounter, Counter, Derived
from guestclock.machine.machine import Machine
from guestclock.machine.spec import HostSpec
from guestclock.sim.checkpoint import cp
from guestclock.sim.field import flag, text, u32
from guestclock.sim.scheduler import Scheduler
from guestclock.sim.state import State
from guestclock.sim.timeline import PS_PER_NS, Timeline


class _Trust(State):
    """What the kernel thinks of the TSC."""

    tsc_unstable = flag("check_tsc_unstable(): sticky")
    unstable_why = text("the reason given first")


class _Cpu(State):
    khz = u32("cpu_tsc_khz: the rate cpufreq last gave this CPU; used without constant_tsc")


class X86Machine(Machine):
    """A host, or a guest that is a host to others, built from a HostSpec on a timeline.

    counter: the TSC; None makes the one of the spec. Give a machine below's guest TSC for L1 and L2.
    kvmclock: what the clocksource "kvm-clock" reads, ns; None: an ideal one, true time since power-on.
    scheduler: where the clocksource watchdog runs. Subscribers besides Machine's: `on_cpu_khz_change` (cpufreq, with
    the CPU).
    """

    arch = "x86_64"

    def __init__(
        self,
        timeline: Timeline,
        spec: HostSpec,
        *,
        counter: AnyCounter | None = None,
        kvmclock: AnyCounter | None = None,
        scheduler: Scheduler | None = None,
    ) -> None:
        self.spec = spec
        now = timeline.now_ps
        ahead = spec.skew or (() if spec.constant_tsc else (0,) * spec.cpus)
        self._own = Counter(spec.true_hz, spec.first_tsc, now, ahead) if counter is None else None
        self.counter: AnyCounter = counter if counter is not None else self._own  # type: ignore[assignment]
        scale = (HYPERV_HZ << 64) * spec.true_hz.denominator // spec.true_hz.numerator
        counters: dict[str, AnyCounter] = {
            "tsc": self.counter,
            "hpet": Counter(HPET_HZ, 0, now),
            "kvm-clock": kvmclock if kvmclock is not None else Counter(KVM_CLOCK_HZ, spec.uptime_ns, now),
            "hyperv": Derived(self.counter, lambda tsc: hv_ref_time(tsc, scale, 0)),
        }
        self._hyperv = counters["hyperv"]
        self._trust = _Trust(tsc_unstable=spec.tsc_unstable)
        self._cpus = [_Cpu(khz=spec.tsc_khz) for _ in range(spec.cpus)]
        self._rtc_base_ns = spec.realtime_ns + spec.rtc_ahead_ns
        self._rtc_since_ps = now
        super().__init__(
            timeline,
            {n: (clocksource(n, tsc_khz=spec.tsc_khz), counters[n]) for n in spec.all_clocksources},
            spec.clocksource,
            cpus=spec.cpus,
            hz=spec.hz,
            uptime_ns=spec.uptime_ns,
            realtime_ns=spec.realtime_ns,
            # On one line for all CPUs nobody can see whether cycle_last is that of the latest tick or an older one.
            one_line=counter is None and not any(spec.skew) and spec.constant_tsc,
            scheduler=scheduler,
        )
        self.on_cpu_khz_change: list[Callable[[int], None]] = []

    # ---- the TSC

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
        self._awake()
        return self.counter.at(self.timeline.read_ps(), cpu)

    def tsc_at(self, ps: int, cpu: int = 0) -> int:
        """The TSC of `cpu` at true time ps, u64, for onlookers: no time passes."""
        return self.counter.at(ps, cpu)

    @property
    def tsc_unstable(self) -> bool:
        """check_tsc_unstable(): sticky, host-wide."""
        return self._trust.tsc_unstable

    @property
    def unstable_why(self) -> str:
        """The reason that was given when the TSC became unstable, or nothing."""
        return self._trust.unstable_why

    def kvm_check_tsc_unstable(self) -> bool:
        """As KVM asks: Hyper-V's clock is trusted whatever the kernel thinks of the TSC."""
        return self._trust.tsc_unstable and self.vclock_mode != VCLOCK_HVCLOCK

    def readers(self) -> dict[str, Callable[[int], int]]:
        """Machine's, and "tsc" (cycles)."""
        return {**super().readers(), "tsc": self.rdtsc}

    # ---- what KVM reads

    def get_kvmclock_base_ns(self, base: str = "raw", cpu: int = 0) -> int:
        """get_kvmclock_base_ns(): RAW + offs_boot since 5.5, or ("boottime") CLOCK_BOOTTIME before; one read, ns."""
        if base == "raw" and self._one_line:  # one line whatever ticks have been taken
            self._awake()
            timekeeper = self.timekeeper
            cycles = self._counter().at(self.timeline.read_ps(), cpu)
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
            return self._hyperv.at(now, cpu), tsc
        last = self.timekeeper.cycle_last
        tsc = last if tsc < last else tsc
        return tsc, tsc

    # ---- changes

    def set_clocksource(self, name: str) -> bool:
        """Writes current_clocksource. Like the kernel, leaves things as they are (False) for an unstable TSC.

        Raises UserError for a clocksource this machine has not.
        """
        if name == "tsc" and name in self._clocksources and self._trust.tsc_unstable:
            return False
        return super().set_clocksource(name)

    def mark_tsc_unstable(self, reason: str) -> None:
        """mark_tsc_unstable(): for good. If the TSC is the clocksource, the watchdog then replaces it."""
        if self._trust.tsc_unstable:
            return
        self._trust.tsc_unstable = True
        self._trust.unstable_why = reason
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
            self.set_clocksource(choose([clock for clock, _ in self._clocksources.values()], {"tsc": 0}).name)

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

    # ---- sleep

    def _refuse_sleep(self, tsc: str, kind: str) -> None:
        if tsc != "running" and (kind == "s2idle" or self._own is None):
            raise UserError(f"sleep: tsc {tsc!r}, expected 'running' in s2idle and on a machine whose TSC is a guest's")

    def _fell_asleep(self, ps: int, tsc: str) -> None:
        self._suspend_tsc = self.counter.at(ps)
        if self._own is not None and tsc != "running":
            self._own.hold(ps)

    def _wakes(self, ps: int, tsc: str) -> None:
        if self._own is not None and tsc != "running":
            self._own.release(ps, 0 if tsc == "reset" else None)

    def _nonstop_ns(self, began: int, woke: int) -> int:
        if self.spec.rtc_grain_ns == 0:
            return (woke - began) // PS_PER_NS
        if self.spec.nonstop_tsc and self.counter.at(woke) > self._suspend_tsc:
            # clocksource_stop_suspend_timing(): nominal rate, 128-bit product
            tsc = clocksource("tsc", tsc_khz=self.tsc_khz)
            return mul_u64_u64_shr(self.counter.at(woke) - self._suspend_tsc, tsc.mult, tsc.shift)
        return 0

    def _persistent_ns(self, ps: int) -> int:
        """The persistent clock (CMOS RTC), ns, in its granularity; it keeps true time."""
        ns = self._rtc_base_ns + (ps - self._rtc_since_ps) // PS_PER_NS
        grain = self.spec.rtc_grain_ns or 1
        return ns // grain * grain
