"""arm64's two counters: at one instant one for all vCPUs, never back, and moved by the VMM as it means them to move."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

from guestclock.checks.asks import Ask, both_ways, events_of, guest_windows, name_of, question
from guestclock.checks.outcome import Outcome
from guestclock.checks.questions.monotonic import across_vcpus, per_vcpu
from guestclock.checks.questions.policy import from_call_to_call, from_guest_to_guest
from guestclock.checks.questions.together import agree
from guestclock.checks.windows import apart
from guestclock.vmm.clocks import ARM64

ARM = (ARM64,)


@question(
    "cntvct-agrees",
    "at one instant all vCPUs' CNTVCT_EL0 read the same",
    source="Zyngier, 2021-09-06: guests at EL1 must never see different counters on different vCPUs",
    breaks="Linux takes it for one counter: CLOCK_MONOTONIC steps when a thread moves to another vCPU",
    arch=ARM,
)
def cntvct_agrees(outcome: Outcome) -> Iterator[Ask]:
    return agree(outcome, "cntvct")


@question(
    "cntpct-agrees",
    "at one instant all vCPUs' CNTPCT_EL0 read the same",
    source="Zyngier, 2021-09-06: guests at EL1 must never see different counters on different vCPUs",
    breaks="whoever keeps time by the physical counter sees it step when it moves to another vCPU",
    arch=ARM,
)
def cntpct_agrees(outcome: Outcome) -> Iterator[Ask]:
    return agree(outcome, "cntpct")


@question(
    "cntvct-never-back",
    "no CNTVCT_EL0 read is below an earlier one, on whichever vCPU",
    source="Arm ARM D12.2: the system counter never runs backwards; the guest's clocksource and vDSO",
    breaks="CLOCK_MONOTONIC goes backwards, or, where the kernel catches it, stands still",
    arch=ARM,
)
def cntvct_never_back(outcome: Outcome) -> Iterator[Ask]:
    yield from per_vcpu(outcome, "cntvct")
    yield from across_vcpus(outcome, "cntvct", guest_windows(outcome))


@question(
    "cntpct-never-back",
    "no CNTPCT_EL0 read is below an earlier one, on whichever vCPU",
    source="Arm ARM D12.2: the system counter never runs backwards",
    breaks="deltas of centuries for whoever keeps time by the physical counter",
    arch=ARM,
)
def cntpct_never_back(outcome: Outcome) -> Iterator[Ask]:
    yield from per_vcpu(outcome, "cntpct")
    yield from across_vcpus(outcome, "cntpct", guest_windows(outcome))


@question(
    "cntvct-policy",
    "each vCPU's CNTVCT_EL0 does across the operation what the policy says",
    source="the recipe's POLICY, or --policy",
    breaks="the guest's clocks lose or gain the time of the operation; its timers fire late or early by it",
    arch=ARM,
)
def cntvct_policy(outcome: Outcome) -> Iterator[Ask]:
    return from_guest_to_guest(outcome, "cntvct")


@question(
    "cntpct-policy",
    "each vCPU's CNTPCT_EL0 does across the operation what the policy says",
    source="the recipe's POLICY, or --policy",
    breaks="whoever keeps time by the physical counter sees the operation, or sees it wrong",
    arch=ARM,
)
def cntpct_policy(outcome: Outcome) -> Iterator[Ask]:
    return from_guest_to_guest(outcome, "cntpct")


@question(
    "cntvct-policy-calls",
    "CNTVCT_EL0 does what the policy says from the VMM's last reading of it to its last write",
    source="the recipe's POLICY, or --policy",
    breaks="the VMM's own sums are wrong: however fast its calls follow each other, the counter comes out elsewhere",
    arch=ARM,
)
def cntvct_policy_calls(outcome: Outcome) -> Iterator[Ask]:
    return from_call_to_call(outcome, "cntvct")


@question(
    "cntpct-policy-calls",
    "CNTPCT_EL0 does what the policy says from the VMM's last reading of it to its last write",
    source="the recipe's POLICY, or --policy",
    breaks="the VMM's own sums are wrong: however fast its calls follow each other, the counter comes out elsewhere",
    arch=ARM,
)
def cntpct_policy_calls(outcome: Outcome) -> Iterator[Ask]:
    return from_call_to_call(outcome, "cntpct")


@question(
    "counters-together",
    "CNTPCT_EL0 and CNTVCT_EL0 of a vCPU are always as far apart as they ever were",
    source="QEMU, docs/system/arm/cpu-features.rst, kvm-no-adjvtime: the two diverge; Zyngier, 2021-07-29",
    breaks="a guest that uses both (one for its clock, one for its timers) finds one of them moved",
    arch=ARM,
)
def counters_together(outcome: Outcome) -> Iterator[Ask]:
    world = outcome.world
    windows = [w for w in guest_windows(outcome) if w.has("cntpct") and w.has("cntvct")]
    for before, after in permutations(windows, 2):
        if before.vcpu != after.vcpu or before.closed is None:
            continue
        if (before.site, before.vm, before.index) > (after.site, after.vm, after.index):
            continue
        left, entered = before.closed, after.opened

        def moved(t: Any, before: Any = before, after: Any = after, left: str = left, entered: str = entered) -> Any:
            old, new = t(left), t(entered)
            return apart(
                after.read("cntpct", world, new) - after.read("cntvct", world, new),
                before.read("cntpct", world, old) - before.read("cntvct", world, old),
            )

        for sense, value in both_ways(moved, "ahead", "behind"):
            yield Ask(
                sense=f"{sense}, CNTPCT against CNTVCT",
                unit="ticks",
                who=name_of(before),
                id=f"together {sense} {before.id} {after.id}",
                events=events_of(before, after),
                instants=(),
                ordered=(),
                value=value,
            )
