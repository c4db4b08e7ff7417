"""No clock steps back: from one reading to a later one, on one vCPU or from one vCPU to another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestclock.checks.asks import Ask, Instant, events_of, guest_windows, name_of, question
from guestclock.checks.outcome import Outcome
from guestclock.checks.windows import GuestWindow, apart
from guestclock.vmm.clocks import CLOCKS


def back(outcome: Outcome, earlier: GuestWindow, later: GuestWindow, clock: str) -> Ask:
    """How far the later reading can be behind the earlier one."""
    world = outcome.world
    who = name_of(earlier) if earlier.vcpu == later.vcpu else f"{name_of(earlier)}, then {name_of(later)}"
    return Ask(
        sense="back",
        unit=CLOCKS[clock].unit,
        who=who,
        id=f"{clock} {earlier.id} {later.id}",
        events=events_of(earlier, later),
        instants=(Instant.within("a", earlier), Instant.within("b", later)),
        ordered=(("a", "b"),),
        value=lambda t: apart(earlier.read(clock, world, t("a")), later.read(clock, world, t("b"))),
    )


def per_vcpu(outcome: Outcome, clock: str) -> Iterator[Ask]:
    """From each of a vCPU's windows to the same or a later one."""
    windows = [w for w in guest_windows(outcome) if w.has(clock)]
    for later in windows:
        for earlier in windows:
            same = earlier.vcpu == later.vcpu
            if same and (earlier.site, earlier.vm, earlier.index) <= (later.site, later.vm, later.index):
                yield back(outcome, earlier, later, clock)


def across_vcpus(outcome: Outcome, clock: str, windows: list[Any]) -> Iterator[Ask]:
    """From each window of one vCPU to each of another's of the same VM."""
    for earlier in windows:
        for later in windows:
            if earlier.vcpu != later.vcpu and (earlier.site, earlier.vm) == (later.site, later.vm):
                yield back(outcome, earlier, later, clock)


@question(
    "tsc-never-back",
    "no vCPU's TSC steps back",
    source="Linux takes it for granted: clocksource tsc, sched_clock; a regress reads as 2^64 - x cycles",
    breaks="delays that never end, scheduler statistics of centuries, databases that order events by it",
)
def tsc_never_back(outcome: Outcome) -> Iterator[Ask]:
    return per_vcpu(outcome, "tsc")


@question(
    "kvmclock-never-back",
    "no vCPU's kvmclock steps back",
    source="arch/x86/kernel/kvmclock.c: the guest's clocksource and sched_clock",
    breaks="CLOCK_MONOTONIC goes backwards where the page says STABLE; without it, last_value stops it instead",
)
def kvmclock_never_back(outcome: Outcome) -> Iterator[Ask]:
    return per_vcpu(outcome, "kvmclock")


@question(
    "kvmclock-agrees",
    "a kvmclock read on one vCPU is not above one read later on another, where both pages say STABLE",
    source="Documentation/virt/kvm/x86/msr.rst: measures taken across vCPUs are guaranteed to be monotonic",
    breaks="a thread that moves to another vCPU sees CLOCK_MONOTONIC go backwards",
)
def kvmclock_agrees(outcome: Outcome) -> Iterator[Ask]:
    return across_vcpus(outcome, "kvmclock", [w for w in guest_windows(outcome) if w.stable])
