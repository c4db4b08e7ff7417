"""The page in memory: how it is stored, what a reader elsewhere can make of it, and kvmclock by vCPU 0's page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

from guestclock.checks.asks import Ask, Instants, events_of, guest_windows, inside, name_of, of_guest, question
from guestclock.checks.outcome import Outcome
from guestclock.checks.questions.together import overlap
from guestclock.checks.windows import apart
from guestclock.checks.x86.windows import PageSpan, Window, kvmclock_by


def _stores(outcome: Outcome) -> Iterator[list[PageSpan]]:
    """Each vCPU's page, from store to store."""
    pages = outcome.tracker.pages()
    vms = set(outcome.vms)
    for who, spans in groupby(pages, key=lambda p: p.who):
        if not vms or who[:2] in vms:
            yield [p for p in spans if p.store or p.fresh]


def _constant(number: int) -> Callable[[Instants], int]:
    return lambda t: number


@question(
    "version-protocol",
    "a page is stored as odd version, body, even version: two more than before",
    source="Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW: version; 48434c20e18d (3.19)",
    breaks="a reader on another vCPU takes a page that is being written for a whole one",
)
def version_protocol(outcome: Outcome) -> Iterator[Ask]:
    for stores in _stores(outcome):
        stored = [p for p in stores if p.store]
        if stored:
            wrong = [p for p in stored if p.wrong]
            yield Ask(
                sense=f"stores out of protocol ({wrong[0].wrong})" if wrong else "stores out of protocol",
                unit="stores",
                who=name_of(stored[0]),
                id=f"stores {stored[0].who}",
                events=tuple(p.opener for p in stored),
                instants=(),
                ordered=(),
                value=_constant(len(wrong)),
            )


@question(
    "torn-page",
    "a reader on another vCPU that finds one even version before and after has read one page, not two halves",
    source="arch/x86/include/asm/pvclock.h pvclock_read_begin(), pvclock_read_retry(): the vDSO's reader on any vCPU",
    breaks="an old tsc_timestamp with a new system_time: one reading off by as much as the two are apart, in no log",
    default=False,
)
def torn_page(outcome: Outcome) -> Iterator[Ask]:
    windows = guest_windows(outcome)
    for stores in _stores(outcome):
        for i, first in enumerate(stores):
            if not first.has_page:
                continue
            for j in range(i, len(stores)):
                last = stores[j]
                if last.page.version == first.page.version:
                    for window in windows:
                        alike = (window.site, window.vm) == (first.site, first.vm) and window.vcpu != first.vcpu
                        if alike and overlap(outcome, first, window) and overlap(outcome, last, window):
                            yield _torn(stores[i : j + 1], window)


def _torn(stores: list[PageSpan], window: Window) -> Ask:
    """A reader that begins in the first of these and ends in the last: what it takes can be of all their bodies."""
    bodies: list[PageSpan] = []
    for p in stores:
        if not any(_body(p, q) for q in bodies):
            bodies.append(p)
    first, last = stores[0], stores[-1]
    return Ask(
        sense="pages torn",
        unit="pages",
        who=f"vCPU {first.vcpu}'s page, on {name_of(window)}",
        id=f"torn {first.id} {last.id} {window.id}",
        events=events_of(first, last, window),
        instants=(inside("a", first, window), inside("b", last, window)),
        ordered=(("a", "b"),),
        value=_constant(len(bodies) - 1),
    )


def _body(p: PageSpan, q: PageSpan) -> bool:
    a, b = p.page, q.page
    same = a.tsc_timestamp is b.tsc_timestamp and a.system_time is b.system_time
    return same and (a.tsc_to_system_mul, a.tsc_shift) == (b.tsc_to_system_mul, b.tsc_shift)


@question(
    "vdso-never-back",
    "kvmclock by the vDSO, which reads vCPU 0's page on every vCPU, never steps back",
    source="arch/x86/include/asm/vdso/gettimeofday.h vread_pvclock(): STABLE lets one page serve all",
    breaks="clock_gettime() goes backwards without a system call, and no last_value is there to stop it",
    default=False,
)
def vdso_never_back(outcome: Outcome) -> Iterator[Ask]:
    world = outcome.world
    readings = [
        (page, window)
        for page in of_guest(outcome, outcome.tracker.pages())
        if page.vcpu == 0 and page.stable
        for window in guest_windows(outcome)
        if (window.site, window.vm) == (page.site, page.vm) and overlap(outcome, page, window)
    ]
    for earlier in readings:
        for later in readings:
            if earlier[0].who == later[0].who and earlier[0].opener <= later[0].opener:
                yield _back(world, earlier, later)


def _back(world: Any, earlier: tuple[PageSpan, Window], later: tuple[PageSpan, Window]) -> Ask:
    (p, v), (q, w) = earlier, later

    def back(t: Callable[[str], Any]) -> Any:
        return apart(kvmclock_by(p.page, v.tsc(world, t("a"))), kvmclock_by(q.page, w.tsc(world, t("b"))))

    return Ask(
        sense="back",
        unit="ns",
        who=name_of(v) if v.vcpu == w.vcpu else f"{name_of(v)}, then {name_of(w)}",
        id=f"vdso {p.id} {v.id} {q.id} {w.id}",
        events=events_of(p, v, q, w),
        instants=(inside("a", p, v), inside("b", q, w)),
        ordered=(("a", "b"),),
        value=back,
    )
