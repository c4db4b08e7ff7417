"""QEMU on arm64, stop and cont: the virtual counter stands still, the physical one runs on.

Each vCPU's is read at stop, the last vCPU's first, and written at cont in order, so that what stays is the one that was
read first and written last: the least late of them. kvm-no-adjvtime=on would leave it alone. A guest that compares its
two counters sees them part by the pause.
"""

from __future__ import annotations

from guestclock.abi.arm64 import KVM_REG_ARM_TIMER_CNT
from guestclock.kvm.api import Vm

ARCH = "arm64"
SEEN = "QEMU, target/arm/kvm.c (kvm_arm_vm_state_change) at dfc56946a700; docs/system/arm/cpu-features.rst"
POLICY = {"cntvct": "freeze", "cntpct": "run"}
FIX = "crosvm-arm64-suspend-resume: one offset for both counters, worked out from the host's own"


async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()
    for vcpu in vm.vcpus[::-1]:  # stop notifiers run in reverse
        vm.kept[f"kvm_vtime {vcpu.index}"] = await vcpu.get_one_reg(KVM_REG_ARM_TIMER_CNT)


async def resume(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CNT, vm.kept[f"kvm_vtime {vcpu.index}"])
    for vcpu in vm.vcpus:
        await vcpu.start()
