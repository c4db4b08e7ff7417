"""Two readings: no clock goes back from one to the other, and at one instant all vCPUs' counters are the same."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise, permutations
from typing import Any

from guestclock.checks.asks import Ask, events_of, inside
from guestclock.checks.suspend.invariants.asking import TRUNCATED_NS, Value, ask, in_turn, pair, span_pair, view_events
from guestclock.checks.suspend.setting import IRQS_OFF_NS, TICK_NS, Outcome, S
from guestclock.checks.suspend.views import CpuSpan, Reader, View
from guestclock.checks.suspend.views import of as views_of
from guestclock.checks.windows import apart


def _moved(one: CpuSpan, other: CpuSpan) -> list[str]:
    """The counters that can be read in both, and are not the same function of the host's."""
    both = ((counter, other.counter(counter.name)) for counter in one.counters)
    return [mine.name for mine, its in both if its is not None and mine.offset is not its.offset]


def _same_line(one: View, other: View) -> bool:
    """Whether both are one function of time: of two readings on it the later is never less."""
    same_cpu = one.slept == other.slept and not _moved(one.cpu, other.cpu)
    pages = one.cpu.page is other.cpu.page or (
        one.cpu.page is not None
        and other.cpu.page is not None
        and one.cpu.page.tsc_timestamp is other.cpu.page.tsc_timestamp
    )
    return same_cpu and pages and one.keeper is other.keeper


def _backs(outcome: Outcome, one: View, other: View) -> Iterator[Ask]:
    reader = Reader(outcome)
    clocks = ["monotonic"]
    if one.tk.offs_boot_ns is not other.tk.offs_boot_ns:
        clocks += ["boottime", "realtime"]
    for clock in clocks:
        yield pair(
            "back", clock, one, other,
            lambda t, clock=clock: reader.read(clock, one, t("a")) - reader.read(clock, other, t("b")),  # type: ignore[misc]
            TRUNCATED_NS if reader.kvm_clock else 0,
        )  # fmt: skip


def never_back(outcome: Outcome) -> Iterator[Ask]:
    """From each of a vCPU's views to each later one: of its counter, of the timekeeper, or of both."""
    reader = Reader(outcome)
    views = views_of(outcome)
    for one, other in permutations(views, 2):
        ordered = one.cpu.index <= other.cpu.index and one.keeper.index <= other.keeper.index
        if reader.kvm_clock and not (reader.stable(one.cpu) and reader.stable(other.cpu)):
            continue  # last_value keeps these in order
        if one.vcpu == other.vcpu and ordered and one.kernel == other.kernel and not _same_line(one, other):
            yield from _backs(outcome, one, other)
    if not outcome.arch.vdso_guards:
        yield from _by_vdso(outcome)
    for a, b in permutations(outcome.tracker.cpus(), 2):
        if a.vcpu == b.vcpu and a.index < b.index and (moved := _moved(a, b)):
            yield from (counter_back(reader, name, a, b) for name in moved)
            if reader.stable(a) and reader.stable(b):
                yield span_pair(
                    "back", "kvmclock", a, b,
                    lambda t, a=a, b=b: apart(reader.kvmclock(a, t("a")), reader.kvmclock(b, t("b"))), "ns",  # type: ignore[misc]
                    TRUNCATED_NS,
                )  # fmt: skip


def _by_vdso(outcome: Outcome) -> Iterator[Ask]:
    """What the vDSO reads is what the kernel reads, where it has no guards: it neither clamps nor takes 128 bits.

    A counter behind cycle_last, or so far on that the product with mult may not fit (within a second of that), is
    garbage there: anything up to 2^64 >> shift ns, 18 minutes. The latter until the first tick after an entry.
    """
    reader, ticked = Reader(outcome), outcome.setting.units(IRQS_OFF_NS + TICK_NS)
    for view in views_of(outcome):
        clock = view.tk.clock
        limit = ((1 << 64) - (S << clock.shift)) // clock.mult

        def on(t: Any, view: View = view) -> Any:
            return apart(reader.counter(reader.counter_name, view.cpu, t("a")), view.tk.cycle_last)

        def beyond(t: Any, on: Value = on, limit: int = limit) -> Any:
            return on(t) - limit

        def behind(t: Any, on: Value = on) -> Any:
            return -on(t)

        for sense, value, at_most in (
            ("beyond the vDSO's 64 bits", beyond, ((view.cpu.opened, "a", ticked),)),
            ("behind what the vDSO counts from", behind, ()),
        ):
            yield ask(
                sense, outcome.arch.unit, f"{reader.counter_name}, vCPU {view.vcpu}", f"{sense} {view.id}",
                view_events(view), (view.instant("a"),), (), value, at_most,
            )  # fmt: skip


def counter_back(reader: Reader, name: str, a: CpuSpan, b: CpuSpan) -> Ask:
    """How far that counter goes back from one span to a later one."""

    def back(t: Any) -> Any:
        return apart(reader.counter(name, a, t("a")), reader.counter(name, b, t("b")))

    return span_pair("back", name, a, b, back, reader.outcome.arch.unit)


def never_back_across(outcome: Outcome) -> Iterator[Ask]:
    reader = Reader(outcome)
    for one, other in permutations(views_of(outcome), 2):
        if one.vcpu == other.vcpu or one.kernel != other.kernel or other.slept < one.slept:
            continue
        if reader.kvm_clock and not (reader.stable(one.cpu) and reader.stable(other.cpu)):
            continue  # last_value keeps these in order
        if one.keeper.index <= other.keeper.index and not _same_line(one, other):
            yield from _backs(outcome, one, other)


def steps(outcome: Outcome) -> Iterator[Ask]:
    """BOOTTIME - MONOTONIC and REALTIME - MONOTONIC change by the same, and never down."""
    keepers = outcome.tracker.keepers()
    for one, other in pairwise(keepers):
        if one.kernel != other.kernel:
            continue
        boot = other.tk.offs_boot_ns - one.tk.offs_boot_ns
        real = other.tk.offs_real_ns - one.tk.offs_real_ns
        for sense, value in (("more in BOOTTIME", boot - real), ("more in REALTIME", real - boot), ("down", -boot)):
            yield ask(
                sense, "ns", "the step against MONOTONIC", f"{sense} {one.step} {other.step}",
                (one.opener, other.opener), (), (), lambda t, value=value: value,  # type: ignore[misc]
            )  # fmt: skip


def one_and_the_same(outcome: Outcome) -> Iterator[Ask]:
    """vCPUs' counters are one and the same at any instant."""
    return _apart(outcome, late=False)


def plugged_in(outcome: Outcome) -> Iterator[Ask]:
    """A vCPU that was plugged in has the same counters as the others."""
    return _apart(outcome, late=True)


def _apart(outcome: Outcome, *, late: bool) -> Iterator[Ask]:
    reader = Reader(outcome)
    for one, other in permutations(outcome.tracker.cpus(), 2):
        if one.vcpu == other.vcpu or (one.late or other.late) != late:
            continue
        for name in _moved(one, other):

            def ahead(t: Any, name: str = name, one: CpuSpan = one, other: CpuSpan = other) -> Any:
                return apart(reader.counter(name, one, t("a")), reader.counter(name, other, t("a")))

            yield ask(
                "apart", outcome.arch.unit, f"{name}s at one instant, {in_turn(one.vcpu, other.vcpu)}",
                f"apart {name} {one.vcpu}@{one.step} {other.vcpu}@{other.step}", events_of(one, other),
                (inside("a", one, other),), (), ahead,
            )  # fmt: skip
