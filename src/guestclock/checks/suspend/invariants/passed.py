"""BOOTTIME and the wall clock against what passed, give or take what the host itself believes wrongly."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestclock.checks.asks import Ask
from guestclock.checks.suspend.invariants.asking import Value, ask, error_ns, first_view, ns, pair, view_events
from guestclock.checks.suspend.setting import IRQS_OFF_NS, Outcome
from guestclock.checks.suspend.views import CpuSpan, Reader, View
from guestclock.checks.suspend.views import of as views_of


def _off(outcome: Outcome, clock: str, one: View, other: View, sign: int) -> Value:
    """How far the clock's gain from "a" in one to "b" in other is off what passed, ns."""
    reader = Reader(outcome)

    def off(t: Any) -> Any:
        gained = reader.read(clock, other, t("b")) - reader.read(clock, one, t("a"))
        return sign * gained - sign * ns(outcome, t("b") - t("a"))

    return off


def _at_last(outcome: Outcome, clock: str) -> Iterator[Ask]:
    """In the last view of each vCPU the clock has gained what passed."""
    first = first_view(outcome)
    for last in views_of(outcome):
        if first is None or not last.last or last.slept == 0 or last.kernel:
            continue
        for sense, sign in (("ahead", 1), ("behind", -1)):
            off = _off(outcome, clock, first, last, sign)
            yield pair(sense, f"{clock.upper()} at last", first, last, off, error_ns(outcome))


def at_rest(outcome: Outcome) -> Iterator[Ask]:
    """Of BOOTTIME."""
    return _at_last(outcome, "boottime")


def realtime(outcome: Outcome) -> Iterator[Ask]:
    """Of the wall clock."""
    return _at_last(outcome, "realtime")


def repeated(outcome: Outcome) -> Iterator[Ask]:
    """The same where the interrupt came twice, or not on every vCPU."""
    if outcome.setting.twice or outcome.setting.apic_off:
        yield from at_rest(outcome)


def _served(cpu: CpuSpan, within: int) -> tuple[tuple[str, str, int], ...]:
    """That an interrupt which is pending is taken when interrupts are on again: otherwise the vCPU left before that."""
    return ((cpu.opened, cpu.closed, within),) if cpu.waits and cpu.closed is not None else ()


def soon_right(outcome: Outcome) -> Iterator[Ask]:
    """Where a vCPU has run for as long as interrupts may be off, BOOTTIME has gained what passed.

    A guest that was itself suspended has them off until it has resumed.
    """
    late = outcome.setting.units(IRQS_OFF_NS) + 1
    first = first_view(outcome)
    for view in views_of(outcome):
        if first is None or view.slept == 0 or view.kernel:
            continue
        yield ask(
            "behind", "ns", f"BOOTTIME 10 ms after an entry, vCPU {view.vcpu}", f"stale {first.id} {view.id}",
            view_events(first, view), (first.instant("a"), view.instant("b")), (("a", "b"),),
            _off(outcome, "boottime", first, view, -1), _served(view.cpu, late - 1),
            tuple((since, "b", late) for since in (view.cpu.opened, *([view.keeper.opened] * view.keeper.resumed))),
            error_ns(outcome),
        )  # fmt: skip
