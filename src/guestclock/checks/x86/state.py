"""x86: what a VM's clocks are made of at one moment of a run, and what a call made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from guestclock.abi.pvclock import PvclockVcpuTimeInfo
from guestclock.arith import s64


@dataclass(slots=True)
class VmState:
    """What a VM's clocks are made of after one step of the run."""

    stable: bool
    tsc: int
    ns: int
    generation: int
    matched: int
    clock_offset: int
    offsets: tuple[int, ...]
    pages: tuple[PvclockVcpuTimeInfo | None, ...]


def state_of(vm: Any) -> VmState:
    """As it is now."""
    return VmState(
        stable=bool(vm.use_master_clock),
        tsc=vm.master_cycle_now,
        ns=vm.master_kernel_ns + vm.kvmclock_offset,
        generation=vm.cur_tsc_generation,
        matched=vm.nr_vcpus_matched_tsc,
        clock_offset=vm.kvmclock_offset,
        offsets=tuple(vcpu.tsc_offset for vcpu in vm.vcpus),
        pages=tuple(None if vcpu.pv_time is None else vcpu.pv_time.copy() for vcpu in vm.vcpus),
    )


def effect_of(before: VmState | None, after: VmState, vcpu: int | None) -> dict[str, Any]:
    """What a call made of the VM's clocks."""
    effect: dict[str, Any] = {}
    if before is not None and after.clock_offset != before.clock_offset:
        effect["clock_moved_ns"] = after.clock_offset - before.clock_offset
    if vcpu is None or vcpu >= len(after.offsets):
        return effect
    old = before.offsets[vcpu] if before is not None and vcpu < len(before.offsets) else None
    new = after.offsets[vcpu]
    others = [n for n, offset in enumerate(after.offsets) if n != vcpu and offset == new]
    if before is not None and (after.generation, after.matched) != (before.generation, before.matched):
        effect["generation"] = after.generation
        effect["matched"] = after.generation == before.generation
    if old != new or effect:
        effect["offset"] = s64(new)
        effect["same_as"] = others
    return effect
