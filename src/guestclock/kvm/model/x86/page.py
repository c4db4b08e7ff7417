"""What a guest's system-time page is given, and how it is written under the version protocol."""

from __future__ import annotations

from dataclasses import replace

from guestclock.abi.pvclock import PVCLOCK_GUEST_STOPPED, PVCLOCK_TSC_STABLE_BIT
from guestclock.arith import kvm_get_time_scale, pvclock_scale_delta, s64, u32, u64
from guestclock.kvm.model.x86 import tracepoints
from guestclock.kvm.model.x86.host import KvmHost
from guestclock.kvm.model.x86.hyperv import setup_tsc_page
from guestclock.kvm.model.x86.profile import catchup, page_khz, page_ns, page_store, snapshot, write_pages
from guestclock.kvm.model.x86.state import SystemTimePage, VcpuTime, VmTime, WallClockPage
from guestclock.kvm.model.x86.tsc import NSEC_PER_SEC, adjust_tsc_offset_guest, rdtsc, read_l1_tsc
from guestclock.sim import cp


class KernelHang(Exception):
    """The kernel would not come back from this: a vCPU's thread is stuck in KVM_RUN and cannot be killed."""


# ---- what goes in: rules


@snapshot.rule(since="3.8", commit="d828199e8444")
def masterclock_snapshot(vm: VmTime) -> tuple[int, int] | None:
    """The masterclock's snapshot, if it is on."""
    return (vm.master_cycle_now, vm.master_kernel_ns) if vm.use_master_clock else None


@snapshot.rule(since="2.6.33")
def no_snapshot(vm: VmTime) -> tuple[int, int] | None:
    """None: each page is made from clocks read for it (up to 3.7)."""
    return None


@page_khz.rule(since="4.6")
def scaled_khz(vcpu: VcpuTime, khz: int) -> int:
    """The CPU's rate by the vCPU's ratio, truncated to whole kHz: 3 GHz * 5/6 is 2 499 999 kHz, 400 ns/s fast."""
    kvm: KvmHost = vcpu.vm.kvm
    return kvm.scale(khz, vcpu.l1_tsc_scaling_ratio)


@page_khz.rule(since="6.16", commit="4578a747f3c7")
def scaled_khz_at_least_1(vcpu: VcpuTime, khz: int) -> int:
    """As scaled_khz, but never 0, for which the kernel would compute a scale for ever."""
    return scaled_khz(vcpu, khz) or 1


@page_khz.rule(since="2.6.33")
def host_khz(vcpu: VcpuTime, khz: int) -> int:
    """The CPU's rate, whatever the guest's (before hardware scaled TSCs)."""
    return khz


@catchup.rule(since="2.6.37")
def to_snapshot(vcpu: VcpuTime, kernel_ns: int, tsc: int) -> int:
    """Brings the TSC forward to where it should have been at the page's instant; answers the page's TSC."""
    kvm: KvmHost = vcpu.vm.kvm
    return _forward(vcpu, kvm.profile.generation_tsc(vcpu, kernel_ns), tsc)


@catchup.rule(since="7.4 queue", commit="92fac63cc739")
def to_now(vcpu: VcpuTime, kernel_ns: int, tsc: int) -> int:
    """Brings the TSC forward to where it should be now, not at an old snapshot; answers the page's TSC.

    The queued text was not at hand: this reads both clocks once more and moves the page's TSC by the same amount.
    """
    kvm: KvmHost = vcpu.vm.kvm
    is_now = read_l1_tsc(vcpu, rdtsc(vcpu))
    wanted = kvm.profile.generation_tsc(vcpu, kvm.base_ns(vcpu.on_cpu))
    if wanted <= is_now:
        return tsc
    adjust_tsc_offset_guest(vcpu, u64(wanted - is_now))
    return u64(tsc + wanted - is_now)


def _forward(vcpu: VcpuTime, wanted: int, tsc: int) -> int:
    if wanted <= tsc:
        return tsc
    adjust_tsc_offset_guest(vcpu, u64(wanted - tsc))
    return wanted


@page_ns.rule(since="3.8")
def as_read(vcpu: VcpuTime, kernel_ns: int, tsc: int) -> int:
    """The base clock's reading as it is."""
    return kernel_ns


