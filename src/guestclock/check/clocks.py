"""What any clock of a guest shall do: never step back, run at its rate, read the same on all vCPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from guestclock.check.drift import as_time
from guestclock.check.lines import Break, breaks, groups
from guestclock.check.marks import Mark, Property
from guestclock.check.span import Span
from guestclock.check.story import Reading, Story
from guestclock.vmm.clocks import CLOCKS

TAKEN_FOR_GRANTED = "the guest's clocksource and sched_clock take it for granted; a regress reads as 2^64 - x"
SYSTEM_COUNTER = "Arm ARM DDI 0487, the Generic Timer: one system counter, of fixed rate, always on"
MARC = "Marc Zyngier, 2021-09-06: guests at EL1 must never see different counters on different vCPUs"

BACK = {
    "tsc": ("TSC", f"{TAKEN_FOR_GRANTED} cycles or ns"),
    "kvmclock": ("kvmclock, as its guest computes it,", f"{TAKEN_FOR_GRANTED} cycles or ns"),
    "cntvct": ("CNTVCT", f"{TAKEN_FOR_GRANTED} ticks"),
    "cntpct": ("CNTPCT", f"{TAKEN_FOR_GRANTED} ticks"),
}
RUNS = {
    "tsc": "a counter of constant rate (CPUID Fn8000_0007 EDX bit 8)",
    "kvmclock": "Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW",
    "cntvct": SYSTEM_COUNTER,
    "cntpct": SYSTEM_COUNTER,
}
AGREES = {
    "tsc": "Linux takes one TSC for all CPUs once it is the clocksource",
    "kvmclock": "STABLE promises it; without STABLE last_value makes up for it",
    "cntvct": MARC,
    "cntpct": MARC,
}


# ---- one clock through time


def never_back(clock: str) -> Property:
    name = f"{clock}-never-back"

    def check(story: Story) -> Iterator[Mark]:
        for broken in breaks(story, clock):
            if broken.is_step and broken.amount.hi < 0 and broken.seen.hi < 0:
                yield _mark(story, name, broken, "steps back", broken.seen)

    what, source = BACK[clock]
    return Property(CLOCKS[clock].arch, name, f"no vCPU's {what} steps back", source, check, _read_again(clock))


def runs(clock: str) -> Property:
    name = f"{clock}-runs"

    def check(story: Story) -> Iterator[Mark]:
        for broken in breaks(story, clock):
            if not broken.is_step:
                continue
            if broken.amount.lo > 0:
                yield _mark(story, name, broken, "jumps ahead", broken.amount)
            elif broken.seen != broken.amount:
                yield _mark(story, name, broken, "falls behind", broken.amount)

    meaning = f"each {CLOCKS[clock].shown} advances with true time at its rate, no more and no less"
    return Property(CLOCKS[clock].arch, name, meaning, RUNS[clock], check, _read_again(clock))


def _read_again(clock: str) -> Callable[[Story], bool]:
    """Whether some vCPU's clock was read twice."""
    return lambda story: bool(breaks(story, clock))


def _mark(story: Story, name: str, broken: Break, what: str, amount: Span) -> Mark:
    after = broken.after
    stable = after.stable and broken.before.stable
    return _in_its_unit(
        story, after,
        Mark(name, after.step, after.vm, (after.vcpu,), broken.clock, what, amount, stable=stable),
    )  # fmt: skip


def _in_its_unit(story: Story, reading: Reading, mark: Mark) -> Mark:
    """A mark on a counter is in what that counts, and as ns at the nominal rate."""
    clock = CLOCKS[mark.clock]
    return replace(mark, unit=clock.unit, ns=as_time(story, reading, mark.amount)) if clock.counts else mark


# ---- vCPUs against each other


def agrees(clock: str) -> Property:
    name = f"{clock}-agrees"

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
                yield _in_its_unit(
                    story, look.readings[group.vcpus[0]],
                    Mark(
                        name, look.step, look.vm, group.vcpus, clock, "differs", group.ahead, than=found[0].vcpus,
                        ongoing=goes_on(known.get(group.vcpus), group.ahead),
                    ),
                )  # fmt: skip
            known = now

    def judges(story: Story) -> bool:
        return any(len(look.showing(clock)) > 1 for look in story.looks)

    meaning = f"at one instant all vCPUs' {CLOCKS[clock].shown}s read the same"
    return Property(CLOCKS[clock].arch, name, meaning, AGREES[clock], check, judges)


def goes_on(before: Span | None, now: Span) -> bool:
    """The same difference as before, as far as can be told; lines of unequal rates drift apart and are still apart."""
    return before is not None and (before.lo < 0) == (now.lo < 0)


# ---- a vCPU's two counters against each other


def together(clock: str, other: str, name: str, source: str) -> Property:
    """How far `clock` is ahead of `other` is told by one reading of both: the host's counter is not asked."""

    def pairs(story: Story) -> Iterator[tuple[Reading, Reading]]:
        return ((a, b) for a, b in story.pairs(clock) if a.apart is not None and b.apart is not None)

    def check(story: Story) -> Iterator[Mark]:
        for before, after in pairs(story):
            assert before.apart is not None
            assert after.apart is not None
            parted = after.apart - before.apart
            if 0 not in parted:
                mark = Mark(name, after.step, after.vm, (after.vcpu,), clock, "parts", parted)
                yield _in_its_unit(story, after, mark)

    meaning = f"a vCPU's {CLOCKS[clock].shown} and {CLOCKS[other].shown} move together, or not at all"
    return Property(CLOCKS[clock].arch, name, meaning, source, check, lambda story: any(pairs(story)))
