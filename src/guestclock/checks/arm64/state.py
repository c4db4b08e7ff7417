"""arm64: what a VM's counters are made of at one moment of a run, and what a call made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from guestclock.arith import s64
from guestclock.checks.arm64.windows import offset
from guestclock.kvm.model.arm64.state import ptimer, vtimer


@dataclass(slots=True)
class VmState:
    """Offsets as KVM keeps them, one per vCPU, ticks; fixed: KVM_ARM_SET_COUNTER_OFFSET was called."""

    voffsets: tuple[int, ...]
    poffsets: tuple[int, ...]
    fixed: bool


def state_of(vm: Any) -> VmState:
    """As it is now."""
    return VmState(
        voffsets=tuple(offset(vtimer(vcpu)) for vcpu in vm.vcpus),
        poffsets=tuple(offset(ptimer(vcpu)) for vcpu in vm.vcpus),
        fixed=bool(vm.counter_offset),
    )


def effect_of(before: VmState | None, after: VmState) -> dict[str, Any]:
    """What a call made of the VM's counters: by how much each moved on, ticks."""
    effect: dict[str, Any] = {}
    for clock, name in (("cntvct", "voffsets"), ("cntpct", "poffsets")):
        old = getattr(before, name) if before is not None else ()
        new = getattr(after, name)
        moved = {s64(was - is_) for was, is_ in zip(old, new, strict=False) if was != is_}
        if moved:
            effect[f"{clock}_moved"] = max(moved, key=abs)
        if new and new != old:
            effect[f"{clock}_offset"] = s64(new[0]) if len(set(new)) == 1 else [s64(one) for one in new]
    if after.fixed and (before is None or not before.fixed):
        effect["fixed"] = True
    return effect
