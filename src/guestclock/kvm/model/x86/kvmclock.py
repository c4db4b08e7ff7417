"""The three kvmclocks, and KVM_GET_CLOCK and KVM_SET_CLOCK.

A: without a masterclock, the base clock plus an offset. B: what a guest computes from its page and its TSC. C: what
the host computes from the masterclock's snapshot and its own TSC. A and C drift apart, because the host's clocksource
rounds its scale and the page truncates it; B and C differ where the guest's TSC is scaled.
"""

from __future__ import annotations

from guestclock.abi.pvclock import PvclockVcpuTimeInfo
from guestclock.arith import hv_ref_time, kvm_get_time_scale, pvclock_scale_delta, s64, u64
from guestclock.kvm.api import ClockData
from guestclock.kvm.model.x86.host import KvmHost
from guestclock.kvm.model.x86.hyperv import request_tsc_page_update
from guestclock.kvm.model.x86.masterclock import (
    kvm_end_pvclock_update,
    kvm_start_pvclock_update,
    kvm_update_masterclock,
    pvclock_update_vm_gtod_copy,
)
from guestclock.kvm.model.x86.profile import get_clock, guest_kvmclock, set_clock, wall_clock_epoch
from guestclock.kvm.model.x86.requests import clock_update_all
from guestclock.kvm.model.x86.state import VcpuTime, VmTime
from guestclock.kvm.model.x86.tsc import NSEC_PER_SEC, rdtsc, read_l1_tsc
from guestclock.sim import cp

KVM_CLOCK_TSC_STABLE = 2
KVM_CLOCK_REALTIME = 4
KVM_CLOCK_HOST_TSC = 8


# ---- the three clocks


def kvmclock_a(vm: VmTime) -> int:
    """Definition A, now: base clock + kvmclock_offset; ns, u64."""
    kvm: KvmHost = vm.kvm
    return u64(kvm.base_ns() + vm.kvmclock_offset)


def kvmclock_b(page: PvclockVcpuTimeInfo, tsc: int) -> int:
    """Definition B: what a guest with this page reads when its TSC is `tsc`; ns, u64. No check of the sign."""
    delta = u64(tsc - page.tsc_timestamp)
    return u64(page.system_time + pvclock_scale_delta(delta, page.tsc_to_system_mul, page.tsc_shift))


@guest_kvmclock.rule(since="4.9", commit="108b249c453d")
def kvmclock_c(vm: VmTime, host_tsc: int) -> int:
    """Definition C: from the snapshot to `host_tsc` at the host's own rate; ns, u64."""
    kvm: KvmHost = vm.kvm
    shift, mul = kvm_get_time_scale(NSEC_PER_SEC, kvm.machine.cpu_khz(0) * 1000)
    delta = u64(host_tsc - vm.master_cycle_now)
    return u64(vm.master_kernel_ns + vm.kvmclock_offset + pvclock_scale_delta(delta, mul, shift))


@guest_kvmclock.rule(since="7.4 queue", commit="abdef42276d8")
def kvmclock_c_by_guest_scale(vm: VmTime, host_tsc: int) -> int:
    """Definition C as the guest computes it: both TSCs scaled like vCPU 0's, and that vCPU's page rate.

    The queued text was not at hand: this is our own construction of what its title asks for.
    """
    kvm: KvmHost = vm.kvm
    if not vm.vcpus:
        return kvmclock_c(vm, host_tsc)
    vcpu: VcpuTime = vm.vcpus[0]
    ratio = vcpu.l1_tsc_scaling_ratio
    shift, mul = kvm_get_time_scale(NSEC_PER_SEC, kvm.profile.page_khz(vcpu, kvm.machine.cpu_khz(0)) * 1000)
    delta = u64(kvm.scale(host_tsc, ratio) - kvm.scale(vm.master_cycle_now, ratio))
    return u64(vm.master_kernel_ns + vm.kvmclock_offset + pvclock_scale_delta(delta, mul, shift))


def get_kvmclock_ns(vm: VmTime) -> int:
    """C with a masterclock (and a CPU whose rate is known), else A; ns, u64."""
    kvm: KvmHost = vm.kvm
    if vm.use_master_clock and kvm.machine.cpu_khz(0) != 0:
        return kvm.profile.guest_kvmclock(vm, kvm.machine.rdtsc())
    return kvmclock_a(vm)


def get_time_ref_counter(vm: VmTime) -> int:
    """HV_X64_MSR_TIME_REF_COUNT, 100 ns units, u64: by the page and vCPU 0's TSC, or without a page by kvmclock.

    Source: arch/x86/kvm/hyperv.c get_time_ref_counter().
    """
    if vm.hv_tsc_page_status != "set":
        return get_kvmclock_ns(vm) // 100
    first: VcpuTime = vm.vcpus[0]
    return hv_ref_time(read_l1_tsc(first, rdtsc(first)), vm.hv_scale, vm.hv_offset)


# ---- KVM_GET_CLOCK


@get_clock.rule(since="2.6.33", commit="afbcf7ab8d1b")
def clock_by_base(vm: VmTime) -> ClockData:
    """Definition A, whatever the guest reads; no flags."""
    return ClockData(kvmclock_a(vm), 0)


@get_clock.rule(since="4.9", commit="108b249c453d")
def clock_by_masterclock(vm: VmTime) -> ClockData:
    """Definition C, and flag 2, while there is a masterclock."""
    return ClockData(get_kvmclock_ns(vm), KVM_CLOCK_TSC_STABLE if vm.use_master_clock else 0)


