"""The invariants that the designs of the suspend thread are asked about.

Numbers are those of the invariants of recorded traces; where those speak of what one design promises, here is what all
of them have in common: over a stop a counter, and MONOTONIC, gain no less than nothing and no more than the time that
the host itself ran; BOOTTIME gains what passed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise, permutations
from typing import Any

from guestclock.checks.asks import Ask, Instant, Question, scaled
from guestclock.checks.suspend import views as _views
from guestclock.checks.suspend.setting import IRQS_OFF_NS, SECTION_NS, TICK_NS, Outcome, S
from guestclock.checks.suspend.views import CpuSpan, Reader, View, has_page
from guestclock.checks.windows import apart

RATES_NS = 10_000 + 2 * SECTION_NS
"""What the roundings of clocksources' multipliers (0.1 ppm) make over the seconds that the host runs around a stop, and
two clocks that are read one after the other in one section of the kernel, before the stop and after it.
"""

RATE_PPB = 200
"""... and over a sleep that runs through MONOTONIC as well."""

SOFT_LOCKUP_NS = 20 * S

TRUNCATED_NS = 3
"""What kvmclock loses across snapshots: one by the page's shift, one by each snapshot's floor, a lost cycle."""

Value = Callable[[Any], Any]


def _ask(
    sense: str,
    unit: str,
    who: str,
    id_: str,
    events: tuple[int, ...],
    instants: tuple[Instant, ...],
    ordered: tuple[tuple[str, str], ...],
    value: Value,
    at_most: tuple[tuple[str, str, int], ...] = (),
    at_least: tuple[tuple[str, str, int], ...] = (),
    tolerance: int = 0,
) -> Ask:
    """Truncation is not forgiven here as such: whole milliseconds are what one of the designs truncates to."""
    return Ask(sense, unit, who, id_, events, instants, ordered, value, at_most, at_least, tolerance, False)


def _ns(outcome: Outcome, units: Any) -> Any:
    """Units of time as ns, exact."""
    return scaled(units, 1_000_000, outcome.setting.host_khz)


def _counted(outcome: Outcome, ns: int) -> int:
    """ns as what the guest's counters count in it."""
    return ns * outcome.setting.guest_khz // 1_000_000


def _events(*views: View) -> tuple[int, ...]:
    return tuple(dict.fromkeys(n for view in views for n in view.events))


def _span_events(*spans: CpuSpan) -> tuple[int, ...]:
    return tuple(dict.fromkeys(n for span in spans for n in (span.opener, span.closer) if n is not None))


def _who(*vcpus: int) -> str:
    return ", then ".join(dict.fromkeys(f"vCPU {vcpu}" for vcpu in vcpus))


def _pair(sense: str, who: str, one: View, other: View, value: Value, tolerance: int = 0) -> Ask:
    """Of an instant "a" in one view and a later one, "b", in another."""
    return _ask(
        sense, "ns", f"{who}, {_who(one.vcpu, other.vcpu)}", f"{who} {sense} {one.id} {other.id}", _events(one, other),
        (one.instant("a"), other.instant("b")), (("a", "b"),), value, tolerance=tolerance,
    )  # fmt: skip


def _span(sense: str, who: str, one: CpuSpan, other: CpuSpan, value: Value, unit: str, tolerance: int = 0) -> Ask:
    """The same of counters, which no timekeeper has to do with."""
    return _ask(
        sense, unit, f"{who}, {_who(one.vcpu, other.vcpu)}",
        f"{who} {sense} {one.vcpu}@{one.step} {other.vcpu}@{other.step}", _span_events(one, other),
        (Instant.within("a", _Spanned(one)), Instant.within("b", _Spanned(other))), (("a", "b"),), value,
        tolerance=tolerance,
    )  # fmt: skip


class _Spanned:
    """A vCPU's span as asks.Span has it."""

    site = vm = 0

    def __init__(self, span: CpuSpan) -> None:
        self.vcpu = span.vcpu
        self.opener, self.opened, self.closer, self.closed = span.opener, span.opened, span.closer, span.closed


# ---- pairs of readings


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
        yield _pair(
            "back", clock, one, other,
            lambda t, clock=clock: reader.read(clock, one, t("a")) - reader.read(clock, other, t("b")),  # type: ignore[misc]
            TRUNCATED_NS if reader.kvm_clock else 0,
        )  # fmt: skip


