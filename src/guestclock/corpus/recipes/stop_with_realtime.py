"""A guest is stopped for a while, and KVM is asked to add that time to kvmclock: TSC and kvmclock stay a pair."""

from __future__ import annotations

from guestclock.abi.ioctl import KVM_CLOCK_REALTIME
from guestclock.kvm.api import Vm
from guestclock.vmm.recipes.qemu_stop_cont import pause

SEEN = "KVM_CLOCK_REALTIME, 5.16 (c68dc1b577ea)"
POLICY = {"tsc": "run", "kvmclock": "advance"}

__all__ = ["pause", "resume"]


async def resume(vm: Vm) -> None:
    clock = vm.kept["clock"]
    await vm.set_clock(clock.clock_ns, KVM_CLOCK_REALTIME, clock.realtime_ns)
    for vcpu in vm.vcpus:
        await vcpu.start()
