"""The properties a guest's clocks should have whatever its VMM does, each checked at every look of a trace.

They state what is so, not whose fault it is: a VMM that writes the TSC makes it jump, and the mark says by how much.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

from guestclock.check.lines import (
    Break,
    breaks,
    differs,
    groups,
    kvmclock_on_line,
    rounding_ns,
    same_line,
    through_zero,
)
from guestclock.check.marks import Mark, Property
from guestclock.check.span import Span
from guestclock.check.story import Look, Rate, Reading, Story

NS_PER_S = 10**9


def marks(story: Story) -> list[Mark]:
    """Everything every property finds, by step."""
    found = [mark for prop in PROPERTIES for mark in prop.check(story)]
    return sorted(found, key=lambda mark: mark.step)


def unjudged(story: Story) -> tuple[Property, ...]:
    """The properties that this trace can neither keep nor break."""
    return tuple(prop for prop in PROPERTIES if not prop.judges(story))


# ---- one clock through time


def _read_again(clock: str) -> Callable[[Story], bool]:
    """Whether some vCPU's clock was read twice."""
    return lambda story: bool(breaks(story, clock))


def _never_back(clock: str, name: str) -> Property:
    def check(story: Story) -> Iterator[Mark]:
        for broken in breaks(story, clock):
            if broken.is_step and broken.amount.hi < 0 and broken.seen:
                yield _mark(story, name, broken, "steps back")

    what = "TSC" if clock == "tsc" else "kvmclock, as its guest computes it,"
    source = "the guest's clocksource and sched_clock take it for granted; a regress reads as 2^64 - x cycles or ns"
    return Property(name, f"no vCPU's {what} steps back", source, check, _read_again(clock))


def _runs(clock: str, name: str) -> Property:
    def check(story: Story) -> Iterator[Mark]:
        for broken in breaks(story, clock):
            if not broken.is_step:
                continue
            if broken.amount.lo > 0:
                yield _mark(story, name, broken, "jumps ahead")
            elif not broken.seen:
                yield _mark(story, name, broken, "falls behind")

    what = "TSC" if clock == "tsc" else "kvmclock"
    source = (
        "a counter of constant rate (CPUID Fn8000_0007 EDX bit 8)"
        if clock == "tsc"
        else "Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW"
    )
    return Property(
        name, f"each {what} advances with true time at its rate, no more and no less", source, check, _read_again(clock)
    )


def _mark(story: Story, name: str, broken: Break, what: str) -> Mark:
    after = broken.after
    stable = after.stable and broken.before.stable
    return _with_ns(
        story, after.rate,
        Mark(name, after.step, after.vm, (after.vcpu,), broken.clock, what, broken.amount, stable=stable),
    )  # fmt: skip


def _with_ns(story: Story, rate: Rate, mark: Mark) -> Mark:
    """A mark on a TSC is in cycles, and as ns at the calibrated rate."""
    if mark.clock != "tsc":
        return mark
    hz = rate.of(story.tsc_khz * 1000)
    lo, hi = (Fraction(x * NS_PER_S) / hz for x in (mark.amount.lo, mark.amount.hi))
    return replace(mark, unit="cycles", ns=Span(round(lo), round(hi)))


# ---- vCPUs against each other


def _agrees(clock: str, name: str) -> Property:
    def check(story: Story) -> Iterator[Mark]:
        known: dict[tuple[int, ...], Span] = {}
        vm = -1
        for look in story.looks:
            if look.vm != vm:
                known, vm = {}, look.vm
            if not look.looked:
                continue
            found = groups(story, look, clock)
            now: dict[tuple[int, ...], Span] = {}
            for group in found[1:]:
                now[group.vcpus] = group.ahead
                yield _with_ns(
                    story, look.readings[group.vcpus[0]].rate,
                    Mark(
                        name, look.step, look.vm, group.vcpus, clock, "differs", group.ahead, than=found[0].vcpus,
                        ongoing=_goes_on(known.get(group.vcpus), group.ahead),
                    ),
                )  # fmt: skip
            known = now

    what = "TSCs" if clock == "tsc" else "kvmclocks"
    source = (
        "Linux takes one TSC for all CPUs once it is the clocksource"
        if clock == "tsc"
        else "STABLE promises it; without STABLE last_value makes up for it"
    )

    def judges(story: Story) -> bool:
        return any(len(look.readings if clock == "tsc" else _with_page(look)) > 1 for look in story.looks)

    return Property(name, f"at one instant all vCPUs' {what} read the same", source, check, judges)