@get_clock.rule(since="5.16", commit="c68dc1b577ea")
def clock_with_realtime(vm: VmTime) -> ClockData:
    """Definition C with the (host TSC, REALTIME) of the same instant, while there is a masterclock."""
    kvm: KvmHost = vm.kvm
    if not vm.use_master_clock or kvm.machine.cpu_khz(0) == 0:
        return ClockData(kvmclock_a(vm), 0)
    read = kvm.machine.get_realtime_and_clockread()
    if read is None:
        host_tsc = kvm.machine.rdtsc()
        return ClockData(kvm.profile.guest_kvmclock(vm, host_tsc), KVM_CLOCK_TSC_STABLE, 0, host_tsc)
    realtime_ns, host_tsc = read
    flags = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC
    return ClockData(kvm.profile.guest_kvmclock(vm, host_tsc), flags, realtime_ns, host_tsc)


# ---- KVM_SET_CLOCK


@set_clock.rule(since="2.6.33", commit="afbcf7ab8d1b")
async def offset_from_base(vm: VmTime, clock_ns: int, flags: int, realtime_ns: int) -> None:
    """The offset that makes definition A the value now; pages show it at their next update."""
    kvm: KvmHost = vm.kvm
    vm.kvmclock_offset = s64(clock_ns - kvm.base_ns())


@set_clock.rule(since="3.8", commit="d828199e8444")
async def offset_from_base_then_snapshot(vm: VmTime, clock_ns: int, flags: int, realtime_ns: int) -> None:
    """The offset that makes definition A the value now, then a new snapshot."""
    await offset_from_base(vm, clock_ns, flags, realtime_ns)
    await _new_snapshot(vm)


@set_clock.rule(since="4.12", commit="0bc48bea36d1")
async def offset_after_snapshot(vm: VmTime, clock_ns: int, flags: int, realtime_ns: int) -> None:
    """A new snapshot, then the offset is moved by what get_kvmclock_ns() is off, and all pages are asked for again."""
    await _new_snapshot(vm)
    await cp("KVM_SET_CLOCK: offset")
    vm.kvmclock_offset = s64(vm.kvmclock_offset + clock_ns - get_kvmclock_ns(vm))
    clock_update_all(vm)


@set_clock.rule(since="5.12", commit="77fcbe823f00")
async def offset_from_snapshot(vm: VmTime, clock_ns: int, flags: int, realtime_ns: int) -> None:
    """A new snapshot, then the offset from it, so that a small kvmclock cannot come out negative."""
    kvm: KvmHost = vm.kvm
    await _new_snapshot(vm)
    await cp("KVM_SET_CLOCK: offset")
    vm.kvmclock_offset = s64(clock_ns - (vm.master_kernel_ns if vm.use_master_clock else kvm.base_ns()))
    clock_update_all(vm)


async def _new_snapshot(vm: VmTime) -> None:
    vm.ioctls += 1
    await kvm_update_masterclock(vm)
    vm.ioctls -= 1


@set_clock.rule(since="5.16", commit="c68dc1b577ea")
async def clock_at_new_snapshot(vm: VmTime, clock_ns: int, flags: int, realtime_ns: int) -> None:
    """A new snapshot, then the offset that makes kvmclock the value at the snapshot's instant.

    With REALTIME the value is moved on by how far the host's REALTIME is ahead; never backwards.
    """
    kvm: KvmHost = vm.kvm
    vm.ioctls += 1
    request_tsc_page_update(vm)
    await kvm_start_pvclock_update(vm)
    pvclock_update_vm_gtod_copy(vm)
    if flags & KVM_CLOCK_REALTIME:
        now_ns = kvm.machine.ktime_get_real_ns()
        if now_ns > realtime_ns:
            clock_ns = u64(clock_ns + now_ns - realtime_ns)
    base_ns = vm.master_kernel_ns if vm.use_master_clock else kvm.base_ns()
    vm.kvmclock_offset = s64(clock_ns - base_ns)
    await kvm_end_pvclock_update(vm)
    vm.ioctls -= 1


# ---- the wall clock: realtime when kvmclock was 0


@wall_clock_epoch.rule(since="6.7", commit="5d6d6a7d7e66")
def epoch_of_one_read(vm: VmTime) -> int:
    """REALTIME less kvmclock (C) at one TSC read, while there is a masterclock; ns."""
    kvm: KvmHost = vm.kvm
    if vm.use_master_clock and kvm.machine.cpu_khz(0) != 0:
        read = kvm.machine.get_realtime_and_clockread()
        if read is not None:
            realtime_ns, host_tsc = read
            return u64(realtime_ns - kvm.profile.guest_kvmclock(vm, host_tsc))
    return epoch_of_two_reads(vm)


@wall_clock_epoch.rule(since="5.5", commit="53fafdbb8b21")
def epoch_of_two_reads(vm: VmTime) -> int:
    """REALTIME less kvmclock, read one after the other; ns."""
    kvm: KvmHost = vm.kvm
    realtime_ns = kvm.machine.ktime_get_real_ns()
    return u64(realtime_ns - get_kvmclock_ns(vm))


@wall_clock_epoch.rule(since="3.6", commit="4b648665651c")
def epoch_of_host_boot_less_offset(vm: VmTime) -> int:
    """The host's REALTIME at boot less kvmclock_offset: no clock but REALTIME's own offset is read; ns.

    Its commit is from memory, not checked.
    """
    return u64(epoch_of_host_boot(vm) - vm.kvmclock_offset)


@wall_clock_epoch.rule(since="2.6.33")
def epoch_of_host_boot(vm: VmTime) -> int:
    """The host's REALTIME at boot, ns: a guest is behind by the host's uptime when the VM was made (to 3.5)."""
    kvm: KvmHost = vm.kvm
    return u64(kvm.machine.timekeeper.offs_real_ns - kvm.machine.timekeeper.offs_boot_ns)
