"""Does a clock do across the operation what the VMM means it to: run, freeze or advance?

From the guest's last instruction before the operation to its first one after it. The same question from ioctl to ioctl
is asked apart from that, with the VMM's own calls for ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from guestclock.arith.affine import Form
from guestclock.checks.asks import Ask, events_of, guest_windows, name_of, question
from guestclock.checks.windows import BEFORE, Window, apart
from guestclock.checks.world import Outcome


def across(outcome: Outcome) -> Iterator[tuple[Window, Window]]:
    """Each vCPU's last window before the operation and its first one after it."""
    windows = guest_windows(outcome)
    for vcpu in sorted({w.vcpu for w in windows}):
        before = [w for w in windows if w.vcpu == vcpu and w.phase == BEFORE and w.closed is not None]
        after = [w for w in windows if w.vcpu == vcpu and w.phase != BEFORE]
        if before and after:
            yield before[-1], after[0]


def elapsed_ns_times(outcome: Outcome, units: Any) -> Any:
    """Elapsed units as ns, exact: a form with a denominator, or for an int rounded down."""
    num, den = 1_000_000, outcome.spec.sites[0].tsc_khz
    if type(units) is Form:
        return Form({s: c * num for s, c in units.terms.items()}, units.const * num, units.den * den)
    return units * num // den


def _meant(outcome: Outcome, clock: str) -> str:
    return dict(outcome.spec.policy).get(clock, "")


def _asks(outcome: Outcome, clock: str) -> Iterator[Ask]:
    meant = _meant(outcome, clock)
    if not meant:
        return
    world = outcome.world
    khz = outcome.spec.sites[0].tsc_khz
    for before, after in across(outcome):
        if clock == "kvmclock" and not (before.has_page and after.has_page):
            continue
        read: Callable[..., Any] = Window.tsc if clock == "tsc" else Window.kvmclock

        def gained(t: Callable[[str], Any], before: Window = before, after: Window = after, read: Any = read) -> Any:
            left, entered = t(before.closed or ""), t(after.opened)
            passed = apart(read(after, world, entered), read(before, world, left))
            if meant == "freeze":
                return passed
            if clock == "kvmclock":
                return passed - elapsed_ns_times(outcome, entered - left)
            if before.khz == khz:
                return passed - (entered - left)
            units = entered - left
            if type(units) is Form:
                scaled = {s: c * before.khz for s, c in units.terms.items()}
                return passed - Form(scaled, units.const * before.khz, units.den * khz)
            return passed - units * before.khz // khz

        unit = "cycles" if clock == "tsc" else "ns"
        for sense, sign in (("gained", 1), ("lost", -1)):
            yield Ask(
                sense=sense,
                unit=unit,
                who=name_of(before),
                id=f"{clock} {sense} {before.id} {after.id}",
                events=events_of(before, after),
                instants=(),
                ordered=(),
                value=lambda t, sign=sign, gained=gained: gained(t) * sign,
            )


@question(
    "tsc-policy",
    "each vCPU's TSC does across the operation what the policy says",
    source="the recipe's POLICY, or --policy",
    breaks="a guest that keeps time by its TSC sees the operation, or sees it wrong",
)
def tsc_policy(outcome: Outcome) -> Iterator[Ask]:
    return _asks(outcome, "tsc")


@question(
    "kvmclock-policy",
    "each vCPU's kvmclock does across the operation what the policy says",
    source="the recipe's POLICY, or --policy",
    breaks="CLOCK_MONOTONIC of a guest on kvm-clock jumps, or loses the time of the operation",
)
def kvmclock_policy(outcome: Outcome) -> Iterator[Ask]:
    return _asks(outcome, "kvmclock")
