"""KVM_SET_CLOCK has just taken a snapshot: updates that are pending from before it are cleared (Zhang, Jan 2026)."""

from __future__ import annotations

from guestclock.kvm.model.x86.kernels import LINUX_6_12
from guestclock.kvm.model.x86.kvmclock import clock_at_new_snapshot
from guestclock.kvm.model.x86.state import VmTime


async def set_clock_and_clear(vm: VmTime, clock_ns: int, flags: int, realtime_ns: int) -> None:
    await clock_at_new_snapshot(vm, clock_ns, flags, realtime_ns)
    for vcpu in vm.vcpus:
        vcpu.req_masterclock_update = False


PROFILE = LINUX_6_12.but(
    name="linux-6.12+clear-pending-update",
    about="KVM_SET_CLOCK clears pending masterclock updates",
    set_clock=set_clock_and_clear,
)
