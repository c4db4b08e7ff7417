"""Cloud Hypervisor, restore before #8437, only what it does to TSCs: each vCPU is created and given its own."""

from __future__ import annotations

from guestclock.kvm.api import Host, Vm
from guestclock.vmm.recipes.by_value_restore import save as save_tscs
from guestclock.vmm.recipes.cloud_hypervisor_restore import created
from guestclock.vmm.snapshot import Snapshot, VcpuSnapshot

SEEN = "Cloud Hypervisor issue #8437"
POLICY = {"tsc": "freeze"}

__all__ = ["create", "restore", "save"]


async def create(host: Host, vcpus: int, snapshot: Snapshot | None) -> Vm:
    return await created(host, vcpus, snapshot)


async def save(vm: Vm) -> Snapshot:
    khz = [await vcpu.get_tsc_khz() for vcpu in vm.vcpus]
    saved = await save_tscs(vm)
    vcpus = [VcpuSnapshot(tsc=s.tsc, tsc_khz=k) for s, k in zip(saved.vcpus, khz, strict=True)]
    return Snapshot(vcpus=tuple(vcpus), clock=saved.clock)


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    """All has been done when the vCPUs were created."""
