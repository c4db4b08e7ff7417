"""Cloud Hypervisor, restore and migration: each vCPU is created and given its TSC, then vCPU 0's offset to all (#8437).

One offset for all ties the vCPUs together whatever time their creation took. The TSC stays behind by the downtime,
kvmclock is moved on: a guest on kvm-clock is right, one on tsc is late.
"""

from __future__ import annotations

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.api import Host, Vm
from guestclock.vmm.recipes.cloud_hypervisor_pause_resume import pause, resume
from guestclock.vmm.snapshot import Snapshot, VcpuSnapshot

SEEN = "Cloud Hypervisor, vmm/src/cpu.rs (synchronize_tsc_offsets, #8437) and hypervisor/src/kvm/mod.rs, Aug 2026"
POLICY = {"tsc": "freeze", "kvmclock": "advance"}

__all__ = ["create", "pause", "restore", "resume", "save"]


async def create(host: Host, vcpus: int, snapshot: Snapshot | None) -> Vm:
    vm = await created(host, vcpus, snapshot)
    if snapshot is not None:
        offset = await vm.vcpus[0].get_tsc_offset()
        for vcpu in vm.vcpus:
            await vcpu.set_tsc_offset(offset)
    return vm


async def save(vm: Vm) -> Snapshot:
    vcpus = []
    for vcpu in vm.vcpus:
        tsc = await vcpu.get_msr(MSR_IA32_TSC)
        vcpus.append(VcpuSnapshot(tsc=tsc, tsc_khz=await vcpu.get_tsc_khz()))
    return Snapshot(vcpus=tuple(vcpus), clock=vm.kept["clock"])


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    vm.kept["clock"] = snapshot.clock


async def created(host: Host, vcpus: int, snapshot: Snapshot | None) -> Vm:
    """One vCPU after the other, each with its state, before the next exists."""
    vm = await host.create_vm()
    for index in range(vcpus):
        vcpu = await vm.create_vcpu()
        await vcpu.enable_kvmclock()
        if snapshot is not None:
            saved = snapshot.vcpus[index]
            if await vcpu.get_tsc_khz() != saved.tsc_khz:
                await vcpu.set_tsc_khz(saved.tsc_khz)
            await vcpu.set_msr(MSR_IA32_TSC, saved.tsc)
    return vm
