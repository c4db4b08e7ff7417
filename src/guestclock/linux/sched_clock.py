"""sched_clock(): the scheduler's time, which no timekeeper has a hand in.

A guest has one of three: the TSC's own conversion (x86), kvmclock less its value at boot (x86 with kvmclock, whatever
the clocksource is), the counter's (arm64). None is slewed by NTP, none steps when a clock is set; which of them counts
a sleep of the host depends on what they are made of. Soft lockups and the time a task is charged are reckoned by it.
"""

from __future__ import annotations

from guestclock.arith import u64 as as_u64
from guestclock.linux.clocksource import calc_mult_shift
from guestclock.sim.field import flag, integer, s64, u32, u64
from guestclock.sim.state import State

_NSEC_PER_MSEC = 1_000_000
_NSEC_PER_SEC = 1_000_000_000


class NativeSchedClock(State):
    """x86's native_sched_clock(): struct cyc2ns of one CPU.

    Source: arch/x86/kernel/tsc.c __cycles_2_ns(), __set_cyc2ns_scale(), tsc_restore_sched_clock_state(), v6.12.
    """

    offset_ns = u64("cyc2ns_offset")
    mul = u32("cyc2ns_mul")
    shift = integer("cyc2ns_shift, at most 31")
    suspended_ns = u64("what it showed when the machine went to sleep")

    @classmethod
    def start(cls, khz: int, tsc: int) -> NativeSchedClock:
        """One that begins at 0 where the TSC is `tsc`."""
        made = cls()
        made.mul, made.shift = cyc2ns_scale(khz)
        made.offset_ns = as_u64(-(tsc * made.mul >> made.shift))
        return made

    def ns(self, tsc: int) -> int:
        """ns, u64. A TSC that goes back takes it back: nothing clamps."""
        return as_u64(self.offset_ns + (tsc * self.mul >> self.shift))

    def set_scale(self, khz: int, tsc: int) -> None:
        """The TSC counts at khz from now on; the value now stays."""
        now = self.ns(tsc)
        self.mul, self.shift = cyc2ns_scale(khz)
        self.offset_ns = as_u64(now - (tsc * self.mul >> self.shift))

    def rebase(self, khz: int | None, stop: int, begins: int) -> None:
        """What it showed at `stop` it shows at `begins`, and counts at khz (None: as before) from there on.

        No kernel has this: it is set_cyc2ns_scale() of a TSC that has changed its value too.
        """
        shown = self.ns(stop)
        if khz is not None:
            self.mul, self.shift = cyc2ns_scale(khz)
        self.offset_ns = as_u64(shown - (begins * self.mul >> self.shift))

    def suspend(self, tsc: int) -> None:
        """The kernel's own suspend: it goes on from here, whatever the TSC does meanwhile."""
        self.suspended_ns = self.ns(tsc)

    def resume(self, tsc: int) -> None:
        self.offset_ns = as_u64(self.suspended_ns - (tsc * self.mul >> self.shift))


def cyc2ns_scale(khz: int) -> tuple[int, int]:
    """(mul, shift) of sched_clock for a TSC of khz: as fine as 32 bits hold, as products are 96 bits wide."""
    mul, shift = calc_mult_shift(khz, _NSEC_PER_MSEC, 0)
    return (mul >> 1, 31) if shift == 32 else (mul, shift)


class KvmSchedClock(State):
    """x86's kvm_sched_clock_read(): kvmclock less what it was when the kernel set it up.

    The kernel's own suspend leaves the offset: it is as continuous as kvmclock. Without STABLE in the page at boot it
    counts as unstable (clear_sched_clock_stable), and the scheduler filters it.
    Source: arch/x86/kernel/kvmclock.c, v6.12.
    """

    offset_ns = u64("kvm_sched_clock_offset")
    stable = flag("the page was STABLE when the kernel looked first")

    def ns(self, kvmclock_ns: int) -> int:
        return as_u64(kvmclock_ns - self.offset_ns)


class GenericSchedClock(State):
    """arm64's sched_clock: the counter since its epoch, halted over the kernel's own suspend.

    The epoch moves on now and then before the counter's width is used up; that changes no value, and is left out.
    Source: kernel/time/sched_clock.c, v6.12.
    """

    epoch_cyc = u64("counter at the epoch")
    epoch_ns = u64("what it showed there")
    mult = u32("multiplier")
    shift = integer("shift")
    suspended = flag("it stands at epoch_ns")

    @classmethod
    def start(cls, counter_hz: int, cycles: int) -> GenericSchedClock:
        mult, shift = calc_mult_shift(counter_hz, _NSEC_PER_SEC, 3600)
        return cls(epoch_cyc=cycles, mult=mult, shift=shift)

    def ns(self, cycles: int) -> int:
        if self.suspended:
            return self.epoch_ns
        return as_u64(self.epoch_ns + (as_u64((cycles - self.epoch_cyc) * self.mult) >> self.shift))

    def suspend(self, cycles: int) -> None:
        self.epoch_ns = self.ns(cycles)
        self.suspended = True

    def resume(self, cycles: int) -> None:
        self.epoch_cyc = cycles
        self.suspended = False


class Charged(State):
    """What a scheduler charges the task that was on the CPU: update_rq_clock_task(), with steal time.

    Steal is taken off as far as it goes; what exceeds the interval is dropped (6.12), and a jump that no steal covers
    is the task's own.
    """

    rq_clock_ns = s64("sched_clock at the last update")
    steal_ns = s64("steal time already taken off")
    task_ns = s64("charged to the task so far")

    def update(self, sched_clock_ns: int, steal_ns: int) -> int:
        """What the task is charged for since the last update, ns."""
        delta = sched_clock_ns - self.rq_clock_ns
        stolen = steal_ns - self.steal_ns
        stolen = delta if stolen > delta else stolen
        self.rq_clock_ns, self.steal_ns = sched_clock_ns, steal_ns
        self.task_ns += delta - stolen
        return delta - stolen
