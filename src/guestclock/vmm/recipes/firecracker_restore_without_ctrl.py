"""Firecracker, snapshot restore before #5494: the guest is not told that it was stopped.

Its watchdogs take the pause for a lockup. The clocks are those of firecracker-restore; only GUEST_STOPPED is missing.
"""

from __future__ import annotations

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.api import Vm
from guestclock.vmm.recipes.firecracker_restore import save
from guestclock.vmm.snapshot import Snapshot

SEEN = "Firecracker issue #5322, fixed by #5494"
POLICY = {"tsc": "freeze", "kvmclock": "freeze"}

__all__ = ["restore", "save"]


async def restore(vm: Vm, snapshot: Snapshot) -> None:
    for vcpu, saved in zip(vm.vcpus, snapshot.vcpus, strict=True):
        await vcpu.set_msr(MSR_IA32_TSC, saved.tsc)
    await vm.set_clock(snapshot.clock.clock_ns)