def _goes_on(before: Span | None, now: Span) -> bool:
    """The same difference as before, as far as can be told; lines of unequal rates drift apart and are still apart."""
    return before is not None and (before.lo < 0) == (now.lo < 0)


def _flags_honest(story: Story) -> Iterator[Mark]:
    before: tuple[int, tuple[int, ...]] | None = None
    for look in story.looks:
        if not look.looked:
            continue
        lying = tuple(_liars(story, look))
        if lying:
            first = look.readings[lying[0]]
            others = [(r, differs(story, r, first, "kvmclock")) for r in _with_page(look)]
            apart = [(r.vcpu, ahead) for r, ahead in others if ahead is not None]
            worst = max((ahead for _, ahead in apart), key=lambda a: max(abs(a.lo), abs(a.hi)))
            yield Mark(
                "flags-honest", look.step, look.vm, lying, "kvmclock", "says stable", worst, stable=True,
                than=tuple(vcpu for vcpu, _ in apart), ongoing=before == (look.vm, lying),
            )  # fmt: skip
        before = (look.vm, lying)


def _liars(story: Story, look: Look) -> Iterator[int]:
    read = _with_page(look)
    for reading in read:
        if reading.stable and any(differs(story, other, reading, "kvmclock") is not None for other in read):
            yield reading.vcpu


def _stable_among_several(story: Story) -> bool:
    return any(len(read) > 1 and any(r.stable for r in read) for read in map(_with_page, story.looks))


def _with_page(look: Look) -> list[Reading]:
    return [r for _, r in sorted(look.readings.items()) if r.kvmclock_ns is not None]


# ---- KVM against the guest


def _get_clock(story: Story) -> Iterator[Mark]:
    known: dict[tuple[int, int], Span] = {}
    for look in story.looks:
        if look.clock is None:
            continue
        for reading in _with_page(look):
            assert reading.page is not None
            ahead = through_zero(-(kvmclock_on_line(story, reading, look.clock.when) - look.clock.clock_ns))
            slack, key = rounding_ns(reading.page), (look.vm, reading.vcpu)
            if ahead.meets(Span(-slack, slack)):
                known.pop(key, None)
                continue
            yield Mark(
                "get-clock-agrees", look.step, look.vm, (), "get-clock", "differs", ahead, than=(reading.vcpu,),
                ongoing=_goes_on(known.get(key), ahead),
            )  # fmt: skip
            known[key] = ahead


def _both_answer(story: Story) -> bool:
    return any(look.clock is not None and _with_page(look) for look in story.looks)


# ---- the page itself


def _version_protocol(story: Story) -> Iterator[Mark]:
    for reading in story.readings:
        if reading.page is not None and reading.page.version & 1 and not reading.in_run:
            yield Mark("version-protocol", reading.step, reading.vm, (reading.vcpu,), "page", "odd")
    for before, after in story.pairs():
        old, new = before.page, after.page
        if old is None or new is None or before.pages != after.pages:
            continue
        if old.version == new.version and not same_line(old, new):
            yield Mark("version-protocol", after.step, after.vm, (after.vcpu,), "page", "unnumbered")


def _written(story: Story) -> bool:
    return any(reading.page is not None and reading.page.version for reading in story.readings)


PROPERTIES: tuple[Property, ...] = (
    _never_back("kvmclock", "kvmclock-never-back"),
    _never_back("tsc", "tsc-never-back"),
    _runs("kvmclock", "kvmclock-runs"),
    _runs("tsc", "tsc-runs"),
    _agrees("tsc", "tsc-agrees"),
    _agrees("kvmclock", "kvmclock-agrees"),
    Property(
        "flags-honest",
        "a page says STABLE only while all vCPUs' kvmclocks are one",
        "Documentation/virt/kvm/x86/msr.rst: measures taken across vCPUs are guaranteed to be monotonic",
        _flags_honest,
        _stable_among_several,
    ),
    Property(
        "get-clock-agrees",
        "KVM_GET_CLOCK answers what the guest reads at that instant",
        "Documentation/virt/kvm/api.rst, KVM_GET_CLOCK: the current value of kvmclock as seen by the guest",
        _get_clock,
        _both_answer,
    ),
    Property(
        "version-protocol",
        "a page that nobody is writing has an even version, and a new one whenever its contents changed",
        "Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW: version",
        _version_protocol,
        _written,
    ),
)
