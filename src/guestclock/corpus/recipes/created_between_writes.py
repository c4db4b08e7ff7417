"""vCPU 0 gets its TSC before vCPU 1 exists; vCPU 1's creation is a write of 0, and KVM takes 0 for the last value."""

from __future__ import annotations

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.api import Host, Vm
from guestclock.vmm.recipes.by_value_restore import save
from guestclock.vmm.snapshot import Snapshot

SEEN = "arch/x86/kvm/x86.c __kvm_synchronize_tsc(), v6.12: last_tsc_write is what was written, not what came of it"
POLICY = {"tsc": "freeze"}

__all__ = ["create", "restore", "save"]


async def create(host: Host, vcpus: int, snapshot: Snapshot | None) -> Vm:
    vm = await host.create_vm()
    for index in range(vcpus):
        vcpu = await vm.create_vcpu()
        await vcpu.enable_kvmclock()
        if snapshot is not None:
            await vcpu.set_msr(MSR_IA32_TSC, snapshot.vcpus[index].tsc)
    return vm


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    await vm.set_clock(snapshot.clock.clock_ns)
