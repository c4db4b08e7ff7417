"""Cloud Hypervisor, restore before #7932: the vCPUs run, and then kvmclock is set.

Until then it is the new VM's own kvmclock, which began when that VM was made.
"""

from __future__ import annotations

from guestclock.kvm.api import Vm
from guestclock.vmm.recipes.cloud_hypervisor_restore import create, pause, restore, save

SEEN = "Cloud Hypervisor issue #7930, fixed by #7932, Mar 2026"
POLICY = {"tsc": "freeze", "kvmclock": "advance"}

__all__ = ["create", "pause", "restore", "resume", "save"]


async def resume(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.start()
    clock = vm.kept["clock"]
    await vm.set_clock(clock.clock_ns, clock.flags, clock.realtime_ns, clock.host_tsc)
