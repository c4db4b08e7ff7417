"""What is counted at the end of a case: interrupts, injections, entries, stores; and how long a thread went round."""

from __future__ import annotations

from collections.abc import Iterator

from guestclock.checks.asks import Ask
from guestclock.checks.suspend.invariants.asking import ask, count, in_turn, ns
from guestclock.checks.suspend.setting import Outcome


def once(outcome: Outcome) -> Iterator[Ask]:
    """No sleep is injected twice, and none that a kernel did not live through."""
    guest, setting = outcome.guest, outcome.setting
    if not guest.told.msr_written and guest.page is None:
        return
    lived = 0 if setting.reboots else len(setting.nights)
    slept_itself = len(setting.nights) if setting.guest_asleep and outcome.arch.measures_sleep(setting) else 0
    yield count(outcome, "injected too often", "sleeps", "the guest", guest.injections + slept_itself - lived)


def enters_again(outcome: Outcome) -> Iterator[Ask]:
    """At the end every vCPU that has something to do is in the guest."""
    vcpus = [v for v in outcome.kvm.host.vms[-1].vcpus if not outcome.arch.idle(v)]
    out = [v.index for v in vcpus if not v.in_guest]
    yield count(outcome, "shut out for ever", "vCPUs", "a vCPU" if not out else f"vCPU {out[0]}", len(out))


def entered_late(outcome: Outcome) -> Iterator[Ask]:
    """No vCPU is in the guest with a counter of an earlier epoch."""
    wrong = [span for span in outcome.tracker.cpus() if span.entry and not span.applied]
    yield count(outcome, "not adjusted", "entries", in_turn(*(s.vcpu for s in wrong)) or "a vCPU", len(wrong))


def stray_stores(outcome: Outcome) -> Iterator[Ask]:
    """KVM stores nothing into memory that a guest's kernel has taken back."""
    records = outcome.arch.records(outcome.kvm.host.vms[-1])
    if records is not None:
        stray = sum(page.stray for page in records)
        yield count(outcome, "into others' memory", "stores", "KVM", stray)


def spun(outcome: Outcome) -> Iterator[Ask]:
    """No vCPU's thread goes round and round where it may not enter. One that never ends is I23's."""
    yield ask("spun", "ns", "a vCPU's thread", "none spun", (), (), (), lambda t: 0)
    for spin in outcome.spins.all():
        if spin.closer is not None:
            yield ask(
                "spun", "ns", f"the thread of vCPU {spin.vcpu}", f"spun {spin.vcpu} {spin.opened}",
                (spin.opener, spin.closer), (), (),
                lambda t, spin=spin: ns(outcome, t(spin.closed) - t(spin.opened)),  # type: ignore[misc]
            )  # fmt: skip


def told_of_steps(outcome: Outcome) -> Iterator[Ask]:
    """Timers of BOOTTIME hear of each injection: one that came due in the sleep does not wait for another event."""
    guest = outcome.guest
    if guest.page is not None and not outcome.setting.reboots and not outcome.setting.guest_asleep:
        deaf = max(guest.injections, min(len(outcome.sleeps), 1)) - guest.boot_bases
        yield count(outcome, "not told of a sleep", "sleeps", "BOOTTIME's timers", deaf)