@page_ns.rule(since="2.6.37", commit="1d5f066e0b63")
def never_behind_the_guest(vcpu: VcpuTime, kernel_ns: int, tsc: int) -> int:
    """Not before what the guest can have read by its last exit from its last page."""
    if vcpu.page_tsc_timestamp == 0:
        return kernel_ns
    delta = u64(vcpu.last_guest_tsc - vcpu.page_tsc_timestamp)
    seen = s64(pvclock_scale_delta(delta, vcpu.pvclock_tsc_mul, vcpu.pvclock_tsc_shift) + vcpu.last_kernel_ns)
    return seen if seen > kernel_ns else kernel_ns


# ---- the update


async def kvm_guest_time_update(vcpu: VcpuTime) -> bool:
    """Serves KVM_REQ_CLOCK_UPDATE: a new page for this vCPU. False: the CPU's rate is not known, it shall be retried.

    Source: arch/x86/kvm/x86.c kvm_guest_time_update().
    """
    vm: VmTime = vcpu.vm
    kvm: KvmHost = vm.kvm
    profile = kvm.profile
    khz = kvm.machine.cpu_khz(vcpu.on_cpu)
    if khz == 0:
        vcpu.req_clock_update = True
        return False
    snapshot = profile.snapshot(vm)
    await cp("kvm_guest_time_update")  # only the snapshot is read under the seqcount; kvmclock_offset is read later
    if snapshot is not None:
        host_tsc, kernel_ns = snapshot
    else:
        host_tsc = rdtsc(vcpu)
        kernel_ns = kvm.base_ns(vcpu.on_cpu)
    tsc = read_l1_tsc(vcpu, host_tsc)
    if vcpu.tsc_catchup:
        tsc = profile.catchup(vcpu, kernel_ns, tsc)
    kernel_ns = profile.page_ns(vcpu, kernel_ns, tsc)
    khz = profile.page_khz(vcpu, khz)
    if vcpu.hw_tsc_khz != khz:
        try:
            vcpu.pvclock_tsc_shift, vcpu.pvclock_tsc_mul = kvm_get_time_scale(NSEC_PER_SEC, khz * 1000)
        except ValueError:
            raise KernelHang(
                f"kvm_get_time_scale() never ends for a page of {khz} kHz: the vCPU hangs in KVM_RUN"
            ) from None
        vcpu.hw_tsc_khz = khz
    system_time = u64(kernel_ns + vm.kvmclock_offset)
    vcpu.last_guest_tsc = tsc
    vcpu.last_kernel_ns = kernel_ns
    vcpu.page_tsc_timestamp = tsc
    flags = 0 if snapshot is None else PVCLOCK_TSC_STABLE_BIT
    await profile.write_pages(vcpu, tsc, system_time, flags)
    return True


@write_pages.rule(since="2.6.33")
async def kvm_xen_hyperv(vcpu: VcpuTime, tsc: int, system_time: int, flags: int) -> None:
    """KVM's page, Xen's two, Hyper-V's. GUEST_STOPPED of a page is in all that follow: it leaks to Xen (to 6.14).

    Where Xen's pages shall not say TSC_STABLE, the tracepoint says it all the same.
    """
    kvm: KvmHost = vcpu.vm.kvm
    store = kvm.profile.page_store
    shown = flags
    if vcpu.pv_time is not None:
        shown = await store(vcpu, vcpu.pv_time, tsc, system_time, shown)
    for page in (vcpu.xen_vcpu_info, vcpu.xen_vcpu_time_info):
        if page is not None:
            shown = await store(vcpu, page, tsc, system_time, shown)
    await _hyperv_page(vcpu, tsc, system_time, flags)


@write_pages.rule(since="6.15")
async def kvm_hyperv_xen(vcpu: VcpuTime, tsc: int, system_time: int, flags: int) -> None:
    """KVM's page, Hyper-V's, Xen's two; GUEST_STOPPED is for KVM's alone, and TSC_STABLE is masked before Xen's."""
    kvm: KvmHost = vcpu.vm.kvm
    store = kvm.profile.page_store
    if vcpu.pv_time is not None:
        await store(vcpu, vcpu.pv_time, tsc, system_time, flags)
    await _hyperv_page(vcpu, tsc, system_time, flags)
    if kvm.options.xen_pvclock_tsc_unstable:
        flags &= ~PVCLOCK_TSC_STABLE_BIT
    for page in (vcpu.xen_vcpu_info, vcpu.xen_vcpu_time_info):
        if page is not None:
            await store(vcpu, page, tsc, system_time, flags)


