"""QEMU on x86, migration: TSCs by value as they were at stop, kvmclock by value as it was when it was saved, later.

The two are a pair only as far as nothing came between stop and save. Realtime and host TSC of KVM_GET_CLOCK are
dropped: the downtime is lost to the guest, by design. A guest that goes on where it was saved (savevm, a migration that
failed) goes on from the later clock too.
"""

from __future__ import annotations

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.api import Vm
from guestclock.vmm.snapshot import Snapshot, VcpuSnapshot

SEEN = "QEMU, hw/i386/kvm/clock.c (kvmclock_pre_save) and target/i386/kvm/kvm.c, Aug 2026"
POLICY = {"tsc": "freeze", "kvmclock": "freeze"}
FIX = "best-since-5.16: offsets and kvmclock come from one KVM_GET_CLOCK, before and after: they move together"


async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()
    vm.kept["tsc"] = [await vcpu.get_msr(MSR_IA32_TSC) for vcpu in vm.vcpus]  # kvm_synchronize_all_tsc()
    vm.kept["clock"] = await vm.get_clock()


async def save(vm: Vm) -> Snapshot:
    vcpus = tuple([VcpuSnapshot(tsc=tsc) for tsc in vm.kept["tsc"]])
    vm.kept["clock"] = await vm.get_clock()  # again: it was running when migration began
    return Snapshot(vcpus=vcpus, clock=vm.kept["clock"])


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    for vcpu, saved in zip(vm.vcpus, snapshot.vcpus, strict=True):
        await vcpu.set_msr(MSR_IA32_TSC, saved.tsc)
    vm.kept["clock"] = snapshot.clock


async def resume(vm: Vm) -> None:
    await vm.set_clock(vm.kept["clock"].clock_ns)
    for vcpu in vm.vcpus:
        await vcpu.kvmclock_ctrl()
    for vcpu in vm.vcpus:
        await vcpu.start()
