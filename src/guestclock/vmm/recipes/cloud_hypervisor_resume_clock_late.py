"""Cloud Hypervisor, resume before #7930 was fixed: the clock is set when the vCPUs run already.

The guest first sees kvmclock where it ran on to, then a clock that is set under its feet.
"""

from __future__ import annotations

from guestclock.kvm.api import Vm
from guestclock.vmm.recipes.cloud_hypervisor_pause_resume import pause

SEEN = "Cloud Hypervisor issues #7930 to #7933"
POLICY = {"tsc": "run", "kvmclock": "advance"}

__all__ = ["pause", "resume"]


async def resume(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.start()
    clock = vm.kept["clock"]
    await vm.set_clock(clock.clock_ns, clock.flags, clock.realtime_ns, clock.host_tsc)
