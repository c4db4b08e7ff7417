"""An arm64 machine: one system counter that nothing stops, and a Linux that tells the time by it."""

from __future__ import annotations

from collections.abc import Callable

from guestclock.arith import mul_u64_u64_shr, u64
from guestclock.errors import UserError
from guestclock.linux.clocksource import arch_sys_counter
from guestclock.machine.counter import AnyCounter, Counter
from guestclock.machine.machine import Machine
from guestclock.machine.spec import Arm64Spec
from guestclock.sim.scheduler import Scheduler
from guestclock.sim.timeline import Timeline


class Arm64Machine(Machine):
    """A host, or a guest that is a host to others, built from an Arm64Spec on a timeline.

    counter: what CNTPCT_EL0 counts here; None makes the one of the spec. Give a guest's counter for L1 and L2.

    The architecture puts the counter into a power domain that is always on, so the clocksource counts through suspend
    and measures it, at its nominal rate; there is no persistent clock.
    Source: drivers/clocksource/arm_arch_timer.c, kernel/time/timekeeping.c, v6.12.
    """

    arch = "arm64"

    def __init__(
        self,
        timeline: Timeline,
        spec: Arm64Spec,
        *,
        counter: AnyCounter | None = None,
        scheduler: Scheduler | None = None,
    ) -> None:
        self.spec = spec
        self.counter: AnyCounter = counter or Counter(spec.rate, spec.first_counter, timeline.now_ps)
        clock = arch_sys_counter(spec.counter_hz)
        super().__init__(
            timeline,
            {clock.name: (clock, self.counter)},
            clock.name,
            cpus=spec.cpus,
            hz=spec.hz,
            uptime_ns=spec.uptime_ns,
            realtime_ns=spec.realtime_ns,
            one_line=counter is None,
            scheduler=scheduler,
        )

    @property
    def counter_hz(self) -> int:
        """What CNTFRQ_EL0 says, Hz: here, and to every guest."""
        return self.spec.counter_hz

    def read_counter(self, cpu: int = 0) -> int:
        """One MRS of CNTPCT_EL0, or of CNTVCT_EL0 at EL2, u64. Advances the timeline by what a read takes."""
        self._awake()
        return self.counter.at(self.timeline.read_ps(), cpu)

    def counter_at(self, ps: int) -> int:
        """The counter at true time ps, u64, for onlookers: no time passes."""
        return self.counter.at(ps)

    def readers(self) -> dict[str, Callable[[int], int]]:
        """Machine's, and "counter" (ticks) and "cntfrq" (Hz)."""
        return {**super().readers(), "counter": self.read_counter, "cntfrq": lambda _: self.counter_hz}

    def ktime_get_snapshot(self, cpu: int = 0) -> tuple[int, int]:
        """ktime_get_snapshot(): (REALTIME in ns, counter) of one read."""
        cycles = self._cycles(cpu)
        return self.timekeeper.realtime_ns(cycles), cycles

    def boottime_and_counter(self, cpu: int = 0) -> tuple[int, int]:
        """(BOOTTIME in ns, counter) of one read: what a thread gets that reads one between two reads of the other, and
        is not held up; a kernel reckons the one from the other.
        """
        cycles = self._cycles(cpu)
        return self.timekeeper.boottime_ns(cycles), cycles

    async def sleep(self, ns: int, tsc: str = "running", kind: str = "s2idle", aborted_at: str = "") -> None:
        """As Machine.sleep(); the counter runs on in s2idle and in "s3" (PSCI SYSTEM_SUSPEND) alike."""
        await super().sleep(ns, tsc, kind, aborted_at)

    def _refuse_sleep(self, tsc: str, kind: str) -> None:
        if tsc != "running":
            raise UserError(f"sleep: tsc {tsc!r}, expected 'running': an arm64 machine's counter is always on")

    def _persistent_ns(self, ps: int) -> int:
        return 0

    def _nonstop_ns(self, began: int, woke: int) -> int:
        """clocksource_stop_suspend_timing(): nominal rate, 128-bit product."""
        clock = self.timekeeper.clock
        return mul_u64_u64_shr(u64(self.counter.at(woke) - self.counter.at(began)), clock.mult, clock.shift)
