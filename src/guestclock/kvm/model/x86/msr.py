"""MSRs about time: what the host and the guest read and write through them."""

from __future__ import annotations

from guestclock.abi.msr import (
    HV_X64_MSR_REFERENCE_TSC,
    HV_X64_MSR_TIME_REF_COUNT,
    HV_X64_MSR_TSC_FREQUENCY,
    MSR_AMD64_TSC_RATIO,
    MSR_IA32_TSC,
    MSR_IA32_TSC_ADJUST,
    MSR_IA32_TSC_DEADLINE,
    MSR_KVM_SYSTEM_TIME,
    SUSPEND_TIME_MSRS,
    SYSTEM_TIME_MSRS,
    WALL_CLOCK_MSRS,
)
from guestclock.abi.pvclock import PVCLOCK_TSC_STABLE_BIT
from guestclock.arith import s64, u64
from guestclock.errors import UserError
from guestclock.kvm.model.x86.host import KvmHost
from guestclock.kvm.model.x86.hyperv import write_reference_tsc
from guestclock.kvm.model.x86.kvmclock import get_time_ref_counter
from guestclock.kvm.model.x86.lapic_timer import get_deadline, set_deadline
from guestclock.kvm.model.x86.page import kvm_write_wall_clock
from guestclock.kvm.model.x86.profile import guest_tsc_write, system_time_write
from guestclock.kvm.model.x86.state import SystemTimePage, VcpuTime, VmTime, WallClockPage, with_page
from guestclock.kvm.model.x86.tsc import (
    adjust_tsc_offset_guest,
    compute_l1_tsc_offset,
    guest_tsc,
    l1_tsc_now,
    rdtsc,
    write_tsc,
)
from guestclock.sim import cp

HV_X64_MSR_TSC_EMULATION_CONTROL = 0x40000107  # from memory, not checked
HYPERV_MSRS = (
    HV_X64_MSR_REFERENCE_TSC,
    HV_X64_MSR_TIME_REF_COUNT,
    HV_X64_MSR_TSC_FREQUENCY,
    HV_X64_MSR_TSC_EMULATION_CONTROL,
)

_PAGE = 4096
_TSC_RATIO_BITS = 40


def system_time_gpa(index: int) -> int:
    """Where EnableKvmclock puts a vCPU's page in guest memory: where kvm.device has it too."""
    return 0x11000 + 0x2000 * index


async def set_msr(vcpu: VcpuTime, index: int, data: int, *, by_host: bool) -> bool:
    """kvm_set_msr_common(), for KVM_SET_MSRS (by_host) and the guest's WRMSR. False: refused (#GP, or 0 MSRs set)."""
    vm: VmTime = vcpu.vm
    kvm: KvmHost = vm.kvm
    if index == MSR_IA32_TSC:
        if by_host:
            await write_tsc(vcpu, data, "user")
        elif not vcpu.guest_tsc_protected:
            await kvm.profile.guest_tsc_write(vcpu, data)
    elif index == MSR_IA32_TSC_ADJUST:
        if not kvm.profile.tsc_adjust:
            return False
        if kvm.options.guest_tsc_adjust:
            if not by_host:
                adjust_tsc_offset_guest(vcpu, s64(data - vcpu.ia32_tsc_adjust_msr))
                vcpu.req_clock_update = True
            vcpu.ia32_tsc_adjust_msr = s64(data)
    elif index == MSR_IA32_TSC_DEADLINE:
        set_deadline(vcpu, data)
    elif index in SYSTEM_TIME_MSRS:
        kvm_write_system_time(vcpu, data, index == MSR_KVM_SYSTEM_TIME, by_host)
        await kvm.profile.system_time_write(vcpu, by_host)
    elif index in WALL_CLOCK_MSRS:
        vm.wall_clock = data
        if data != 0:
            await kvm_write_wall_clock(vm, _wall_clock_at(vm, data))
    elif index == HV_X64_MSR_REFERENCE_TSC and kvm.profile.hyperv:
        write_reference_tsc(vcpu, data, by_host)
    elif index == HV_X64_MSR_TSC_EMULATION_CONTROL and kvm.profile.hyperv:
        vm.hv_tsc_emulation_control = data != 0
    elif index in HYPERV_MSRS:
        return False  # read-only, or no such MSR here
    elif index == MSR_AMD64_TSC_RATIO:
        if kvm.machine.spec.tsc_scaling != "svm" or data >> _TSC_RATIO_BITS:
            return False
        vcpu.tsc_ratio_msr = data
    elif index in SUSPEND_TIME_MSRS and index == kvm.profile.suspend_time.msr:
        return bool(kvm.profile.suspend_time.set_msr(vcpu, data, by_host=by_host))
    else:
        raise _unknown(index)
    return True


def get_msr(vcpu: VcpuTime, index: int, *, by_host: bool) -> int | None:
    """kvm_get_msr_common(); u64. The TSC: L1's for the host; for the guest that of whatever runs, L1 or L2.

    None: this kernel has no such MSR (#GP, or 0 MSRs read).
    """
    vm: VmTime = vcpu.vm
    kvm: KvmHost = vm.kvm
    if index == MSR_IA32_TSC:
        host_tsc = rdtsc(vcpu)
        return l1_tsc_now(vcpu, host_tsc) if by_host else guest_tsc(vcpu, host_tsc)
    if index == MSR_IA32_TSC_ADJUST:
        return u64(vcpu.ia32_tsc_adjust_msr) if kvm.profile.tsc_adjust else None
    if index == MSR_IA32_TSC_DEADLINE:
        return get_deadline(vcpu, by_host=by_host)
    if index in SYSTEM_TIME_MSRS:
        return vcpu.time
    if index in WALL_CLOCK_MSRS:
        return vm.wall_clock
    if index in HYPERV_MSRS:
        return _get_hyperv(vcpu, index)
    if index == MSR_AMD64_TSC_RATIO:
        return vcpu.tsc_ratio_msr if kvm.machine.spec.tsc_scaling == "svm" else None
    if index in SUSPEND_TIME_MSRS and index == kvm.profile.suspend_time.msr:
        return vm.suspend.msr  # type: ignore[no-any-return]
    raise _unknown(index)