def never_back(outcome: Outcome) -> Iterator[Ask]:
    """From each of a vCPU's views to each later one: of its counter, of the timekeeper, or of both."""
    reader = Reader(outcome)
    views = _views.of(outcome)
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
            yield from (_back(reader, name, a, b) for name in moved)
            if reader.stable(a) and reader.stable(b):
                yield _span(
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
    for view in _views.of(outcome):
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
            yield _ask(
                sense, outcome.arch.unit, f"{reader.counter_name}, vCPU {view.vcpu}", f"{sense} {view.id}",
                _events(view), (view.instant("a"),), (), value, at_most,
            )  # fmt: skip


def _back(reader: Reader, name: str, a: CpuSpan, b: CpuSpan) -> Ask:
    def back(t: Any) -> Any:
        return apart(reader.counter(name, a, t("a")), reader.counter(name, b, t("b")))

    return _span("back", name, a, b, back, reader.outcome.arch.unit)


def never_back_across(outcome: Outcome) -> Iterator[Ask]:
    reader = Reader(outcome)
    for one, other in permutations(_views.of(outcome), 2):
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
            yield _ask(
                sense, "ns", "the step against MONOTONIC", f"{sense} {one.step} {other.step}",
                (one.opener, other.opener), (), (), lambda t, value=value: value,  # type: ignore[misc]
            )  # fmt: skip


# ---- a stop


def _slept(outcome: Outcome, first: int, last: int, t: Any) -> Any:
    """The sleeps from number `first` up to, not with, `last`; units."""
    return sum((t(woke) - t(began) for began, woke in outcome.sleeps[first:last]), 0)


def _ran(outcome: Outcome, one: CpuSpan, other: CpuSpan, t: Any) -> Any:
    """For how long the host ran from "a" to "b", ns. An idle sleep is one in which it did not."""
    return _ns(outcome, t("b") - t("a") - _slept(outcome, one.slept, other.slept, t))


def _stops(outcome: Outcome, *, idle: bool = False) -> Iterator[tuple[View, View]]:
    """A vCPU's views on both sides of a stop: the last counter's before it, and the first one's after it.

    idle: also of one in which the host idled, and its timekeeping ran on.
    """
    idle = idle and any(night.kind == "idle" for night in outcome.setting.nights)
    views = _views.of(outcome)
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
    for one, other in _stops(outcome):

        def gained(t: Any, one: View = one, other: View = other) -> Any:
            return reader.read("monotonic", other, t("b")) - reader.read("monotonic", one, t("a"))

        def more(t: Any, one: View = one, other: View = other, gained: Value = gained) -> Any:
            return gained(t) - _ran(outcome, one.cpu, other.cpu, t)

        def less(t: Any, gained: Value = gained) -> Any:
            return -gained(t)

        yield _pair("too far on", "MONOTONIC over a stop", one, other, more, RATES_NS)
        yield _pair("back", "MONOTONIC over a stop", one, other, less, RATES_NS)


def together(outcome: Outcome) -> Iterator[Ask]:
    """The guest's two time bases, kvmclock (its sched_clock) and its clocksource, move alike over a stop."""
    reader = Reader(outcome)
    if reader.kvm_clock or reader.mono_is_boot:
        return
    for one, other in _stops(outcome):
        if has_page(one.cpu) and has_page(other.cpu):

            def ahead(t: Any, one: View = one, other: View = other) -> Any:
                clock = apart(reader.kvmclock(other.cpu, t("b")), reader.kvmclock(one.cpu, t("a")))
                return clock - (reader.read("monotonic", other, t("b")) - reader.read("monotonic", one, t("a")))

            yield _pair("kvmclock ahead", "kvmclock over a stop", one, other, ahead, _rates_ns(outcome))
            yield _pair(
                "kvmclock behind", "kvmclock over a stop", one, other,
                lambda t, ahead=ahead: -ahead(t), _rates_ns(outcome),  # type: ignore[misc]
            )  # fmt: skip


def counters(outcome: Outcome) -> Iterator[Ask]:
    """Over a stop a counter gains between nothing and what the host ran."""
    reader, unit, tolerance = Reader(outcome), outcome.arch.unit, _counted(outcome, RATES_NS)
    for name, one, other in _cpu_stops(outcome):

        def more(t: Any, name: str = name, one: CpuSpan = one, other: CpuSpan = other) -> Any:
            gained = apart(reader.counter(name, other, t("b")), reader.counter(name, one, t("a")))
            return gained - scaled(_ran(outcome, one, other, t), outcome.setting.guest_khz, 1_000_000)

        yield _span("too far on", f"{name} over a stop", one, other, more, unit, tolerance)
        yield _back(reader, name, one, other)


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
        closed = tuple(span.closed for span in (one, other) if span.closed is not None)
        for name in _moved(one, other):

            def ahead(t: Any, name: str = name, one: CpuSpan = one, other: CpuSpan = other) -> Any:
                return apart(reader.counter(name, one, t("a")), reader.counter(name, other, t("a")))

            yield _ask(
                "apart", outcome.arch.unit, f"{name}s at one instant, {_who(one.vcpu, other.vcpu)}",
                f"apart {name} {one.vcpu}@{one.step} {other.vcpu}@{other.step}", _span_events(one, other),
                (Instant("a", (one.opened, other.opened), closed),), (), ahead,
            )  # fmt: skip


# ---- BOOTTIME against what passed


def _off(outcome: Outcome, one: View, other: View, sign: int) -> Value:
    """How far BOOTTIME's gain from "a" in one to "b" in other is off what passed, ns."""
    reader = Reader(outcome)

    def off(t: Any) -> Any:
        gained = reader.read("boottime", other, t("b")) - reader.read("boottime", one, t("a"))
        return sign * gained - sign * _ns(outcome, t("b") - t("a"))

    return off


def _error_ns(outcome: Outcome) -> int:
    """By how much BOOTTIME may be off: what the host itself believes wrongly, and what multipliers' roundings make."""
    return _rates_ns(outcome) + outcome.setting.rtc_error_ns


def _rates_ns(outcome: Outcome) -> int:
    """What multipliers' roundings make where a sleep runs through a clock."""
    return RATES_NS + sum(night.most_ns for night in outcome.setting.nights) * RATE_PPB // 10**9


def _first(outcome: Outcome) -> View | None:
    """A view from before the first sleep, of vCPU 0."""
    views = [v for v in _views.of(outcome) if v.slept == 0 and v.kernel == 0 and v.vcpu == 0 and not v.keeper.index]
    return views[-1] if views else None


def at_rest(outcome: Outcome) -> Iterator[Ask]:
    """In the last view of each vCPU BOOTTIME has gained what passed."""
    first = _first(outcome)
    for last in _views.of(outcome):
        if first is None or not last.last or last.slept == 0 or last.kernel:
            continue
        for sense, sign in (("ahead", 1), ("behind", -1)):
            yield _pair(sense, "BOOTTIME at last", first, last, _off(outcome, first, last, sign), _error_ns(outcome))


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
    first = _first(outcome)
    for view in _views.of(outcome):
        if first is None or view.slept == 0 or view.kernel:
            continue
        yield _ask(
            "behind", "ns", f"BOOTTIME 10 ms after an entry, vCPU {view.vcpu}", f"stale {first.id} {view.id}",
            _events(first, view), (first.instant("a"), view.instant("b")), (("a", "b"),),
            _off(outcome, first, view, -1), _served(view.cpu, late - 1),
            tuple((since, "b", late) for since in (view.cpu.opened, *([view.keeper.opened] * view.keeper.resumed))),
            _error_ns(outcome),
        )  # fmt: skip


# ---- what is counted


def _count(outcome: Outcome, sense: str, unit: str, who: str, value: int) -> Ask:
    """Something counted at the end of a case."""
    events = tuple(range(len(outcome.world.events)))
    return _ask(sense, unit, who, f"{sense} {who}", events, (), (), lambda t: value)


def once(outcome: Outcome) -> Iterator[Ask]:
    """No sleep is injected twice, and none that a kernel did not live through."""
    guest, setting = outcome.guest, outcome.setting
    if not guest.told.msr_written and guest.page is None:
        return
    lived = 0 if setting.reboots else len(setting.nights)
    slept_itself = len(setting.nights) if setting.guest_asleep and outcome.arch.measures_sleep(setting) else 0
    yield _count(outcome, "injected too often", "sleeps", "the guest", guest.injections + slept_itself - lived)


def enters_again(outcome: Outcome) -> Iterator[Ask]:
    """At the end every vCPU that has something to do is in the guest."""
    vcpus = [v for v in outcome.kvm.host.vms[-1].vcpus if not outcome.arch.idle(v)]
    out = [v.index for v in vcpus if not v.in_guest]
    yield _count(outcome, "shut out for ever", "vCPUs", "a vCPU" if not out else f"vCPU {out[0]}", len(out))


def entered_late(outcome: Outcome) -> Iterator[Ask]:
    """No vCPU is in the guest with a counter of an earlier epoch."""
    wrong = [span for span in outcome.tracker.cpus() if span.entry and not span.applied]
    yield _count(outcome, "not adjusted", "entries", _who(*(s.vcpu for s in wrong)) or "a vCPU", len(wrong))


def stray_stores(outcome: Outcome) -> Iterator[Ask]:
    """KVM stores nothing into memory that a guest's kernel has taken back."""
    records = outcome.arch.records(outcome.kvm.host.vms[-1])
    if records is not None:
        stray = sum(page.stray for page in records)
        yield _count(outcome, "into others' memory", "stores", "KVM", stray)


def spun(outcome: Outcome) -> Iterator[Ask]:
    """No vCPU's thread goes round and round where it may not enter. One that never ends is I23's."""
    yield _ask("spun", "ns", "a vCPU's thread", "none spun", (), (), (), lambda t: 0)
    for spin in outcome.spins.all():
        if spin.closer is not None:
            yield _ask(
                "spun", "ns", f"the thread of vCPU {spin.vcpu}", f"spun {spin.vcpu} {spin.opened}",
                (spin.opener, spin.closer), (), (),
                lambda t, spin=spin: _ns(outcome, t(spin.closed) - t(spin.opened)),  # type: ignore[misc]
            )  # fmt: skip


def told_of_steps(outcome: Outcome) -> Iterator[Ask]:
    """Timers of BOOTTIME hear of each injection: one that came due in the sleep does not wait for another event."""
    guest = outcome.guest
    if guest.page is not None and not outcome.setting.reboots and not outcome.setting.guest_asleep:
        deaf = max(guest.injections, min(len(outcome.sleeps), 1)) - guest.boot_bases
        yield _count(outcome, "not told of a sleep", "sleeps", "BOOTTIME's timers", deaf)


def watchdogs(outcome: Outcome) -> Iterator[Ask]:
    """MONOTONIC gains less over a stop than a soft lockup takes."""
    reader = Reader(outcome)
    for one, other in _stops(outcome, idle=True):

        def gained(t: Any, one: View = one, other: View = other) -> Any:
            # What the host itself ran meanwhile counts: a guest that is stopped for as long is stuck all the same.
            clock = reader.read("monotonic", other, t("b")) - reader.read("monotonic", one, t("a"))
            return clock - _ns(outcome, t(one.cpu.closed) - t("a") + t("b") - t(other.cpu.opened))

        yield _ask(
            "gained", "ns", f"MONOTONIC over a stop, vCPU {one.vcpu}", f"watchdog {one.id} {other.id}",
            _events(one, other), (one.instant("a"), other.instant("b")), (("a", "b"),),
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
            return gained - scaled(_ns(outcome, ran), outcome.setting.guest_khz, 1_000_000)

        yield _ask(
            "ahead", outcome.arch.unit, f"the {reader.counter_name} that a VMM saves", f"saved {one.step} {at}",
            (*_span_events(one), number), (Instant.within("a", _Spanned(one)),), (("a", at),), ahead,
            tolerance=_counted(outcome, RATES_NS),
        )  # fmt: skip


_G = "invariants of a guest's clocks over a sleep of its host"

INVARIANTS = (
    Question("I1", "no clock of one vCPU goes back", _G, "deltas of centuries, time-outs that never come", never_back),
    Question(
        "I2", "MONOTONIC and BOOTTIME do not go back from one vCPU to another", _G, "causality", never_back_across
    ),
    Question("I4", "BOOTTIME and REALTIME step by the same, and never down", _G, "wall time against time slept", steps),
    Question(
        "I6",
        "over a stop MONOTONIC gains from nothing to what the host itself ran",
        _G,
        "time-outs that all fire",
        hole,
    ),
    Question("I7", "kvmclock and the clocksource tsc gain the same over a stop", _G, "sched_clock", together),
    Question("I8", "over a stop counters gain as MONOTONIC shall", _G, "user space that reads it", counters),
    Question("one", "at one instant all vCPUs' counters are the same", _G, "a thread that moves", one_and_the_same),
    Question("I9", "BOOTTIME's timers are told of each injection", _G, "alarms that are late", told_of_steps),
    Question("I10", "no watchdog bites: MONOTONIC gains less than 20 s over a stop", _G, "soft lockups", watchdogs),
    Question("I11", "at last BOOTTIME has gained what passed, give or take the host's error", _G, "alarms", at_rest),
    Question("I12", "so it has where the interrupt came twice, or not to every vCPU", _G, "alarms", repeated),
    Question("I13", "so it has wherever a vCPU has run for 10 ms", _G, "stale stamps", soon_right),
    Question("I21", "no sleep is injected twice, nor into a kernel that did not live through it", _G, "BOOTTIME", once),
    Question("I22", "a vCPU that is plugged in has the others' counters", _G, "a thread that moves", plugged_in),
    Question("I23", "every vCPU comes into the guest again", _G, "the guest hangs", enters_again),
    Question("I24", "no vCPU enters with a counter that is not adjusted", _G, "all of it", entered_late),
    Question("spin", "no vCPU's thread burns host CPU where it may not enter", _G, "power, host CPU", spun),
    Question("saved", "a VMM saves no counter that has the sleep in it", _G, "a snapshot taken then", saved),
    Question("stray", "KVM stores nothing where a kernel's memory is its own again", _G, "memory", stray_stores),
)
