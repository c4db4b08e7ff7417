"""Firecracker, pause and resume: no clock is touched, all of them run on. The guest is told that it was stopped."""

from __future__ import annotations

from guestclock.kvm.api import Vm
from guestclock.vmm.recipes.firecracker_restore import pause

SEEN = "Firecracker, src/vmm/src/vstate/vcpu.rs, Aug 2026"
POLICY = {"tsc": "run", "kvmclock": "run"}

__all__ = ["pause", "resume"]


async def resume(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.start()
