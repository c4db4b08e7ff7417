"""The guest's part of the 2017 freeze protocol: its timekeeper stands still, is told another counter, and goes on.

`freeze`, `reconfigure` and `unfreeze` are the three functions of Gleixner's mail (23 August 2017), on the same
timekeeper as everything else here. Between the first and the last of them one write section is open, also while the
image is on its way: timekeeper_lock is held, tk_core.seq is odd. The lock, the sequences and who may run meanwhile are
the protocol's (`checks.freeze`); this is what happens to the numbers.

The mail leaves open what "adjust the timekeeper data accordingly" is, and what was written as it stands steps back.
Each point on which the text and what works differ is a field of `Rules`.
"""

from __future__ import annotations

from dataclasses import dataclass

from guestclock.linux.clocksource import Clocksource
from guestclock.linux.sched_clock import NativeSchedClock
from guestclock.linux.timekeeper import TK_CLEAR_NTP, TK_CLOCK_WAS_SET, TK_MIRROR, Timekeeper
from guestclock.sim.field import ref, text, u32, u64
from guestclock.sim.state import State

MIGRATED, SAME_HOST = "migrated", "same-host"
"""Record.status: another host's counter, or the one that the guest was frozen on (an abort, or a host's sleep)."""

RUN, STOP = "run", "stop"
"""What MONOTONIC does over the downtime: count it, or stand still, so that only BOOTTIME and REALTIME gain it."""

NOW, AT_STOP, NOWHERE = "now", "at-stop", "nowhere"
"""Rules.rebase."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """How a guest carries the protocol out.

    closes: before the factors change, time is counted up to the record's stop_cycles by the old ones, so that the new
    epoch begins where the last reader of the old one can have been.
    rebase: where the new epoch begins in the counter. NOW: at the value read (the counter may have any value on the
    new host; V-B). AT_STOP: where it stopped (the host has made it go on from there, or from where it would be by now;
    V-A). NOWHERE: the factors alone are changed.
    ntp_at_freeze: NTP is cleared before anybody knows whether the guest will move (the mail's flags), and again after.
    keeps_frequency: NTP's frequency, which described the old host's crystal, steers the new one too.
    sched_clock: what reconfigure_sched_clock() does is done at all.
    adds_wait: what passes between the host's look at the downtime and the guest's at its counter is downtime as well.
    """

    closes: bool = True
    rebase: str = NOW
    ntp_at_freeze: bool = False
    keeps_frequency: bool = False
    adds_wait: bool = True
    sched_clock: bool = True


AS_WRITTEN = Rules(closes=False, ntp_at_freeze=True, keeps_frequency=True, adds_wait=False, sched_clock=False)
CORRECTED = Rules()


class Record(State):
    """What the host writes where the guest reads it, before it lets the guest run (step 7).

    A model of the page, not a layout: nobody has defined one.
    """

    epoch = u32("of the request that this answers")
    status = text("MIGRATED or SAME_HOST", SAME_HOST)
    clock: Clocksource = ref("the counter from now on, struct clocksource; with MIGRATED only")
    stop_cycles = u64("the highest counter that any vCPU can have read before it stopped, in the old counter's cycles")
    downtime_ns = u64("how long nothing had run at as_of_cycles, by hosts' clocks that also count while they sleep")
    as_of_cycles = u64("the guest's counter on this host where downtime_ns was taken")
    policy = text("RUN or STOP", STOP)


def freeze(tk: Timekeeper, cycles: int, rules: Rules = CORRECTED) -> None:
    """timekeeping_freeze() where the counter is `cycles`, up to the exit: MONOTONIC is folded up to here.

    NTP is left as it is unless the rules say otherwise: a guest that stays where it is has no reason to forget it.
    """
    tk.forward_now(cycles)
    tk.timekeeping_update(TK_CLEAR_NTP | TK_MIRROR | TK_CLOCK_WAS_SET if rules.ntp_at_freeze else TK_MIRROR)


def reconfigure(tk: Timekeeper, record: Record, cycles: int, rules: Rules = CORRECTED) -> None:
    """timekeeping_reconfigure() where the counter is `cycles`: the old epoch is closed, the new one begins.

    SAME_HOST changes no factor. With RUN it is the identity: the counter has counted the downtime, and unfreeze()
    will. With STOP the counter's downtime is left out, and the record's is added to BOOTTIME and REALTIME.
    """
    if rules.closes:
        tk.forward_now(record.stop_cycles)
    begins = {NOW: cycles, AT_STOP: record.stop_cycles, NOWHERE: tk.cycle_last}[rules.rebase]
    if record.status == MIGRATED:
        tk.rebase(record.clock, begins)
        if not rules.keeps_frequency:
            tk.ntp.time_freq = 0  # the update that follows makes a tick length of it
    elif record.policy == STOP:
        tk.cycle_last = begins
    downtime_ns = record.downtime_ns
    if rules.adds_wait:
        downtime_ns += (begins - record.as_of_cycles) * tk.raw_mult >> tk.clock.shift
        if rules.rebase == AT_STOP and downtime_ns < 0:
            downtime_ns = 0  # what is in the counter already was taken off, and floors can make it -1
    if record.policy == STOP:
        believed = tk.add_sleeptime(downtime_ns)
        assert believed, "a downtime of 292 years"
    elif record.status == MIGRATED:
        tk.mono_snsec += downtime_ns << tk.clock.shift
        tk.raw_snsec += downtime_ns << tk.clock.shift


def reconfigure_sched_clock(clock: NativeSchedClock, record: Record, begins: int, rules: Rules = CORRECTED) -> None:
    """The other half of step 9, which the mail does not name: sched_clock is no part of the timekeeper.

    begins: where the timekeeper's new epoch does. It counts no downtime: nobody was on a CPU.
    """
    if rules.sched_clock and (record.status == MIGRATED or record.policy == STOP):
        khz = record.clock.freq if record.status == MIGRATED else None
        clock.rebase(khz, record.stop_cycles, begins)


def unfreeze(tk: Timekeeper, record: Record, cycles: int, rules: Rules = CORRECTED) -> None:
    """timekeeping_unfreeze() where the counter is `cycles`, up to the end of the write section.

    Afterwards, in task context, the guest calls clock_was_set(WALL | BOOT) and programs its clock events anew: that is
    `clock_was_set_seq` here.
    """
    tk.forward_now(cycles)
    moved = record.status == MIGRATED or rules.ntp_at_freeze
    tk.timekeeping_update(TK_MIRROR | TK_CLOCK_WAS_SET | (TK_CLEAR_NTP if moved else 0))