def _get_hyperv(vcpu: VcpuTime, index: int) -> int | None:
    vm: VmTime = vcpu.vm
    kvm: KvmHost = vm.kvm
    if not kvm.profile.hyperv:
        return None
    if index == HV_X64_MSR_REFERENCE_TSC:
        return vm.hv_tsc_page
    if index == HV_X64_MSR_TIME_REF_COUNT:
        return get_time_ref_counter(vm)
    if index == HV_X64_MSR_TSC_FREQUENCY:
        return vcpu.virtual_tsc_khz * 1000
    return int(vm.hv_tsc_emulation_control)  # concrete: a flag


def kvm_write_system_time(vcpu: VcpuTime, data: int, old_msr: bool, by_host: bool) -> None:
    """The page's address and whether it is active. It is first written at the next KVM_RUN.

    On vCPU 0, a guest that goes over to the old MSR (or back) asks for a masterclock update; a restore by the host not.
    Source: arch/x86/kvm/x86.c kvm_write_system_time().
    """
    vm: VmTime = vcpu.vm
    kvm: KvmHost = vm.kvm
    if vcpu.index == 0 and not by_host and kvm.profile.boot_vcpu_msr_matters:
        if vm.boot_vcpu_runs_old_kvmclock != old_msr:
            vcpu.req_masterclock_update = True
        vm.boot_vcpu_runs_old_kvmclock = old_msr
    vcpu.time = data
    kvm.profile.load_update(vcpu)
    vcpu.pv_time = _page_at(vm, data)


def _page_at(vm: VmTime, msr: int) -> SystemTimePage | None:
    """The page of an MSR value: None if bit 0 is clear, or if the 32 bytes would cross a page (KVM says nothing)."""
    gpa = msr & ~1  # concrete: an address
    if msr == gpa or gpa % _PAGE + 32 > _PAGE:  # concrete: an address
        return None
    page = vm.pages.get(gpa)
    if page is None:
        page = SystemTimePage()
        vm.pages = with_page(vm.pages, gpa, page)
    return page


def _wall_clock_at(vm: VmTime, gpa: int) -> WallClockPage:
    page = vm.wall_clock_pages.get(gpa)
    if page is None:
        page = WallClockPage()
        vm.wall_clock_pages = with_page(vm.wall_clock_pages, gpa, page)
    return page


def _unknown(index: int) -> UserError:
    return UserError(
        f"MSR {index:#x}: the model knows 0x10, 0x11, 0x12, 0x3b, 0x6e0, 0x4b564d00, 0x4b564d01, 0xc0000104"
        ", 0x40000020, 0x40000021, 0x40000022, 0x40000107"
    )


# ---- rules


@guest_tsc_write.rule(since="5.10", commit="0c899c25d754")
async def guest_write_adjusts(vcpu: VcpuTime, data: int) -> None:
    """P10: offset and TSC_ADJUST move; no matching, no generation, no page update: the page keeps its tsc_timestamp."""
    adjustment = u64(compute_l1_tsc_offset(vcpu, data) - vcpu.l1_tsc_offset)
    adjust_tsc_offset_guest(vcpu, adjustment)
    vcpu.ia32_tsc_adjust_msr = s64(vcpu.ia32_tsc_adjust_msr + adjustment)


@guest_tsc_write.rule(since="2.6.33")
async def guest_write_tracked_only(vcpu: VcpuTime, data: int) -> None:
    """As a write by the host; there is no TSC_ADJUST yet (up to 3.7)."""
    await write_tsc(vcpu, data, "guest")


@guest_tsc_write.rule(since="3.8", commit="ba904635d498")
async def guest_write_tracked(vcpu: VcpuTime, data: int) -> None:
    """As a write by the host: matching, generations; TSC_ADJUST follows (3.8 to 5.9)."""
    before = vcpu.l1_tsc_offset
    await write_tsc(vcpu, data, "guest")
    vcpu.ia32_tsc_adjust_msr = s64(vcpu.ia32_tsc_adjust_msr + vcpu.l1_tsc_offset - before)


@system_time_write.rule(since="2.6.33")
async def no_page_write(vcpu: VcpuTime, by_host: bool) -> None:
    """Nothing: the page is left for the next KVM_RUN."""


@system_time_write.rule(since="6.18", commit="kvm-pvm")
async def stable_cleared_by_host(vcpu: VcpuTime, by_host: bool) -> None:
    """If the host enables a page on vCPU 0 that says TSC_STABLE, KVM clears that flag at once; version + 2.

    Other vCPUs' pages are left alone, and so is vCPU 0's when the guest writes. Observed on a kvm-pvm host, 6.18; its
    source was not at hand.
    """
    page: SystemTimePage | None = vcpu.pv_time
    if not by_host or vcpu.index or page is None or not page.flags & PVCLOCK_TSC_STABLE_BIT:  # concrete: flags
        return
    version = (page.version + 1) | 1  # concrete: a count
    page.version = version & 0xFFFFFFFF  # concrete: a count
    await cp("system-time MSR: flags of the page")
    page.flags = page.flags & ~PVCLOCK_TSC_STABLE_BIT  # concrete: flags
    page.version = (version + 1) & 0xFFFFFFFF  # concrete: a count
