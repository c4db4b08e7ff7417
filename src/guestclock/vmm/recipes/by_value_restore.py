"""The plainest restore: every vCPU's TSC by value, one after the other, then kvmclock by value.

What is saved was read one vCPU after the other, too. Nothing ties anything to anything.
"""

from __future__ import annotations

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.api import Vm
from guestclock.vmm.snapshot import Snapshot, VcpuSnapshot

SEEN = "every VMM before KVM_VCPU_TSC_OFFSET (5.16), and most since"
POLICY = {"tsc": "freeze", "kvmclock": "freeze"}
FIX = "offset-restore: the offset, not the value: KVM need not guess what was meant"


async def save(vm: Vm) -> Snapshot:
    vcpus = [VcpuSnapshot(tsc=await vcpu.get_msr(MSR_IA32_TSC)) for vcpu in vm.vcpus]
    return Snapshot(vcpus=tuple(vcpus), clock=await vm.get_clock())


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    for vcpu, saved in zip(vm.vcpus, snapshot.vcpus, strict=True):
        await vcpu.set_msr(MSR_IA32_TSC, saved.tsc)
    await vm.set_clock(snapshot.clock.clock_ns)
