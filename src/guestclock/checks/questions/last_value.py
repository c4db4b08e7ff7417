"""kvmclock as the guest's kernel gives it out: never back, by construction; what is left: how long it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from guestclock.checks.asks import Ask, Instants, question
from guestclock.checks.outcome import Outcome
from guestclock.checks.windows import apart
from guestclock.checks.x86.readers import READINGS, Reading


@question(
    "kvmclock-last-value",
    "with last_value no reading is below an earlier one, and none stands still above its own vCPU's kvmclock",
    source="arch/x86/kernel/pvclock.c last_value; kvm-x86.md 1.4",
    breaks="a vCPU that is ahead hands its clock to all: on the others time stands still until theirs has caught up",
    default=False,
)
def last_value(outcome: Outcome) -> Iterator[Ask]:
    readings: list[Reading] = outcome.values.get(READINGS, [])
    for r in readings:
        if r.clamped:
            yield Ask(
                sense="held still",
                unit="ns",
                who=f"vCPU {r.vcpu}",
                id=f"still {r.vcpu}.{r.k}",
                events=(r.number,),
                instants=(),
                ordered=(),
                value=_still(outcome, r),
            )
    for earlier in readings:
        for later in readings:
            if earlier is not later and earlier.clamped and later.clamped and earlier.number < later.number:
                yield Ask(
                    sense="back",
                    unit="ns",
                    who=f"vCPU {earlier.vcpu}, then vCPU {later.vcpu}",
                    id=f"back {earlier.vcpu}.{earlier.k} {later.vcpu}.{later.k}",
                    events=(earlier.number, later.number),
                    instants=(),
                    ordered=((earlier.at, later.at),),
                    value=_above(earlier.given, later.given),
                )


def _still(outcome: Outcome, r: Reading) -> Callable[[Instants], Any]:
    """How long kvmclock will now give out nothing new on this vCPU: until its own has come so far."""
    return lambda t: apart(r.given, r.kvmclock(outcome.world, t(r.at)))


def _above(one: Any, other: Any) -> Callable[[Instants], Any]:
    return lambda t: apart(one, other)
