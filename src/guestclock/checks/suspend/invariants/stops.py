"""What MONOTONIC and the counters gain over a stop of the guest's: no less than nothing, no more than the host ran."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, permutations
from typing import Any

from guestclock.checks.asks import Ask, Instant, events_of, scaled
from guestclock.checks.suspend.invariants.asking import (
    RATES_NS,
    Value,
    ask,
    counts_in,
    ns,
    pair,
    rates_ns,
    span_pair,
    view_events,
)
from guestclock.checks.suspend.invariants.pairs import counter_back
from guestclock.checks.suspend.setting import Outcome, S
from guestclock.checks.suspend.views import CpuSpan, Reader, View, has_page
from guestclock.checks.suspend.views import of as views_of
from guestclock.checks.windows import apart

SOFT_LOCKUP_NS = 20 * S


def _slept(outcome: Outcome, first: int, last: int, t: Any) -> Any:
    """The sleeps from number `first` up to, not with, `last`; units."""
    return sum((t(woke) - t(began) for began, woke in outcome.sleeps[first:last]), 0)


def _ran(outcome: Outcome, one: CpuSpan, other: CpuSpan, t: Any) -> Any:
    """For how long the host ran from "a" to "b", ns. An idle sleep is one in which it did not."""
    return ns(outcome, t("b") - t("a") - _slept(outcome, one.slept, other.slept, t))


def stops(outcome: Outcome, *, idle: bool = False) -> Iterator[tuple[View, View]]:
    """A vCPU's views on both sides of a stop: the last counter's before it, and the first one's after it.

    idle: also of one in which the host idled, and its timekeeping ran on.
    """
    idle = idle and any(night.kind == "idle" for night in outcome.setting.nights)
    views = views_of(outcome)
    next_to: dict[int, set[tuple[int, int]]] = {}
    for span, after in pairwise(span for span in outcome.tracker.cpus() if Reader(outcome).counts(span)):
        if span.vcpu == after.vcpu:
            next_to.setdefault(span.vcpu, set()).add((span.index, after.index))
    for one, other in permutations(views, 2):
        same = one.vcpu == other.vcpu and one.kernel == other.kernel and one.keeper.index <= other.keeper.index
        if same and (idle or one.slept < other.slept) and (one.cpu.index, other.cpu.index) in next_to.get(one.vcpu, ()):
            yield one, other


def _cpu_stops(outcome: Outcome) -> Iterator[tuple[str, CpuSpan, CpuSpan]]:
    """... of each counter that the guest can read: with nested virtualization not in every span."""
    cpus = outcome.tracker.cpus()
    for name in dict.fromkeys(counter.name for span in cpus for counter in span.counters):
        for one, other in pairwise(span for span in cpus if span.counter(name) is not None):
            if one.vcpu == other.vcpu and one.slept < other.slept:
                yield name, one, other


def hole(outcome: Outcome) -> Iterator[Ask]:
    """What MONOTONIC gains over a stop lies between nothing and what the host ran."""
    reader = Reader(outcome)
    for one, other in stops(outcome):

        def gained(t: Any, one: View = one, other: View = other) -> Any:
            return reader.read("monotonic", other, t("b")) - reader.read("monotonic", one, t("a"))

        def more(t: Any, one: View = one, other: View = other, gained: Value = gained) -> Any:
            return gained(t) - _ran(outcome, one.cpu, other.cpu, t)

        def less(t: Any, gained: Value = gained) -> Any:
            return -gained(t)

        yield pair("too far on", "MONOTONIC over a stop", one, other, more, RATES_NS)
        yield pair("back", "MONOTONIC over a stop", one, other, less, RATES_NS)


def together(outcome: Outcome) -> Iterator[Ask]:
    """The guest's two time bases, kvmclock (its sched_clock) and its clocksource, move alike over a stop."""
    reader = Reader(outcome)
    if reader.kvm_clock or reader.mono_is_boot:
        return
    for one, other in stops(outcome):
        if has_page(one.cpu) and has_page(other.cpu):

            def ahead(t: Any, one: View = one, other: View = other) -> Any:
                clock = apart(reader.kvmclock(other.cpu, t("b")), reader.kvmclock(one.cpu, t("a")))
                return clock - (reader.read("monotonic", other, t("b")) - reader.read("monotonic", one, t("a")))

            yield pair("kvmclock ahead", "kvmclock over a stop", one, other, ahead, rates_ns(outcome))
            yield pair(
                "kvmclock behind", "kvmclock over a stop", one, other,
                lambda t, ahead=ahead: -ahead(t), rates_ns(outcome),  # type: ignore[misc]
            )  # fmt: skip


def counters(outcome: Outcome) -> Iterator[Ask]:
    """Over a stop a counter gains between nothing and what the host ran."""
    reader, unit, tolerance = Reader(outcome), outcome.arch.unit, counts_in(outcome, RATES_NS)
    for name, one, other in _cpu_stops(outcome):

        def more(t: Any, name: str = name, one: CpuSpan = one, other: CpuSpan = other) -> Any:
            gained = apart(reader.counter(name, other, t("b")), reader.counter(name, one, t("a")))
            return gained - scaled(_ran(outcome, one, other, t), outcome.setting.guest_khz, 1_000_000)

        yield span_pair("too far on", f"{name} over a stop", one, other, more, unit, tolerance)
        yield counter_back(reader, name, one, other)


def watchdogs(outcome: Outcome) -> Iterator[Ask]:
    """MONOTONIC gains less over a stop than a soft lockup takes."""
    reader = Reader(outcome)
    for one, other in stops(outcome, idle=True):

        def gained(t: Any, one: View = one, other: View = other) -> Any:
            # What the host itself ran meanwhile counts: a guest that is stopped for as long is stuck all the same.
            clock = reader.read("monotonic", other, t("b")) - reader.read("monotonic", one, t("a"))
            return clock - ns(outcome, t(one.cpu.closed) - t("a") + t("b") - t(other.cpu.opened))

        yield ask(
            "gained", "ns", f"MONOTONIC over a stop, vCPU {one.vcpu}", f"watchdog {one.id} {other.id}",
            view_events(one, other), (one.instant("a"), other.instant("b")), (("a", "b"),),
            gained, tolerance=SOFT_LOCKUP_NS,
        )  # fmt: skip


def saved(outcome: Outcome) -> Iterator[Ask]:
    """What a VMM writes down of a vCPU's TSC after a sleep is not ahead of what the guest read by more than it ran."""
    reader = Reader(outcome)
    before = [span for span in outcome.tracker.cpus() if span.vcpu == 0 and span.slept == 0]
    for tsc, at, number in outcome.looked:
        if not before or not outcome.sleeps:
            continue
        one = before[-1]

        def ahead(t: Any, one: CpuSpan = one, tsc: Any = tsc, at: str = at) -> Any:
            ran = t(at) - t("a") - _slept(outcome, 0, len(outcome.sleeps), t)
            gained = apart(tsc, reader.counter(reader.counter_name, one, t("a")))
            return gained - scaled(ns(outcome, ran), outcome.setting.guest_khz, 1_000_000)

        yield ask(
            "ahead", outcome.arch.unit, f"the {reader.counter_name} that a VMM saves", f"saved {one.step} {at}",
            (*events_of(one), number), (Instant.within("a", one),), (("a", at),), ahead,
            tolerance=counts_in(outcome, RATES_NS),
        )  # fmt: skip
