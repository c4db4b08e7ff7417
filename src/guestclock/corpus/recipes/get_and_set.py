"""kvmclock is read and written back while the vCPUs are out, as in a stop that takes no time. The TSC runs on."""

from __future__ import annotations

from guestclock.kvm.api import Vm

SEEN = "every VMM's KVM_GET_CLOCK and KVM_SET_CLOCK"
POLICY = {"tsc": "run", "kvmclock": "freeze"}


async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()
    vm.kept["clock"] = await vm.get_clock()


async def resume(vm: Vm) -> None:
    await vm.set_clock(vm.kept["clock"].clock_ns)
    for vcpu in vm.vcpus:
        await vcpu.start()
