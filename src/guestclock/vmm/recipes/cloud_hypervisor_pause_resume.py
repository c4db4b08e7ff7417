"""Cloud Hypervisor, pause and resume: kvmclock is written back and moved on by the pause, the TSC just runs on.

KVM adds the pause by the wall clock, so the two part by what the wall clock was stepped meanwhile.
KVM_KVMCLOCK_CTRL is asked for while the vCPUs are on their way out; it waits for each.
"""

from __future__ import annotations

from guestclock.abi.ioctl import KVM_CLOCK_REALTIME
from guestclock.kvm.api import ClockData, Host, Vm

SEEN = "Cloud Hypervisor, vmm/src/vm.rs, vmm/src/cpu.rs and hypervisor/src/lib.rs, Aug 2026"
POLICY = {"tsc": "run", "kvmclock": "advance"}


async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()
    for vcpu in vm.vcpus:
        await vcpu.kvmclock_ctrl()
    vm.kept["clock"] = await with_realtime_filled(await vm.get_clock())


async def resume(vm: Vm) -> None:
    clock = vm.kept["clock"]
    await vm.set_clock(clock.clock_ns, clock.flags, clock.realtime_ns, clock.host_tsc)
    for vcpu in vm.vcpus:
        await vcpu.start()


async def with_realtime_filled(clock: ClockData) -> ClockData:
    """The host's wall clock as read afterwards, where KVM gave none with the guest's."""
    if clock.flags & KVM_CLOCK_REALTIME:
        return clock
    realtime_ns = await Host().read_clock("realtime")
    return ClockData(clock.clock_ns, clock.flags | KVM_CLOCK_REALTIME, realtime_ns, clock.host_tsc)
