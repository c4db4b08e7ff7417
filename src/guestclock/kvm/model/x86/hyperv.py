"""Hyper-V's reference time, in units of 100 ns: the reference TSC page and the counter MSR.

One page per VM: a straight line over the guest's TSC, made from the page of whichever vCPU is updated first after a
change. KVM writes it once per change; while it writes, and when it cannot, the sequence is 0 and guests ask the MSR.
A page made without TSC_STABLE breaks this one until its MSR is written again (v5.13, the patches of March 2021). That
any vCPU may write it, and only when a change is waiting, is how it is since April 2022 (5.18, from memory); older
kernels are modelled the same way. What re-enlightenment changes is from memory, not checked.
"""

from __future__ import annotations

from guestclock.arith import hv_ref_time, hv_tsc_offset, hv_tsc_scale, u64
from guestclock.kvm.model.x86.state import HvTscPage, VcpuTime, VmTime, with_page
from guestclock.sim import cp

REFERENCE_TSC_ENABLE = 1
_ADDRESS_SHIFT = 12


def write_reference_tsc(vcpu: VcpuTime, data: int, by_host: bool) -> None:
    """The MSR that places and enables the page; asks for a masterclock update, behind which the page is written.

    Source: arch/x86/kvm/hyperv.c kvm_hv_set_msr_pw().
    """
    vm: VmTime = vcpu.vm
    vm.hv_tsc_page = data
    if not data & REFERENCE_TSC_ENABLE:
        vm.hv_tsc_page_status = "unset"
        return
    vm.hv_tsc_page_status = "host changed" if by_host else "guest changed"
    vcpu.req_masterclock_update = True


def guest_page(vm: VmTime) -> HvTscPage:
    """The page in guest memory that the MSR names."""
    frame = vm.hv_tsc_page >> _ADDRESS_SHIFT
    page = vm.hv_pages.get(frame)
    if page is None:
        page = HvTscPage()
        vm.hv_pages = with_page(vm.hv_pages, frame, page)
    return page


def reference_time(page: HvTscPage, tsc: int) -> int | None:
    """What a guest with this page computes at its TSC `tsc`, 100 ns units, u64. None: it has to ask the MSR."""
    return None if page.sequence == 0 else hv_ref_time(tsc, page.scale, page.offset)


def request_tsc_page_update(vm: VmTime) -> None:
    """A new snapshot or kvmclock_offset: the page shall be written again, unless the guest asked for it to stay."""
    if vm.hv_tsc_page_status == "set" and not vm.hv_tsc_emulation_control:
        vm.hv_tsc_page_status = "host changed"


async def setup_tsc_page(vm: VmTime, tsc: int, system_time: int, mul: int, shift: int, stable: bool) -> None:
    """Writes the page from a pvclock page's content, if a change is waiting. Once per change, by whoever comes first.

    With re-enlightenment on (tsc_emulation_control), a page that is valid stays as it is until the guest moves it.
    Source: arch/x86/kvm/hyperv.c kvm_hv_setup_tsc_page(), compute_tsc_page_parameters().
    """
    if vm.hv_tsc_page_status not in ("guest changed", "host changed"):
        return
    page = guest_page(vm)
    sequence = page.sequence
    if sequence != 0 and vm.hv_tsc_emulation_control and vm.hv_tsc_page_status == "host changed":
        vm.hv_scale, vm.hv_offset = page.scale, page.offset
        vm.hv_tsc_page_status = "set"
        return
    page.sequence = 0
    await cp("Hyper-V TSC page: body")
    scale = hv_tsc_scale(mul, shift) if stable else None
    if scale is None:
        vm.hv_tsc_page_status = "broken"
        return
    vm.hv_scale = scale
    vm.hv_offset = hv_tsc_offset(u64(system_time), tsc, scale)
    page.scale, page.offset = vm.hv_scale, vm.hv_offset
    await cp("Hyper-V TSC page: sequence")
    page.sequence = _following(sequence)
    vm.hv_tsc_page_status = "set"


def _following(sequence: int) -> int:
    """The next sequence. 0 means "not valid", and so did 0xffffffff once: both are skipped."""
    return 1 if sequence >= 0xFFFFFFFE else sequence + 1
