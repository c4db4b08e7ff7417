"""Timers by clock: hrtimers of MONOTONIC, REALTIME, BOOTTIME and TAI on one CPU, and timerfds over them.

A base other than MONOTONIC's is MONOTONIC plus an offset, of which each CPU has a copy. Its timers are due where
MONOTONIC plus the *copy* says so, and the interrupt is programmed for the earliest of all; so a clock that is set, or
a sleep that is injected, is heard of only when the copy is renewed and the interrupt programmed again.

Limits: no soft bases, no slack; the interrupt comes exactly when MONOTONIC reaches what was programmed.
Source: kernel/time/hrtimer.c, fs/timerfd.c, v6.12.
"""

from __future__ import annotations

from guestclock.arith import S64_MAX
from guestclock.linux.timekeeper import Timekeeper
from guestclock.sim.field import flag, integer, ref, s64, text, u32
from guestclock.sim.state import State

BASES = ("monotonic", "realtime", "boottime", "tai")
CLOCK_SET_WALL = ("realtime", "tai")
CLOCK_SET_BOOT = ("boottime",)
KTIME_MAX = S64_MAX
ECANCELED, EAGAIN = 125, 11


class Hrtimer(State):
    """One timer. restarts: its callback forwards and restarts it, as the tick's does; else who reads it does."""

    clock = text("its base, one of BASES", "monotonic")
    expires_ns = s64("when it is due, ns of its clock")
    period_ns = s64("0: once")
    restarts = flag("periodic by itself")
    fired = integer("times its callback ran")
    overrun = integer("periods that passed without one")
    fired_at_ns = s64("MONOTONIC at the latest of them, ns", -1)

    def forward(self, now_ns: int) -> int:
        """hrtimer_forward(): to the first period after now_ns of its clock; how many periods that was."""
        if now_ns < self.expires_ns:
            return 0
        periods = (now_ns - self.expires_ns) // self.period_ns + 1
        self.expires_ns += periods * self.period_ns
        return periods


class CpuBase(State):
    """struct hrtimer_cpu_base: the timers of one CPU, and what its clock event device was programmed for."""

    clock_was_set_seq = u32("of the timekeeper, when the offsets were copied")
    offs_real_ns = s64("copy")
    offs_boot_ns = s64("copy")
    offs_tai_ns = s64("copy")
    timers: tuple[Hrtimer, ...] = ref("those that are queued", ())
    expires_next_ns = s64("MONOTONIC at which the interrupt is to come", KTIME_MAX)

    @classmethod
    def start(cls, tk: Timekeeper) -> CpuBase:
        made = cls()
        made._copy(tk)
        return made

    def offset_ns(self, clock: str) -> int:
        offsets = {"realtime": self.offs_real_ns, "boottime": self.offs_boot_ns, "tai": self.offs_tai_ns}
        return offsets.get(clock, 0)

    def update_base(self, tk: Timekeeper) -> bool:
        """hrtimer_update_base(): new copies if a clock was set since; whether one was."""
        if self.clock_was_set_seq == tk.clock_was_set_seq:
            return False
        self._copy(tk)
        return True

    def _copy(self, tk: Timekeeper) -> None:
        self.clock_was_set_seq = tk.clock_was_set_seq
        self.offs_real_ns, self.offs_boot_ns, self.offs_tai_ns = tk.offs_real_ns, tk.offs_boot_ns, tk.offs_tai_ns

    # ---- queueing

    def enqueue(self, timer: Hrtimer) -> None:
        """hrtimer_start() for an absolute time of its clock; the interrupt is programmed if that comes first."""
        assert timer.clock in BASES, timer.clock
        self.timers = (*(t for t in self.timers if t is not timer), timer)
        due = self._due_ns(timer)
        if due < self.expires_next_ns:
            self.expires_next_ns = due

    def cancel(self, timer: Hrtimer) -> None:
        self.timers = tuple(t for t in self.timers if t is not timer)

    def _due_ns(self, timer: Hrtimer) -> int:
        due = timer.expires_ns - self.offset_ns(timer.clock)
        return 0 if due < 0 else due

    def reprogram(self) -> None:
        """hrtimer_force_reprogram(): for the earliest of all bases."""
        earliest = KTIME_MAX
        for timer in self.timers:
            due = self._due_ns(timer)
            earliest = due if due < earliest else earliest
        self.expires_next_ns = earliest

    # ---- interrupts

    def interrupt(self, tk: Timekeeper, cycles: int) -> tuple[Hrtimer, ...]:
        """hrtimer_interrupt() where the counter is `cycles`: what is due by the copies of now fires, and is told.

        After a big jump everything that is due fires at once; a periodic timer that restarts itself once, forwarded.
        """
        now = tk.monotonic_ns(cycles)
        self.update_base(tk)
        fired: tuple[Hrtimer, ...] = ()
        for timer in self.timers:
            if timer.expires_ns <= now + self.offset_ns(timer.clock):
                fired += (timer,)
        kept = tuple(t for t in self.timers if t not in fired)
        for timer in fired:
            timer.fired += 1
            timer.fired_at_ns = now
            if timer.period_ns and timer.restarts:
                timer.overrun += timer.forward(now + self.offset_ns(timer.clock)) - 1
                kept += (timer,)
        self.timers = kept
        self.reprogram()
        return fired


