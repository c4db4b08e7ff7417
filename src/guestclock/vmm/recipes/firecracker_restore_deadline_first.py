"""Firecracker, snapshot restore before #4666: each vCPU's timer is armed before its TSC is what it was.

KVM works out from the TSC of that moment when the timer shall fire, and does not do so again when the TSC is written.
"""

from __future__ import annotations

from guestclock.abi.msr import MSR_IA32_TSC, MSR_IA32_TSC_DEADLINE
from guestclock.kvm.api import Vm
from guestclock.vmm.recipes.firecracker_restore import pause
from guestclock.vmm.snapshot import Snapshot, VcpuSnapshot

SEEN = "Firecracker issue #4099, fixed by #4666"
POLICY = {"tsc": "freeze", "kvmclock": "freeze"}

__all__ = ["pause", "restore", "save"]


async def save(vm: Vm) -> Snapshot:
    vcpus = []
    for vcpu in vm.vcpus:
        deadline = await vcpu.get_msr(MSR_IA32_TSC_DEADLINE)
        vcpus.append(VcpuSnapshot(tsc_deadline=deadline, tsc=await vcpu.get_msr(MSR_IA32_TSC)))
    return Snapshot(vcpus=tuple(vcpus), clock=await vm.get_clock())


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    for vcpu, saved in zip(vm.vcpus, snapshot.vcpus, strict=True):
        await vcpu.set_msr(MSR_IA32_TSC_DEADLINE, saved.tsc_deadline)
        await vcpu.set_msr(MSR_IA32_TSC, saved.tsc)
        await vcpu.kvmclock_ctrl()
    await vm.set_clock(snapshot.clock.clock_ns)
