"""By value, and what was missed is added: the VMM reads the wall clock, works out each value, and writes it.

Between reading and writing it can be preempted; that time is lost to the guest, and nobody knows (thread of 2021).
"""

from __future__ import annotations

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.api import Host, Vm
from guestclock.vmm.snapshot import Snapshot, VcpuSnapshot

SEEN = "kvm list, 'KVM: Add idempotent controls for migrating system counter state', July 2021"
POLICY = {"tsc": "advance", "kvmclock": "advance"}


async def save(vm: Vm) -> Snapshot:
    realtime_ns = await Host().read_clock("realtime")
    vcpus = []
    for vcpu in vm.vcpus:
        tsc = await vcpu.get_msr(MSR_IA32_TSC)
        vcpus.append(VcpuSnapshot(tsc=tsc, tsc_khz=await vcpu.get_tsc_khz()))
    return Snapshot(vcpus=tuple(vcpus), clock=await vm.get_clock(), realtime_ns=realtime_ns)


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    missed_ns = await Host().read_clock("realtime") - snapshot.realtime_ns
    for vcpu, saved in zip(vm.vcpus, snapshot.vcpus, strict=True):
        await vcpu.set_msr(MSR_IA32_TSC, saved.tsc + missed_ns * saved.tsc_khz // 1_000_000)
    await vm.set_clock(snapshot.clock.clock_ns + missed_ns)
