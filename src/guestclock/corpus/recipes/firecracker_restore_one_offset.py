"""Firecracker, snapshot restore as #6200 would have it: TSCs by value, then vCPU 0's offset to all, then kvmclock."""

from __future__ import annotations

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.api import Vm
from guestclock.vmm.recipes.firecracker_restore import pause, save
from guestclock.vmm.snapshot import Snapshot

SEEN = "Firecracker PR #6200, Sep 2026"
POLICY = {"tsc": "freeze", "kvmclock": "freeze"}

__all__ = ["pause", "restore", "save"]


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    for vcpu, saved in zip(vm.vcpus, snapshot.vcpus, strict=True):
        await vcpu.set_msr(MSR_IA32_TSC, saved.tsc)
        await vcpu.kvmclock_ctrl()
    offset = await vm.vcpus[0].get_tsc_offset()
    for vcpu in vm.vcpus[1:]:
        await vcpu.set_tsc_offset(offset)
    await vm.set_clock(snapshot.clock.clock_ns)