async def _hyperv_page(vcpu: VcpuTime, tsc: int, system_time: int, flags: int) -> None:
    stable = flags != 0
    await setup_tsc_page(vcpu.vm, tsc, system_time, vcpu.pvclock_tsc_mul, vcpu.pvclock_tsc_shift, stable)


@page_store.rule(since="2.6.33")
async def stored_at_once(vcpu: VcpuTime, page: SystemTimePage, tsc: int, system_time: int, flags: int) -> int:
    """One copy of all 32 bytes; the version goes on from the host's own copy, always even."""
    vcpu.page_version = u32(vcpu.page_version + 2)
    flags = _stopped(vcpu, page, flags)
    page.tsc_timestamp = tsc
    _store_rest(vcpu, page, system_time, flags)
    page.version = vcpu.page_version
    return flags


@page_store.rule(since="3.19", commit="48434c20e18d")
async def stored_by_version_protocol(
    vcpu: VcpuTime, page: SystemTimePage, tsc: int, system_time: int, flags: int
) -> int:
    """Writes one page: odd version, tsc_timestamp, the rest, even version. GUEST_STOPPED stays until the guest clears
    it.

    The version goes on from what stands in guest memory. The kernel's body is one memcpy, which is many stores to all
    others: a reader on another vCPU, or the VMM, may look between tsc_timestamp and the rest, and before the even
    version. The odd version has no step of its own: who looks between it and tsc_timestamp sees the old page, and so he
    does before it.
    Source: arch/x86/kvm/x86.c kvm_setup_guest_pvclock().
    """
    version = u32((page.version + 1) | 1)  # concrete: a count
    page.version = version
    flags = _stopped(vcpu, page, flags)
    page.tsc_timestamp = tsc
    await cp("pvclock page: body")
    _store_rest(vcpu, page, system_time, flags)
    await cp("pvclock page: even version")
    page.version = u32(version + 1)
    kvm: KvmHost = vcpu.vm.kvm
    if kvm.emit is not None:
        told = replace(page.copy(), flags=flags)
        kvm.trace("kvm_pvclock_update", vcpu.index, tracepoints.kvm_pvclock_update(vcpu.index, told))
    return flags


def _stopped(vcpu: VcpuTime, page: SystemTimePage, flags: int) -> int:
    flags |= page.flags & PVCLOCK_GUEST_STOPPED  # concrete: flags
    if vcpu.pvclock_set_guest_stopped_request:
        flags |= PVCLOCK_GUEST_STOPPED
        vcpu.pvclock_set_guest_stopped_request = False
        kvm: KvmHost = vcpu.vm.kvm
        kvm.profile.suspend_time.stopped_told(vcpu)
    return flags


def _store_rest(vcpu: VcpuTime, page: SystemTimePage, system_time: int, flags: int) -> None:
    """All but tsc_timestamp and version."""
    page.system_time = system_time
    page.tsc_to_system_mul = vcpu.pvclock_tsc_mul
    page.tsc_shift = vcpu.pvclock_tsc_shift
    kvm: KvmHost = vcpu.vm.kvm
    if kvm.options.xen_pvclock_tsc_unstable and page is not vcpu.pv_time:
        flags &= ~PVCLOCK_TSC_STABLE_BIT
    page.flags = flags


async def kvm_write_wall_clock(vm: VmTime, page: WallClockPage) -> None:
    """Writes the epoch at once, at the MSR's write; a restore of the MSR computes it anew.

    Source: arch/x86/kvm/x86.c kvm_write_wall_clock().
    """
    kvm: KvmHost = vm.kvm
    version = page.version + (2 if page.version & 1 else 1)  # concrete: a count
    page.version = u32(version)
    await cp("wall clock: body")
    epoch_ns = kvm.profile.wall_clock_epoch(vm)
    page.sec = u32(epoch_ns // NSEC_PER_SEC)
    page.nsec = epoch_ns - epoch_ns // NSEC_PER_SEC * NSEC_PER_SEC
    await cp("wall clock: even version")
    page.version = u32(version + 1)
