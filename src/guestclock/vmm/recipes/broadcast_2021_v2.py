"""2021's second proposal for arm64, which no kernel has: an offset attribute per counter, passed on to all vCPUs.

It is written on one vCPU while all are out, and holds for all. Written while another runs, that one goes on with what
it has loaded, until it is entered again: threads/2021-idempotent-arm64 shows it half-way.
"""

from __future__ import annotations

from guestclock.abi.arm64 import (
    KVM_ARM_VCPU_TIMER_CTRL,
    KVM_ARM_VCPU_TIMER_OFFSET_PTIMER,
    KVM_ARM_VCPU_TIMER_OFFSET_VTIMER,
)
from guestclock.kvm.api import Host, Vm
from guestclock.vmm.snapshot import Arm64Snapshot, Arm64VcpuSnapshot

ARCH = "arm64"
SEEN = "kvmarm list, '[PATCH v2 00/12] KVM: Add idempotent controls for migrating system counter state', 16 Jul 2021"
POLICY = {"cntvct": "advance", "cntpct": "advance"}
FIX = "arm64-by-offset: what came of it in 6.4: one offset for the VM, refused while a vCPU runs"


async def create(host: Host, vcpus: int, snapshot: Arm64Snapshot | None) -> Vm:
    vm = await host.create_vm()
    for _ in range(vcpus):
        await vm.create_vcpu()
    if snapshot is None:
        await give(vm, await host.read_clock("counter"))
    return vm


async def save(vm: Vm) -> Arm64Snapshot:
    """What was given, not what is read: v2's KVM_GET_DEVICE_ATTR answers one attribute with the other's offset."""
    return Arm64Snapshot(vcpus=tuple([Arm64VcpuSnapshot(offset=vm.kept["offset"]) for _ in vm.vcpus]))


async def restore(vm: Vm, snapshot: Arm64Snapshot) -> None:
    await give(vm, snapshot.vcpus[0].offset)


async def give(vm: Vm, offset: int) -> None:
    """Both counters', by way of vCPU 0."""
    first = vm.vcpus[0]
    await first.set_attr(KVM_ARM_VCPU_TIMER_CTRL, KVM_ARM_VCPU_TIMER_OFFSET_VTIMER, offset)
    await first.set_attr(KVM_ARM_VCPU_TIMER_CTRL, KVM_ARM_VCPU_TIMER_OFFSET_PTIMER, offset)
    vm.kept["offset"] = offset
