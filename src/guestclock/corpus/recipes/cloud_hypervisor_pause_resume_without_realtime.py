"""Cloud Hypervisor, pause and resume before #8256: the flag that tells KVM to add the pause was reset."""

from __future__ import annotations

from guestclock.kvm.api import Vm
from guestclock.vmm.recipes.cloud_hypervisor_pause_resume import pause

SEEN = "Cloud Hypervisor PR #8256, May 2026 (reset_flags())"
POLICY = {"tsc": "run", "kvmclock": "advance"}

__all__ = ["pause", "resume"]


async def resume(vm: Vm) -> None:
    await vm.set_clock(vm.kept["clock"].clock_ns)
    for vcpu in vm.vcpus:
        await vcpu.start()
