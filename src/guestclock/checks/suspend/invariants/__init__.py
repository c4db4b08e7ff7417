"""The invariants that the designs of the suspend thread are asked about, a room per kind.

Numbers are those of the invariants of recorded traces; where those speak of what one design promises, here is what all
of them have in common: over a stop a counter, and MONOTONIC, gain no less than nothing and no more than the time that
the host itself ran; BOOTTIME gains what passed. I14, the guest's wall clock read together with the host's, is I20 and
the host's own error, and is asked of traces alone (docs/traces.md).
"""

from __future__ import annotations

from guestclock.checks.asks import Asks, Question
from guestclock.checks.suspend.invariants import counted, kept, pairs, passed, sched_clock, stops

_SOURCE = "invariants of a guest's clocks over a sleep of its host"


def _invariant(name: str, about: str, breaks: str, asks: Asks) -> Question:
    return Question(name, about, _SOURCE, breaks, asks)


INVARIANTS = (
    _invariant(
        "I1", "no clock of one vCPU goes back", "deltas of centuries, time-outs that never come",
        pairs.never_back,
    ),
    _invariant(
        "I2", "MONOTONIC and BOOTTIME do not go back from one vCPU to another", "causality",
        pairs.never_back_across,
    ),
    _invariant(
        "I4", "BOOTTIME and REALTIME step by the same, and never down", "wall time against time slept",
        pairs.steps,
    ),
    _invariant("I5", "what the kernel keeps of a clock's offset twice is the same", "a vDSO of its own", kept.twins),
    _invariant(
        "I6", "over a stop MONOTONIC gains from nothing to what the host itself ran", "time-outs that all fire",
        stops.hole,
    ),
    _invariant("I7", "kvmclock and the clocksource tsc gain the same over a stop", "sched_clock", stops.together),
    _invariant("I8", "over a stop counters gain as MONOTONIC shall", "user space that reads it", stops.counters),
    _invariant("I9", "BOOTTIME's timers are told of each injection", "alarms that are late", counted.told_of_steps),
    _invariant("I10", "no watchdog bites: MONOTONIC gains less than 20 s over a stop", "soft lockups", stops.watchdogs),
    _invariant(
        "I11", "at last BOOTTIME has gained what passed, give or take the host's error", "alarms",
        passed.at_rest,
    ),
    _invariant("I12", "so it has where the interrupt came twice, or not to every vCPU", "alarms", passed.repeated),
    _invariant("I13", "so it has wherever a vCPU has run for 10 ms", "stale stamps", passed.soon_right),
    _invariant("I16", "after each write the tick's copy is the timekeeper", "a step is lost", kept.at_rest),
    _invariant(
        "I17", "over a stop sched_clock does not go back, and gains as MONOTONIC does", "whom time is charged to",
        sched_clock.sched_clock,
    ),
    _invariant(
        "I18", "after an injection NTP is unsynchronised, and keeps its frequency", "a slew by old news",
        kept.ntp_forgets,
    ),
    _invariant(
        "I20", "at last REALTIME has gained what passed, give or take the host's error", "stamps",
        passed.realtime,
    ),
    _invariant(
        "I21", "no sleep is injected twice, nor into a kernel that did not live through it", "BOOTTIME",
        counted.once,
    ),
    _invariant("I22", "a vCPU that is plugged in has the others' counters", "a thread that moves", pairs.plugged_in),
    _invariant("I23", "every vCPU comes into the guest again", "the guest hangs", counted.enters_again),
    _invariant("I24", "no vCPU enters with a counter that is not adjusted", "all of it", counted.entered_late),
    _invariant("one", "at one instant all vCPUs' counters are the same", "a thread that moves", pairs.one_and_the_same),
    _invariant("spin", "no vCPU's thread burns host CPU where it may not enter", "power, host CPU", counted.spun),
    _invariant("saved", "a VMM saves no counter that has the sleep in it", "a snapshot taken then", stops.saved),
    _invariant("stray", "KVM stores nothing where a kernel's memory is its own again", "memory", counted.stray_stores),
)  # fmt: skip
"""By their numbers; then those that recorded traces do not have."""

__all__ = ["INVARIANTS"]
