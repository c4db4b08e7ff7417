"""2010's easy assistance: the highest TSC that was saved is written to every vCPU.

It makes good for reading them one after the other; writing them one after the other is still left to KVM's guess.
"""

from __future__ import annotations

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.api import Vm
from guestclock.vmm.recipes.by_value_restore import save
from guestclock.vmm.snapshot import Snapshot

SEEN = "kvm list, 'Re: [PATCH 09/18] Robust TSC compensation', July 2010"
POLICY = {"tsc": "freeze", "kvmclock": "freeze"}

__all__ = ["restore", "save"]


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    highest = max(saved.tsc for saved in snapshot.vcpus)
    for vcpu in vm.vcpus:
        await vcpu.set_msr(MSR_IA32_TSC, highest)
    await vm.set_clock(snapshot.clock.clock_ns)
