"""What an x86 guest is told beside its TSC: a page's flags, its versions, KVM_GET_CLOCK's answer."""

from __future__ import annotations

from collections.abc import Iterator

from guestclock.check.clocks import goes_on
from guestclock.check.lines import differs, kvmclock_on_line, rounding_ns, same_line
from guestclock.check.marks import Mark, Property
from guestclock.check.span import Span, through_zero
from guestclock.check.story import Look, Reading, Story
from guestclock.vmm.clocks import X86_64


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
                ongoing=goes_on(known.get(key), ahead),
            )  # fmt: skip
            known[key] = ahead


def _both_answer(story: Story) -> bool:
    return any(look.clock is not None and _with_page(look) for look in story.looks)


# ---- the page itself


def _version_protocol(story: Story) -> Iterator[Mark]:
    for reading in story.readings:
        if reading.page is not None and reading.page.version & 1 and not reading.in_run:
            yield Mark("version-protocol", reading.step, reading.vm, (reading.vcpu,), "page", "odd")
    for before, after in story.pairs("kvmclock"):
        old, new = before.page, after.page
        if old is None or new is None or before.pages != after.pages:
            continue
        if old.version == new.version and not same_line(old, new):
            yield Mark("version-protocol", after.step, after.vm, (after.vcpu,), "page", "unnumbered")


def _written(story: Story) -> bool:
    return any(reading.page is not None and reading.page.version for reading in story.readings)


def _with_page(look: Look) -> list[Reading]:
    return list(look.showing("kvmclock").values())


PAGE_PROPERTIES = (
    Property(
        X86_64,
        "flags-honest",
        "a page says STABLE only while all vCPUs' kvmclocks are one",
        "Documentation/virt/kvm/x86/msr.rst: measures taken across vCPUs are guaranteed to be monotonic",
        _flags_honest,
        _stable_among_several,
    ),
    Property(
        X86_64,
        "get-clock-agrees",
        "KVM_GET_CLOCK answers what the guest reads at that instant",
        "Documentation/virt/kvm/api.rst, KVM_GET_CLOCK: the current value of kvmclock as seen by the guest",
        _get_clock,
        _both_answer,
    ),
    Property(
        X86_64,
        "version-protocol",
        "a page that nobody is writing has an even version, and a new one whenever its contents changed",
        "Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW: version",
        _version_protocol,
        _written,
    ),
)
