"""Stolen time: a record in guest memory of how long the vCPU's thread was runnable and did not run.

It counts in guest memory and so travels with it; what KVM remembers is only how far the thread had got when it last
wrote. A new vCPU has 0 there: its first update adds all that its thread has waited so far.
Source: arch/arm64/kvm/pvtime.c, v6.12.
"""

from __future__ import annotations

from guestclock.arith import u64
from guestclock.kvm.model.arm64.state import INVALID_GPA, StolenTimePage, VcpuTime, VmTime, with_page

ALIGNMENT = 64


def kvm_update_stolen_time(vcpu: VcpuTime) -> None:
    """KVM_REQ_RECORD_STEAL, before an entry: adds what the thread waited since the last time."""
    vm: VmTime = vcpu.vm
    if vcpu.base == INVALID_GPA:
        return
    page = record_of(vcpu)
    before = vcpu.last_steal
    vcpu.last_steal = vcpu.run_delay
    page.stolen_time = u64(page.stolen_time + vcpu.last_steal - before)
    assert vm.pages[vcpu.base] is page


def kvm_init_stolen_time(vcpu: VcpuTime) -> int:
    """PV_TIME_ST: the guest asks for its record. Zeroed, counting from now; answers its IPA or INVALID_GPA, u64."""
    if vcpu.base == INVALID_GPA:
        return INVALID_GPA
    vcpu.last_steal = vcpu.run_delay
    page = record_of(vcpu)
    page.revision = page.attributes = 0
    page.stolen_time = 0
    return vcpu.base


def kvm_arm_pvtime_set_attr(vcpu: VcpuTime, ipa: int) -> str:
    """KVM_ARM_VCPU_PVTIME_IPA, ipa u64; the errno's name, or nothing. It can be set once."""
    vm: VmTime = vcpu.vm
    if ipa % ALIGNMENT:  # concrete: an address
        return "EINVAL"
    if vcpu.base != INVALID_GPA:
        return "EEXIST"
    first, size = vm.kvm.options.memory
    if not first <= ipa < first + size:
        return "EINVAL"
    vcpu.base = ipa
    if ipa not in vm.pages:
        vm.pages = with_page(vm.pages, ipa, StolenTimePage())
    return ""


def record_of(vcpu: VcpuTime) -> StolenTimePage:
    """Its record. The memory is the VM's: two vCPUs may have been given one address."""
    page: StolenTimePage = vcpu.vm.pages[vcpu.base]
    return page
