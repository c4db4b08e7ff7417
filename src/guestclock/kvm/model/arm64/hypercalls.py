"""Hypercalls about time: what a guest is told of the host's clock, of its stolen time, and of what there is.

Source: arch/arm64/kvm/hypercalls.c, v6.12; Documentation/virt/kvm/arm/ptp_kvm.rst, pvtime.rst.
"""

from __future__ import annotations

from guestclock.abi.arm64 import (
    ARM_SMCCC_ARCH_FEATURES_FUNC_ID,
    ARM_SMCCC_HV_PV_TIME_FEATURES,
    ARM_SMCCC_HV_PV_TIME_ST,
    ARM_SMCCC_VENDOR_HYP_KVM_FEATURES_FUNC_ID,
    ARM_SMCCC_VENDOR_HYP_KVM_PTP_FUNC_ID,
    ARM_SMCCC_VERSION_FUNC_ID,
    KVM_PTP_PHYS_COUNTER,
    KVM_PTP_VIRT_COUNTER,
    SMCCC_RET_NOT_SUPPORTED,
)
from guestclock.arith import u32, u64
from guestclock.errors import UserError
from guestclock.kvm.model.arm64.host import KvmHost
from guestclock.kvm.model.arm64.pvtime import kvm_init_stolen_time
from guestclock.kvm.model.arm64.state import INVALID_GPA, VcpuTime

Registers = tuple[int, int, int, int]

_NOT_SUPPORTED: Registers = (SMCCC_RET_NOT_SUPPORTED, 0, 0, 0)
_SUCCESS: Registers = (0, 0, 0, 0)
_VERSION_1_1 = 0x10001


def kvm_smccc_call_handler(vcpu: VcpuTime, x0: int, x1: int) -> Registers:
    """x0..x3 after HVC #0. Raises UserError for a function that has nothing to do with time."""
    function, argument = u32(x0), u32(x1)
    ptp = vcpu.vm.kvm.profile.ptp
    if function == ARM_SMCCC_VERSION_FUNC_ID:
        return (_VERSION_1_1, 0, 0, 0)
    if function == ARM_SMCCC_ARCH_FEATURES_FUNC_ID:
        if argument not in (ARM_SMCCC_HV_PV_TIME_FEATURES,):
            raise UserError(f"HVC ARCH_FEATURES of {argument:#x} is not modelled, expected PV_TIME_FEATURES")
        return _SUCCESS
    if function == ARM_SMCCC_HV_PV_TIME_FEATURES:
        known = argument in (ARM_SMCCC_HV_PV_TIME_FEATURES, ARM_SMCCC_HV_PV_TIME_ST)
        return _SUCCESS if known and vcpu.base != INVALID_GPA else _NOT_SUPPORTED
    if function == ARM_SMCCC_HV_PV_TIME_ST:
        return (kvm_init_stolen_time(vcpu), 0, 0, 0)
    if function == ARM_SMCCC_VENDOR_HYP_KVM_FEATURES_FUNC_ID:
        return (1 | 1 << 1, 0, 0, 0) if ptp else _NOT_SUPPORTED
    if function == ARM_SMCCC_VENDOR_HYP_KVM_PTP_FUNC_ID:
        return kvm_ptp_get_time(vcpu, argument) if ptp else _NOT_SUPPORTED
    raise UserError(f"HVC {function:#x} is not modelled, expected a function of PV time or of PTP")


def kvm_ptp_get_time(vcpu: VcpuTime, counter: int) -> Registers:
    """REALTIME and one of the guest's counters, of one instant: each as high and low 32 bits.

    counter: KVM_PTP_VIRT_COUNTER or KVM_PTP_PHYS_COUNTER; for another one nothing is told.
    """
    kvm: KvmHost = vcpu.vm.kvm
    real_ns, host_counter = kvm.machine.ktime_get_snapshot(vcpu.on_cpu)
    if counter not in (KVM_PTP_VIRT_COUNTER, KVM_PTP_PHYS_COUNTER):
        return _NOT_SUPPORTED
    cycles = u64(host_counter - kvm.profile.ptp_offset(vcpu, counter))
    return (*_halves(real_ns), *_halves(cycles))


def _halves(value: int) -> tuple[int, int]:
    """Upper and lower 32 bits of a u64."""
    upper = value >> 32
    return upper, value - (upper << 32)
