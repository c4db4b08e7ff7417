"""L2: the offset and ratio with which a guest's guest runs.

Composed and truncated as KVM does it, which is not the same as the two stages one after the other: the error of the
ratio is multiplied by the host's TSC (2^22 cycles on SVM at a host TSC of 2^54).
"""

from __future__ import annotations

from guestclock.arith import U64_MAX, nested_tsc_offset, nested_tsc_ratio, u64
from guestclock.errors import UserError
from guestclock.kvm.model.x86.host import KvmHost
from guestclock.kvm.model.x86.state import VcpuTime
from guestclock.kvm.model.x86.tsc import l2_offset

SVM_MOST = (1 << 40) - 1
"""MSR_AMD64_TSC_RATIO has 8 bits above the fraction's 32; the rest is reserved."""


def enter_l2(vcpu: VcpuTime, offset: int, ratio: int | None) -> None:
    """Nested VM entry. offset: s64, cycles; ratio: None if L1 names none: on SVM what its
    MSR_AMD64_TSC_RATIO says then, on VMX no scaling.

    Source: vmx/nested.c prepare_vmcs02(), svm/nested.c nested_vmcb02_prepare_control().
    """
    kvm: KvmHost = vcpu.vm.kvm
    if vcpu.l2_active:
        raise UserError(f"EnterL2: vCPU {vcpu.index} runs an L2 already, expected ExitL2 before it")
    if ratio is not None and not kvm.has_tsc_control:
        raise UserError("EnterL2: a ratio, expected None: this host's KVM offers no TSC scaling to its guests")
    most = SVM_MOST if kvm.machine.spec.tsc_scaling == "svm" else U64_MAX
    if ratio is not None and not 0 < ratio <= most:
        raise UserError(f"EnterL2: ratio {ratio}, expected 1 to {most}: {kvm.one} is 1.0 on this host")
    vcpu.l2_active = True
    vcpu.l2_offset = u64(offset)
    if ratio is None:
        ratio = vcpu.tsc_ratio_msr if kvm.machine.spec.tsc_scaling == "svm" else kvm.one
    vcpu.l2_ratio = ratio
    vcpu.tsc_offset = l2_offset(vcpu)
    vcpu.tsc_scaling_ratio = nested_tsc_ratio(vcpu.l1_tsc_scaling_ratio, vcpu.l2_ratio, kvm.frac_bits)


def exit_l2(vcpu: VcpuTime) -> None:
    """Nested VM exit: L1's own offset and ratio again."""
    if not vcpu.l2_active:
        raise UserError(f"ExitL2: vCPU {vcpu.index} runs no L2, expected EnterL2 before it")
    kvm: KvmHost = vcpu.vm.kvm
    vcpu.l2_active = False
    vcpu.l2_offset = 0
    vcpu.l2_ratio = kvm.one
    vcpu.tsc_offset = vcpu.l1_tsc_offset
    vcpu.tsc_scaling_ratio = vcpu.l1_tsc_scaling_ratio


def offset_after_failed_entry(l1_offset: int, l2_offset: int, l2_ratio: int, frac_bits: int) -> int:
    """What KVM takes for the active offset after VMX refused an entry that L1 asked for; cycles, u64.

    A bug of all kernels: composed as for an entry, then only L2's own part is taken off again. That is L1's offset
    where L1 does not scale, and the scaled one where it does; the ratio stays L2's. A function of its own, as no guest
    action fails to enter: the hardware's fields of L1 are not touched by it, only what KVM computes with later.
    Source: arch/x86/kvm/vmx/nested.c nested_vmx_enter_non_root_mode(), vmentry_fail_vmexit.
    """
    return u64(nested_tsc_offset(l1_offset, l2_offset, l2_ratio, frac_bits) - l2_offset)
