"""Does a clock do across the operation what the VMM means it to: run, freeze or advance?

From the guest's last instruction before the operation to its first one after it. The same question from ioctl to ioctl
is asked apart from that, with the VMM's own calls for ends: what it does to the clocks in between, and whatever time it
loses on the way in and out left aside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from guestclock.arith.affine import Symbol
from guestclock.checks.asks import (
    Ask,
    Section,
    after_middle,
    both_ways,
    elapsed_ns,
    events_of,
    first_half,
    guest_windows,
    name_of,
    question,
    scaled,
    section,
)
from guestclock.checks.outcome import Call, Outcome
from guestclock.checks.windows import BOOT, GuestWindow, apart
from guestclock.vmm.clocks import CLOCKS


def across(outcome: Outcome) -> Iterator[tuple[Any, Any]]:
    """Each vCPU's last window before the operation and its first one after it."""
    windows = guest_windows(outcome)
    for vcpu in sorted({w.vcpu for w in windows}):
        mine = [w for w in windows if w.vcpu == vcpu]
        before = [w for w in mine if not after_middle(outcome, w) and w.closed is not None]
        after = [w for w in mine if after_middle(outcome, w)]
        if before and after:
            yield before[-1], after[0]


def _asks(
    outcome: Outcome, clock: str, before: GuestWindow, after: GuestWindow, left: Symbol, entered: Symbol,
    events: tuple[int, ...], tolerance: int = 0,
) -> Iterator[Ask]:  # fmt: skip
    """How far the line after, at `entered`, is from where the policy wants the line before, at `left`, to have come."""
    meant = dict(outcome.spec.policy).get(clock, "")
    if not meant:
        return
    world, khz = outcome.world, outcome.spec.sites[0].khz

    def gained(t: Callable[[str], Any]) -> Any:
        passed = apart(after.line(clock, world, t(entered)), before.line(clock, world, t(left)))
        units = t(entered) - t(left)
        if meant == "freeze":
            return passed
        return passed - (scaled(units, before.khz, khz) if CLOCKS[clock].counts else elapsed_ns(outcome, units))

    for sense, value in both_ways(gained, "gained", "lost"):
        yield Ask(
            sense=sense,
            unit=CLOCKS[clock].unit,
            who=name_of(before),
            id=f"{clock} {sense} {before.id} {after.id}",
            events=events,
            instants=(),
            ordered=(),
            value=value,
            tolerance=tolerance,
        )


def from_guest_to_guest(outcome: Outcome, clock: str) -> Iterator[Ask]:
    """From the guest's last instruction before the operation to its first one after it."""
    for before, after in across(outcome):
        if before.has(clock) and after.has(clock):
            assert before.closed is not None
            yield from _asks(outcome, clock, before, after, before.closed, after.opened, events_of(before, after))


def _ends(outcome: Outcome, clock: str, vcpu: int) -> tuple[Section, Section] | None:
    """The VMM's last call that captured this clock, and its last one that set it; None where it did not do both."""
    taken: Call | None = None
    given: Call | None = None
    arch = outcome.architecture
    for call in outcome.calls:
        if call.phase == BOOT or call.error:
            continue
        if first_half(outcome, call):
            taken = call if arch.captures(clock, call.op, vcpu) else taken
        else:
            given = call if arch.sets(clock, call.op, vcpu) else given
    return None if taken is None or given is None else (section(outcome, taken), section(outcome, given))


def from_call_to_call(outcome: Outcome, clock: str) -> Iterator[Ask]:
    """From the VMM's last reading of the clock to its last write."""
    spec = outcome.spec
    # A call is no instant: KVM reads its clocks somewhere in one section. Where time stands still, that shows.
    stands = dict(spec.policy).get(clock) == "freeze"
    sections = spec.units(2 * spec.section_ns) if CLOCKS[clock].counts else 2 * spec.section_ns
    for before, after in across(outcome):
        ends = _ends(outcome, clock, before.vcpu)
        if ends is None or not (before.has(clock) and after.has(clock)):
            continue
        taken, given = ends
        events = (*events_of(before), after.opener, taken.number, given.number)
        yield from _asks(outcome, clock, before, after, taken.end, given.end, events, sections if stands else 0)


@question(
    "tsc-policy",
    "each vCPU's TSC does across the operation what the policy says",
    source="the recipe's POLICY, or --policy",
    breaks="a guest that keeps time by its TSC sees the operation, or sees it wrong",
)
def tsc_policy(outcome: Outcome) -> Iterator[Ask]:
    return from_guest_to_guest(outcome, "tsc")


@question(
    "kvmclock-policy",
    "each vCPU's kvmclock does across the operation what the policy says",
    source="the recipe's POLICY, or --policy",
    breaks="CLOCK_MONOTONIC of a guest on kvm-clock jumps, or loses the time of the operation",
)
def kvmclock_policy(outcome: Outcome) -> Iterator[Ask]:
    return from_guest_to_guest(outcome, "kvmclock")


@question(
    "tsc-policy-calls",
    "each vCPU's TSC does what the policy says from the VMM's last reading of it to its last write",
    source="the recipe's POLICY, or --policy",
    breaks="the VMM's own sums are wrong: however fast its calls follow each other, the TSC comes out elsewhere",
)
def tsc_policy_calls(outcome: Outcome) -> Iterator[Ask]:
    return from_call_to_call(outcome, "tsc")


@question(
    "kvmclock-policy-calls",
    "each vCPU's kvmclock does what the policy says from KVM_GET_CLOCK to KVM_SET_CLOCK",
    source="the recipe's POLICY, or --policy",
    breaks="the VMM's own sums are wrong: however fast its calls follow each other, kvmclock comes out elsewhere",
)
def kvmclock_policy_calls(outcome: Outcome) -> Iterator[Ask]:
    return from_call_to_call(outcome, "kvmclock")
