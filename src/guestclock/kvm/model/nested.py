"""L2: the offset and ratio with which a guest's guest runs.

Composed and truncated as KVM does it, which is not the same as the two stages one after the other: the error of the
ratio is multiplied by the host's TSC (2^22 cycles on SVM at a host TSC of 2^54).
"""

from __future__ import annotations

from guestclock.arith import nested_tsc_ratio, u64
from guestclock.errors import UserError
from guestclock.kvm.model.host import KvmHost
from guestclock.kvm.model.state import VcpuTime
from guestclock.kvm.model.tsc import l2_offset


def enter_l2(vcpu: VcpuTime, offset: int, ratio: int | None) -> None:
    """Nested VM entry. offset: s64, cycles; ratio: None if L1 does not scale.

    Source: vmx/nested.c prepare_vmcs02(), svm/nested.c nested_vmcb02_prepare_control().
    """
    kvm: KvmHost = vcpu.vm.kvm
    if vcpu.l2_active:
        raise UserError(f"EnterL2: vCPU {vcpu.index} runs an L2 already, expected ExitL2 before it")
    if ratio is not None and not kvm.has_tsc_control:
        raise UserError("EnterL2: a ratio, expected None: this host's KVM offers no TSC scaling to its guests")
    vcpu.l2_active = True
    vcpu.l2_offset = u64(offset)
    vcpu.l2_ratio = kvm.one if ratio is None else ratio
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
