"""2010's assistance that never was: all TSCs of a VM are stopped at one instant, and started again at one.

Asked for in the thread on "Robust TSC compensation" ("better would be to 'stop' the VCPUs"); no kernel has it, so this
is our own construction: no vCPU is in its guest while its TSC is stopped, an entry waits. Starting opens a generation
of which every vCPU is part, and takes a new masterclock snapshot before anybody may enter.
"""

from __future__ import annotations

from guestclock.arith import u64
from guestclock.kvm.model.x86.host import KvmHost
from guestclock.kvm.model.x86.hyperv import request_tsc_page_update
from guestclock.kvm.model.x86.masterclock import (
    kvm_end_pvclock_update,
    kvm_start_pvclock_update,
    pvclock_update_vm_gtod_copy,
)
from guestclock.kvm.model.x86.profile import TscWrite
from guestclock.kvm.model.x86.requests import all_out_of_guest, entries_allowed
from guestclock.kvm.model.x86.state import VcpuTime, VmTime
from guestclock.kvm.model.x86.tsc import read_l1_tsc, record_tsc_write


async def stop_all_tscs(vm: VmTime) -> int:
    """Stops them, with one read of the host's TSC, and answers vCPU 0's; cycles, u64. The VM has a vCPU."""
    kvm: KvmHost = vm.kvm
    vm.ioctls += 1
    vm.tscs_stopped = True
    await all_out_of_guest(vm)
    host_tsc = kvm.machine.rdtsc()
    for vcpu in vm.vcpus:
        vcpu.last_guest_tsc = read_l1_tsc(vcpu, host_tsc)
    entries_allowed(vm)
    vm.ioctls -= 1
    first: VcpuTime = vm.vcpus[0]
    return first.last_guest_tsc


async def start_all_tscs(vm: VmTime, tsc: int) -> None:
    """Lets all of them run on from `tsc`, with one read of the host's TSC."""
    kvm: KvmHost = vm.kvm
    vm.ioctls += 1
    request_tsc_page_update(vm)
    await kvm_start_pvclock_update(vm)
    host_tsc = kvm.machine.rdtsc()
    ns = u64(kvm.base_ns())
    vm.user_set_tsc = True
    for vcpu in vm.vcpus:
        offset = u64(tsc - kvm.scale(host_tsc, vcpu.l1_tsc_scaling_ratio))
        record_tsc_write(vcpu, TscWrite("user", tsc, offset, ns, 0), vcpu.index != 0)
    pvclock_update_vm_gtod_copy(vm)
    vm.tscs_stopped = False
    await kvm_end_pvclock_update(vm)
    vm.ioctls -= 1
