"""Firecracker, snapshot restore with clock_realtime: TSCs by value, kvmclock moved on by the time that has passed.

The TSC stays behind by the age of the snapshot: the guest's two clocks disagree from then on.
"""

from __future__ import annotations

from guestclock.abi.ioctl import KVM_CLOCK_REALTIME
from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.api import Vm
from guestclock.vmm.recipes.firecracker_restore import pause, save, scale
from guestclock.vmm.snapshot import Snapshot

SEEN = "Firecracker, src/vmm/src/arch/x86_64/vm.rs (clock_realtime, #5809), Aug 2026"
POLICY = {"tsc": "freeze", "kvmclock": "advance"}

__all__ = ["pause", "restore", "save"]


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    await scale(vm, snapshot.vcpus[0].tsc_khz)
    for vcpu, saved in zip(vm.vcpus, snapshot.vcpus, strict=True):
        await vcpu.set_msr(MSR_IA32_TSC, saved.tsc)
        await vcpu.kvmclock_ctrl()
    await vm.set_clock(snapshot.clock.clock_ns, KVM_CLOCK_REALTIME, snapshot.clock.realtime_ns)
