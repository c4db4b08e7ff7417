"""At one instant: all vCPUs' TSCs are one, STABLE is true, KVM_GET_CLOCK is what the guest reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

from guestclock.checks.asks import (
    Ask,
    Instants,
    Span,
    events_of,
    guest_windows,
    inside,
    name_of,
    question,
)
from guestclock.checks.outcome import Outcome
from guestclock.checks.windows import GuestWindow, apart, surely_before
from guestclock.vmm.clocks import CLOCKS


@question(
    "tsc-agrees",
    "at one instant all vCPUs' TSCs read the same",
    source="Linux takes one TSC for all CPUs once it is the clocksource (arch/x86/kernel/tsc_sync.c)",
    breaks="a thread that moves to another vCPU sees time step; the guest's clocksource watchdog drops the TSC",
    running=False,
)
def tsc_agrees(outcome: Outcome) -> Iterator[Ask]:
    return agree(outcome, "tsc")


def agree(outcome: Outcome, clock: str) -> Iterator[Ask]:
    """How far one vCPU's counter can be ahead of another's at one instant."""
    for x, y in permutations(guest_windows(outcome), 2):
        if x.vcpu != y.vcpu and (x.site, x.vm) == (y.site, y.vm) and overlap(outcome, x, y):
            yield Ask(
                sense="apart",
                unit=CLOCKS[clock].unit,
                who=f"{name_of(x)} ahead of {name_of(y)}",
                id=f"apart {x.id} {y.id}",
                events=events_of(x, y),
                instants=(inside("a", x, y),),
                ordered=(),
                value=_ahead(outcome.world, clock, x, y),
            )


def overlap(outcome: Outcome, one: Span, other: Span) -> bool:
    """False only where the one surely ends before the other begins."""
    world = outcome.world
    return not (
        surely_before(world, one.closer, other.opener)
        or surely_before(world, other.closer, one.opener)
        or one.closer == other.opener
        or other.closer == one.opener
    )


def _ahead(world: Any, clock: str, x: GuestWindow, y: GuestWindow) -> Callable[[Instants], Any]:
    return lambda t: apart(x.read(clock, world, t("a")), y.read(clock, world, t("a")))
