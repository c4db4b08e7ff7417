"""arm64's plainest restore: the counters by value, one vCPU after the other, as whoever goes through KVM's list does.

Each write sets the whole VM's offset, so the last one is what stays: late by what passed since that value was read.
Before 6.4 KVM has no physical counter to save, and the guest's runs on.
"""

from __future__ import annotations

from guestclock.abi.arm64 import KVM_REG_ARM_PTIMER_CNT, KVM_REG_ARM_TIMER_CNT
from guestclock.kvm.api import Vcpu, Vm
from guestclock.vmm.registers import written
from guestclock.vmm.snapshot import Arm64Snapshot, Arm64VcpuSnapshot

ARCH = "arm64"
SEEN = "every VMM that dumps and restores KVM_GET_REG_LIST without looking"
POLICY = {"cntvct": "freeze", "cntpct": "freeze"}
FIX = (
    "arm64-by-offset-freeze: one offset for both counters and all vCPUs, worked out once; written late, it is no other"
)

COUNTERS = (KVM_REG_ARM_TIMER_CNT, KVM_REG_ARM_PTIMER_CNT)


async def save(vm: Vm) -> Arm64Snapshot:
    return Arm64Snapshot(vcpus=tuple([await counters(vcpu) for vcpu in vm.vcpus]))


async def restore(vm: Vm, snapshot: Arm64Snapshot) -> None:
    for vcpu, saved in zip(vm.vcpus, snapshot.vcpus, strict=True):
        await written(vcpu, saved, COUNTERS)


async def counters(vcpu: Vcpu) -> Arm64VcpuSnapshot:
    has_physical = KVM_REG_ARM_PTIMER_CNT in await vcpu.get_reg_list()
    return Arm64VcpuSnapshot(
        cntvct=await vcpu.get_one_reg(KVM_REG_ARM_TIMER_CNT),
        cntpct=await vcpu.get_one_reg(KVM_REG_ARM_PTIMER_CNT) if has_physical else None,
    )
