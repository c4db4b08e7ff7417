"""A migration's destination: TSCs by value, then kvmclock; the vCPU whose TSC was written second runs first."""

from __future__ import annotations

from guestclock.kvm.api import Vm
from guestclock.vmm.recipes.by_value_restore import restore, save

SEEN = "kvm list, Jan 2026, D. Zhang: KVM_REQ_MASTERCLOCK_UPDATE is still pending after KVM_SET_CLOCK's snapshot"
POLICY = {"tsc": "freeze", "kvmclock": "freeze"}

__all__ = ["restore", "resume", "save"]


async def resume(vm: Vm) -> None:
    for vcpu in vm.vcpus[::-1]:
        await vcpu.start()
