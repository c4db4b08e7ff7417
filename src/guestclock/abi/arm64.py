"""arm64: register encodings, KVM's register ids, ioctl numbers and hypercalls, as far as counters and timers go.

Source: arch/arm64/include/uapi/asm/kvm.h, include/uapi/linux/kvm.h, include/linux/arm-smccc.h, v6.12; Arm ARM DDI 0487.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType


def sysreg_id(op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
    """The id by which KVM_GET_ONE_REG and KVM_SET_ONE_REG know a 64-bit system register (ARM64_SYS_REG)."""
    return 0x6030_0000_0013_0000 | op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2


def core_reg_id(x: int) -> int:
    """The id of general register x0..x30 of a vCPU: its place in struct kvm_regs, counted in 4 bytes."""
    return 0x6030_0000_0010_0000 | 2 * x


KVM_REG_ARM_CORE_PC = core_reg_id(32)
"""Behind x0..x30 and sp."""

KVM_REG_ARM_TIMER_CTL = sysreg_id(3, 3, 14, 3, 1)
KVM_REG_ARM_TIMER_CNT = sysreg_id(3, 3, 14, 3, 2)
"""CNTVCT_EL0, under the encoding of CNTV_CVAL_EL0: the two were swapped by mistake, and the ABI keeps it for ever."""
KVM_REG_ARM_TIMER_CVAL = sysreg_id(3, 3, 14, 0, 2)
"""CNTV_CVAL_EL0, under the encoding of CNTVCT_EL0."""
KVM_REG_ARM_PTIMER_CTL = sysreg_id(3, 3, 14, 2, 1)
KVM_REG_ARM_PTIMER_CVAL = sysreg_id(3, 3, 14, 2, 2)
KVM_REG_ARM_PTIMER_CNT = sysreg_id(3, 3, 14, 0, 1)

KVM_REG_ARM_TIMER_OFFSET = sysreg_id(3, 4, 14, 0, 3)
"""CNTVOFF_EL2: a guest hypervisor's (6.16); and an offset of the VMM's in the series of 2021 (v6 to v8)."""

TIMER_REGS: Mapping[str, int] = MappingProxyType(
    {
        "TIMER_CTL": KVM_REG_ARM_TIMER_CTL,
        "TIMER_CNT": KVM_REG_ARM_TIMER_CNT,
        "TIMER_CVAL": KVM_REG_ARM_TIMER_CVAL,
        "PTIMER_CTL": KVM_REG_ARM_PTIMER_CTL,
        "PTIMER_CVAL": KVM_REG_ARM_PTIMER_CVAL,
        "PTIMER_CNT": KVM_REG_ARM_PTIMER_CNT,
    }
)

GUEST_SYSREGS: Mapping[str, tuple[int, int, int, int, int]] = MappingProxyType(
    {
        "CNTFRQ_EL0": (3, 3, 14, 0, 0),
        "CNTPCT_EL0": (3, 3, 14, 0, 1),
        "CNTVCT_EL0": (3, 3, 14, 0, 2),
        "CNTP_TVAL_EL0": (3, 3, 14, 2, 0),
        "CNTP_CTL_EL0": (3, 3, 14, 2, 1),
        "CNTP_CVAL_EL0": (3, 3, 14, 2, 2),
        "CNTV_TVAL_EL0": (3, 3, 14, 3, 0),
        "CNTV_CTL_EL0": (3, 3, 14, 3, 1),
        "CNTV_CVAL_EL0": (3, 3, 14, 3, 2),
    }
)
"""System registers a guest at EL1 may name: (op0, op1, CRn, CRm, op2)."""

CTL_ENABLE, CTL_IMASK, CTL_ISTATUS = 1, 2, 4

# ---- KVM

KVM_CAP_ONE_REG = 70
KVM_CAP_VCPU_ATTRIBUTES = 127
KVM_CAP_STEAL_TIME = 187
KVM_CAP_PTP_KVM = 198
KVM_CAP_ARM_VTIMER_OFFSET = 206
"""Of the series of 2021 only (v8, 20210916181510): never merged, and taken by another capability since."""
KVM_CAP_COUNTER_OFFSET = 227
KVM_CAP_ARM_EL2 = 240

KVM_ARM_SET_COUNTER_OFFSET = 0x4010_AEB5
KVM_GET_ONE_REG = 0x4010_AEAB
KVM_SET_ONE_REG = 0x4010_AEAC
KVM_GET_REG_LIST = 0xC008_AEB0
KVM_ARM_VCPU_INIT = 0x4020_AEAE
KVM_ARM_PREFERRED_TARGET = 0x8020_AEAF

KVM_ARM_VCPU_PSCI_0_2 = 2
"""Bit of the features of KVM_ARM_VCPU_INIT."""

KVM_DEV_TYPE_ARM_VGIC_V2, KVM_DEV_TYPE_ARM_VGIC_V3 = 5, 7
KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL = 0, 4
KVM_DEV_ARM_VGIC_CTRL_INIT = 0
VGIC_V2_ADDRESSES = ((0, 0x0800_0000), (1, 0x0801_0000))
"""(attribute, guest physical address): distributor, CPU interface."""
VGIC_V3_ADDRESSES = ((2, 0x0800_0000), (3, 0x080A_0000))
"""(attribute, guest physical address): distributor, redistributors (128 KiB a vCPU)."""

KVM_ARM_VCPU_TIMER_CTRL = 1
KVM_ARM_VCPU_TIMER_IRQ_VTIMER, KVM_ARM_VCPU_TIMER_IRQ_PTIMER = 0, 1
KVM_ARM_VCPU_TIMER_OFFSET_VTIMER, KVM_ARM_VCPU_TIMER_OFFSET_PTIMER = 2, 3
"""Of the series of 2021 only (v2 to v5, 20210716212629): never merged, and taken by other attributes since 6.4."""
KVM_ARM_VCPU_TIMER_PHYS_OFFSET = 2
"""Of v6 to v8 (there first called KVM_ARM_VCPU_TIMER_OFFSET)."""
KVM_ARM_VCPU_PVTIME_CTRL = 2
KVM_ARM_VCPU_PVTIME_IPA = 0

# ---- hypercalls

SMCCC_RET_NOT_SUPPORTED = 2**64 - 1
ARM_SMCCC_VERSION_FUNC_ID = 0x8000_0000
ARM_SMCCC_ARCH_FEATURES_FUNC_ID = 0x8000_0001
ARM_SMCCC_VENDOR_HYP_KVM_FEATURES_FUNC_ID = 0x8600_0000
ARM_SMCCC_VENDOR_HYP_KVM_PTP_FUNC_ID = 0x8600_0001
KVM_PTP_VIRT_COUNTER, KVM_PTP_PHYS_COUNTER = 0, 1
ARM_SMCCC_HV_PV_TIME_FEATURES = 0xC500_0020
ARM_SMCCC_HV_PV_TIME_ST = 0xC500_0021
