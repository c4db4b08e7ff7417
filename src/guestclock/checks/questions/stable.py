"""STABLE is true, and KVM_GET_CLOCK is what the guest reads: kvmclock at one instant, wherever it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

from guestclock.checks.asks import (
    Ask,
    Instant,
    Instants,
    Section,
    both_ways,
    events_of,
    guest_windows,
    inside,
    name_of,
    of_guest,
    question,
    section,
)
from guestclock.checks.outcome import Call, Outcome
from guestclock.checks.questions.together import overlap
from guestclock.checks.windows import BOOT, apart, surely_before
from guestclock.checks.x86.windows import Clocks, PageSpan, Window, kvmclock_by
from guestclock.kvm import api
from guestclock.kvm.model.x86.kvmclock import KVM_CLOCK_TSC_STABLE


@question(
    "flags-honest",
    "a page, and KVM_GET_CLOCK, say STABLE only while all vCPUs' kvmclocks are one",
    source="Documentation/virt/kvm/x86/msr.rst: measures taken across vCPUs are guaranteed to be monotonic",
    breaks="the guest does without last_value, and its vDSO reads vCPU 0's page on all: CLOCK_MONOTONIC steps back",
)
def flags_honest(outcome: Outcome) -> Iterator[Ask]:
    world = outcome.world
    stable = [w for w in guest_windows(outcome) if w.stable]
    for x, y in combinations(stable, 2):
        if x.vcpu != y.vcpu and (x.site, x.vm) == (y.site, y.vm) and overlap(outcome, x, y):
            who, id_ = f"{name_of(x)} and {name_of(y)}", f"{x.id} {y.id}"
            yield from _one(who, id_, events_of(x, y), (inside("a", x, y),), (), _kvmclocks(world, x, y, "a"))
    for page, window in _foreign(outcome, stable):
        who, id_ = f"vCPU 0's page and its own, on {name_of(window)}", f"{page.id} {window.id}"
        here = (inside("a", page, window),)
        yield from _one(who, id_, events_of(page, window), here, (), _pages(world, page, window))
    for call, read, current in _get_clocks(outcome):
        for p, q in combinations(current, 2):
            who, id_ = f"{name_of(p)} and {name_of(q)}, KVM_GET_CLOCK", f"{call.number} {p.id} {q.id}"
            events = (read.number, *events_of(p, q))
            yield from _one(who, id_, events, (), _during(read, p, q), _kvmclocks(world, p, q, read.end))


@question(
    "get-clock-agrees",
    "KVM_GET_CLOCK answers what the guest reads at that instant (definition B equals C), under a masterclock",
    source="Documentation/virt/kvm/api.rst, KVM_GET_CLOCK: the current value of kvmclock as seen by the guest",
    breaks="whatever a VMM saves by it is not what the guest saw: a step at every save and restore",
)
def get_clock_agrees(outcome: Outcome) -> Iterator[Ask]:
    world = outcome.world
    for call, read, current in _get_clocks(outcome):
        for page in current:
            who, id_ = f"KVM_GET_CLOCK and {name_of(page)}", f"{call.number} {page.id}"
            events = (read.number, *events_of(page))
            yield from _one(who, id_, events, (), _during(read, page), _answer(world, call, page, read.end))


def _foreign(outcome: Outcome, windows: list[Window]) -> Iterator[tuple[PageSpan, Window]]:
    """vCPU 0's page while it says STABLE, with each window of another vCPU whose own page does too."""
    for page in of_guest(outcome, outcome.tracker.pages()):
        if page.vcpu != 0 or not page.stable:
            continue
        for window in windows:
            if window.vcpu != 0 and (page.site, page.vm) == (window.site, window.vm) and overlap(outcome, page, window):
                yield page, window


def _get_clocks(outcome: Outcome) -> Iterator[tuple[Call, Section, list[PageSpan]]]:
    """Each KVM_GET_CLOCK that says STABLE, the section that read the clocks, and the pages with which a vCPU is in the
    guest, or could enter it then."""
    pages = of_guest(outcome, outcome.tracker.pages())
    for call in outcome.calls:
        if not isinstance(call.op, api.GetClock) or call.error or call.phase == BOOT:
            continue
        if call.answer.flags & KVM_CLOCK_TSC_STABLE:
            read = section(outcome, call)
            current = [
                p
                for p in pages
                if (p.site, p.vm) == (call.site, call.op.vm) and p.has_page and not p.asked
                and not surely_before(outcome.world, read.number, p.opener)
                and not surely_before(outcome.world, p.closer, read.number)
            ]  # fmt: skip
            yield call, read, current


def _during(read: Section, *pages: PageSpan) -> tuple[tuple[str, str], ...]:
    begun = [(p.opened, read.end) for p in pages]
    return (*begun, *((read.end, p.closed) for p in pages if p.closed is not None))


def _one(
    who: str, id_: str, events: tuple[int, ...], instants: tuple[Instant, ...], ordered: tuple[tuple[str, str], ...],
    ahead: Callable[[Instants], Any],
) -> Iterator[Ask]:  # fmt: skip
    """Two readings of kvmclock that should be one: the first above the second, and below."""
    for sense, value in both_ways(ahead, "ahead", "behind"):
        yield Ask(
            sense="apart",
            unit="ns",
            who=who,
            id=f"{sense} {id_}",
            events=events,
            instants=instants,
            ordered=ordered,
            value=value,
        )


def _kvmclocks(world: Any, x: Clocks, y: Clocks, at: str) -> Callable[[Instants], Any]:
    return lambda t: apart(x.kvmclock(world, t(at)), y.kvmclock(world, t(at)))


def _answer(world: Any, call: Call, page: PageSpan, at: str) -> Callable[[Instants], Any]:
    return lambda t: apart(call.answer.clock_ns, page.kvmclock(world, t(at)))


def _pages(world: Any, page: PageSpan, window: Window) -> Callable[[Instants], Any]:
    return lambda t: apart(kvmclock_by(page.page, window.tsc(world, t("a"))), window.kvmclock(world, t("a")))
