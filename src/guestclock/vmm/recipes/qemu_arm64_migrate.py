"""QEMU on arm64, migration: the virtual counter as it was at stop, the physical one as it was when it was saved, later.

Every register KVM lists is written when the state is loaded, by the order of their ids, both counters among them; the
virtual counter once more at cont. So the physical one runs on from the loading, the virtual one from cont.
"""

from __future__ import annotations

from dataclasses import replace

from guestclock.kvm.api import Vm
from guestclock.vmm.recipes.qemu_arm64_stop_cont import pause, resume
from guestclock.vmm.registers import dumped, written
from guestclock.vmm.snapshot import Arm64Snapshot

ARCH = "arm64"
SEEN = "QEMU, target/arm/kvm.c (write_list_to_kvmstate, kvm_arm_cpu_pre_save and post_load) at dfc56946a700"
POLICY = {"cntvct": "freeze", "cntpct": "freeze"}
FIX = "arm64-by-offset-freeze: one offset for both counters and all vCPUs"

__all__ = ["pause", "restore", "resume", "save"]


async def save(vm: Vm) -> Arm64Snapshot:
    vcpus = []
    for vcpu in vm.vcpus:
        vcpus.append(replace(await dumped(vcpu), cntvct=vm.kept[f"kvm_vtime {vcpu.index}"]))  # kvm_arm_cpu_pre_save()
    return Arm64Snapshot(vcpus=tuple(vcpus))


async def restore(vm: Vm, snapshot: Arm64Snapshot) -> None:
    for vcpu, saved in zip(vm.vcpus, snapshot.vcpus, strict=True):
        await written(vcpu, saved, sorted(await vcpu.get_reg_list()))  # KVM_PUT_FULL_STATE
        vm.kept[f"kvm_vtime {vcpu.index}"] = saved.cntvct  # kvm_arm_cpu_post_load()
