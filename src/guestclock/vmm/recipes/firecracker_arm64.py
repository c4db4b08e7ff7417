"""Firecracker on arm64, snapshot restore: every register that KVM lists, vCPU by vCPU, and so the counters by value.

At first boot the physical counter is set to 0 on vCPU 0, to hide the host's uptime, where KVM can (6.4). Both counters
go on from what the last vCPU had when it was saved.
"""

from __future__ import annotations

from guestclock.abi.arm64 import KVM_CAP_COUNTER_OFFSET, KVM_REG_ARM_PTIMER_CNT
from guestclock.kvm.api import Host, Vm
from guestclock.vmm.registers import dumped, written
from guestclock.vmm.snapshot import Arm64Snapshot

ARCH = "arm64"
SEEN = "Firecracker, src/vmm/src/arch/aarch64/vcpu.rs (save_state, restore_state), 81b38b9d, Aug 2026"
POLICY = {"cntvct": "freeze", "cntpct": "freeze"}
FIX = "arm64-by-offset-freeze: one offset for both counters and all vCPUs, worked out once"


async def create(host: Host, vcpus: int, snapshot: Arm64Snapshot | None) -> Vm:
    vm = await host.create_vm()
    for _ in range(vcpus):
        await vm.create_vcpu()
    if snapshot is None and await host.check_extension(KVM_CAP_COUNTER_OFFSET):
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_PTIMER_CNT, 0)
    return vm


async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()


async def save(vm: Vm) -> Arm64Snapshot:
    return Arm64Snapshot(vcpus=tuple([await dumped(vcpu) for vcpu in vm.vcpus]))


async def restore(vm: Vm, snapshot: Arm64Snapshot) -> None:
    for vcpu, saved in zip(vm.vcpus, snapshot.vcpus, strict=True):
        await written(vcpu, saved, await vcpu.get_reg_list())


async def resume(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.start()
