"""What Xen guests are shown: a wall clock in shared_info, and KVM's page once more at two places of each vCPU.

shared_info and the attributes of KVM_XEN_HVM_SET_ATTR exist since 5.12. Xen's timers and CPUID leaves are not modelled.
"""

from __future__ import annotations

from guestclock.arith import u32
from guestclock.kvm.model.x86.host import KvmHost
from guestclock.kvm.model.x86.requests import kick, masterclock_update_all
from guestclock.kvm.model.x86.state import SystemTimePage, VcpuTime, VmTime, XenWallClock
from guestclock.kvm.model.x86.tsc import NSEC_PER_SEC
from guestclock.sim import cp


async def kvm_xen_shared_info_init(vm: VmTime) -> None:
    """Writes Xen's wall clock, and asks every vCPU for a masterclock update: each that enters takes a new snapshot.

    Source: arch/x86/kvm/xen.c kvm_xen_shared_info_init().
    """
    kvm: KvmHost = vm.kvm
    vm.ioctls += 1
    if vm.xen_wall_clock is None:
        vm.xen_wall_clock = XenWallClock()
    page: XenWallClock = vm.xen_wall_clock
    epoch_ns = kvm.profile.wall_clock_epoch(vm)
    version = (page.version + 1) | 1  # concrete: a count
    page.version = u32(version)
    await cp("Xen wall clock: body")
    seconds = epoch_ns // NSEC_PER_SEC
    page.nsec = epoch_ns - seconds * NSEC_PER_SEC
    page.sec = u32(seconds)
    page.sec_hi = seconds >> 32
    await cp("Xen wall clock: even version")
    page.version = u32(version + 1)
    masterclock_update_all(vm)
    for vcpu in vm.vcpus:
        kick(vcpu)
    vm.ioctls -= 1


def register_time_pages(vcpu: VcpuTime) -> None:
    """KVM_XEN_VCPU_SET_ATTR of vcpu_info and of vcpu_time_info. They are written at the next KVM_RUN."""
    vcpu.xen_vcpu_info = SystemTimePage()
    vcpu.xen_vcpu_time_info = SystemTimePage()
    vcpu.req_clock_update = True
