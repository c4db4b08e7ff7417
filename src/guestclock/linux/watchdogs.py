"""Watchdogs that bite a guest whose time jumped: soft lockup, hung task, RCU stall, workqueue stall.

Each compares a clock with what it was when it was last fed. Over a jump they see what that clock saw: soft lockup the
scheduler's (`linux.sched_clock`), the others jiffies, which follow MONOTONIC. `paused` is what
kvm_check_and_clear_guest_paused() answers: GUEST_STOPPED was set in this CPU's page, and is now cleared.
The clocksource watchdog is in `linux.selection`.

Source: kernel/watchdog.c, kernel/hung_task.c, kernel/rcu/tree_stall.h, kernel/workqueue.c, v6.12.
"""

from __future__ import annotations

from guestclock.sim.field import flag, integer, s64
from guestclock.sim.state import State

SOFT_LOCKUP_S = 20  # 2 * watchdog_thresh, in units of 2^30 ns: 21.5 s
SOFT_LOCKUP_SAMPLE_NS = 4_000_000_000
HUNG_TASK_S = 120
RCU_STALL_S = 21
WORKQUEUE_S = 30


class SoftLockup(State):
    """One CPU's soft lockup detector: a timer every 4 s looks, a stopper thread feeds it.

    Seconds are of 2^30 ns, which makes 20 of them 21.5 s.
    """

    touch_s = s64("sched_clock >> 30 when the stopper last ran")
    report_s = s64("and the same or later, from which the next report is due")
    touched = flag("touch_softlockup_watchdog(): the next look only begins a new period")

    def feed(self, sched_clock_ns: int) -> None:
        """softlockup_fn(), the stopper's: this CPU schedules."""
        self.touch_s = self.report_s = sched_clock_ns >> 30

    def look(self, sched_clock_ns: int, paused: bool = False) -> int:
        """watchdog_timer_fn(): for how many seconds the CPU is reported as stuck, 0: not.

        The clock is read before GUEST_STOPPED is looked at; a host's stop in between is not excused.
        """
        now = sched_clock_ns >> 30
        if paused or self.touched:
            self.touched = False
            self.report_s = now
            return 0
        if now <= self.report_s + SOFT_LOCKUP_S:
            return 0
        self.report_s = now
        return now - self.touch_s


class HungTask(State):
    """khungtaskd and one task in uninterruptible sleep since last_switch.

    It looks every 120 s of jiffies; a task is known to it from the first look on that finds it asleep, so that a real
    hang is reported after 120 to 240 s. Over a jump one look is enough if another saw the task before.
    """

    hz = integer("CONFIG_HZ")
    last_checked = s64("jiffies of the latest look")
    last_switch = s64("jiffies of the look that saw the task switched last")
    seen = flag("a look has seen the task asleep")
    reset = flag("reset_hung_task_detector(), by GUEST_STOPPED: the next look looks at nothing")

    def due(self) -> int:
        """jiffies at which it looks next."""
        return self.last_checked + HUNG_TASK_S * self.hz

    def look(self, jiffies: int) -> int:
        """watchdog(), when it is due: for how many seconds the task is reported as blocked, 0: not."""
        self.last_checked = jiffies
        if self.reset:
            self.reset = False
            return 0
        if not self.seen:
            self.seen, self.last_switch = True, jiffies
            return 0
        if jiffies < self.last_switch + HUNG_TASK_S * self.hz:
            return 0
        return (jiffies - self.last_switch) // self.hz


class RcuStall(State):
    """check_cpu_stall(): a grace period that is under way, looked at by every tick."""

    hz = integer("CONFIG_HZ")
    gp_start = s64("jiffies at which the grace period began")
    jiffies_stall = s64("jiffies from which it counts as stalled")
    fqs_left = integer("forced quiescent states to come before jiffies count again: rcu_cpu_stall_reset()")

    def begin(self, jiffies: int) -> None:
        self.gp_start, self.jiffies_stall = jiffies, jiffies + RCU_STALL_S * self.hz

    def look(self, jiffies: int, paused: bool = False) -> int:
        """For how many jiffies the grace period is reported as stalled, 0: not."""
        if self.fqs_left or jiffies < self.jiffies_stall:
            return 0
        if paused:
            self.fqs_left = 3
            return 0
        self.jiffies_stall = jiffies + 3 * RCU_STALL_S * self.hz + 3
        return jiffies - self.gp_start

    def forced_quiescent_state(self, jiffies: int) -> None:
        """A round of the grace-period kthread: after the third the deadline is set anew, by a jiffies that is true."""
        if self.fqs_left:
            self.fqs_left -= 1
            if not self.fqs_left:
                self.jiffies_stall = jiffies + RCU_STALL_S * self.hz


class WorkqueueStall(State):
    """wq_watchdog_timer_fn(): a pool with work pending that has not begun any."""

    hz = integer("CONFIG_HZ")
    touched = s64("jiffies at which the pool, or the watchdog, was last fed")

    def look(self, jiffies: int, paused: bool = False) -> int:
        """For how many seconds the pool is reported as stuck, 0: not."""
        if paused:
            self.touched = jiffies
            return 0
        if jiffies <= self.touched + WORKQUEUE_S * self.hz:
            return 0
        return (jiffies - self.touched) // self.hz


def over_a_jump(*, hz: int, sched_clock_ns: int, monotonic_ns: int, paused: bool = False) -> tuple[str, ...]:
    """Which watchdogs report a guest in good health whose clocks jumped by so much between two instructions.

    sched_clock_ns, monotonic_ns: what those clocks jumped by. paused: GUEST_STOPPED is set in every CPU's page. The
    watchdogs were all fed just before; a task was in uninterruptible sleep, a grace period under way, a work pending.
    """
    jiffies = monotonic_ns * hz // 1_000_000_000
    soft = SoftLockup()
    hung = HungTask(hz=hz, seen=True, reset=paused)
    rcu = RcuStall(hz=hz, jiffies_stall=RCU_STALL_S * hz)
    work = WorkqueueStall(hz=hz)
    reports = {
        "soft lockup": soft.look(sched_clock_ns, paused),
        "hung task": hung.look(jiffies) if jiffies >= hung.due() else 0,
        "RCU stall": rcu.look(jiffies, paused),
        "workqueue stall": work.look(jiffies, paused),
    }
    return tuple(name for name, reported in reports.items() if reported)
