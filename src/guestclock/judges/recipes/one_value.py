"""One value for all vCPUs' TSCs, written to one after the other: KVM takes them for one, or not."""

from __future__ import annotations

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.api import Vm
from guestclock.vmm.snapshot import Snapshot, VcpuSnapshot

POLICY = {"tsc": "freeze"}


async def save(vm: Vm) -> Snapshot:
    tsc = await vm.vcpus[0].get_msr(MSR_IA32_TSC)
    return Snapshot(vcpus=tuple([VcpuSnapshot(tsc=tsc) for _ in vm.vcpus]), clock=await vm.get_clock())


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    for vcpu, saved in zip(vm.vcpus, snapshot.vcpus, strict=True):
        await vcpu.set_msr(MSR_IA32_TSC, saved.tsc)