def clock_was_set(tk: Timekeeper, cpus: tuple[CpuBase, ...], bases: tuple[str, ...]) -> tuple[CpuBase, ...]:
    """clock_was_set(): every CPU gets new copies; those that must be interrupted to program anew are answered.

    bases: the clocks that were set, CLOCK_SET_WALL, with an injected sleep CLOCK_SET_BOOT too. A CPU is interrupted
    only if a timer of one of *these* now comes first. Named too few, as v3 of the 2021 series did, the copies are
    renewed all the same, so that no later call finds anything to do: a BOOTTIME timer that is due waits for the next
    interrupt, whatever brings it.
    """
    interrupted: tuple[CpuBase, ...] = ()
    for cpu in cpus:
        if cpu.update_base(tk) and any(cpu._due_ns(t) < cpu.expires_next_ns for t in cpu.timers if t.clock in bases):
            cpu.reprogram()
            interrupted += (cpu,)
    return interrupted


class Timerfd(State):
    """struct timerfd_ctx. clock: "realtime" and "boottime" also stand for their ALARM clocks."""

    timer: Hrtimer = ref("its hrtimer")
    ticks = integer("expirations not yet read")
    expired = flag("its timer has fired and is not queued")
    might_cancel = flag("TFD_TIMER_CANCEL_ON_SET: with ABSTIME, on REALTIME alone")
    moffs_ns = s64("REALTIME - MONOTONIC as last agreed; KTIME_MAX: cancelled")

    @classmethod
    def set(
        cls, cpu: CpuBase, tk: Timekeeper, timer: Hrtimer, *, absolute: bool = True, cancel_on_set: bool = False
    ) -> Timerfd:
        """timerfd_create() and timerfd_settime(): starts the timer on a CPU."""
        made = cls(timer=timer, moffs_ns=tk.offs_real_ns)
        made.might_cancel = absolute and cancel_on_set and timer.clock == "realtime"
        cpu.enqueue(timer)
        return made

    def fire(self) -> None:
        """timerfd_triggered(): what its timer's callback does."""
        self.expired = True
        self.ticks += 1

    def clock_was_set(self, tk: Timekeeper) -> None:
        """timerfd_clock_was_set(), of any clock and after any resume: REALTIME - MONOTONIC decides."""
        if self.might_cancel and self.moffs_ns != tk.offs_real_ns:
            self.moffs_ns = KTIME_MAX
            self.ticks += 1

    def read(self, cpu: CpuBase, tk: Timekeeper, cycles: int) -> int:
        """read() without blocking: expirations since the last one, or -EAGAIN, or once after each set -ECANCELED.

        A periodic timer is started again here; what passed meanwhile counts. Cancelled, it is not.
        """
        if self.might_cancel and self.moffs_ns == KTIME_MAX:
            self.moffs_ns = tk.offs_real_ns
            self.ticks, self.expired = 0, False
            return -ECANCELED
        ticks = self.ticks
        if ticks and self.expired and self.timer.period_ns:
            now = tk.monotonic_ns(cycles) + tk.offset_ns(self.timer.clock)
            ticks += self.timer.forward(now) - 1
            cpu.enqueue(self.timer)
        self.ticks, self.expired = 0, False
        return ticks or -EAGAIN
