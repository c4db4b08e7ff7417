"""Cloud Hypervisor, restore before #2653: the saved kvmclock is dropped on the way, the new VM keeps its own."""

from __future__ import annotations

from guestclock.kvm.api import Vm
from guestclock.vmm.recipes.cloud_hypervisor_restore import create, pause, restore, save

SEEN = "Cloud Hypervisor PR #2653, May 2021"
POLICY = {"tsc": "freeze", "kvmclock": "advance"}

__all__ = ["create", "pause", "restore", "resume", "save"]


async def resume(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.start()
