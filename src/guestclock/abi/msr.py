"""Model-specific registers that hold or place time: their indices, u32.

Source: arch/x86/include/asm/msr-index.h, arch/x86/include/uapi/asm/kvm_para.h, include/hyperv/hvgdk.h.
"""

from __future__ import annotations

MSR_IA32_TSC = 0x10
MSR_IA32_TSC_ADJUST = 0x3B
MSR_IA32_TSC_DEADLINE = 0x6E0
MSR_AMD64_TSC_RATIO = 0xC000_0104

MSR_KVM_WALL_CLOCK = 0x11
MSR_KVM_SYSTEM_TIME = 0x12
MSR_KVM_WALL_CLOCK_NEW = 0x4B56_4D00
MSR_KVM_SYSTEM_TIME_NEW = 0x4B56_4D01
MSR_KVM_HOST_SUSPEND_TIME_V1 = 0x4B56_4D08
MSR_KVM_HOST_SUSPEND_TIME = 0x4B56_4D09
KVM_MSR_ENABLED = 1

HV_X64_MSR_GUEST_OS_ID = 0x4000_0000
HV_X64_MSR_HYPERCALL = 0x4000_0001
HV_X64_MSR_TIME_REF_COUNT = 0x4000_0020
HV_X64_MSR_REFERENCE_TSC = 0x4000_0021
HV_X64_MSR_TSC_FREQUENCY = 0x4000_0022

SYSTEM_TIME_MSRS = frozenset({MSR_KVM_SYSTEM_TIME, MSR_KVM_SYSTEM_TIME_NEW})
"""Two names of one variable: gpa of the page; bit 0 (KVM_MSR_ENABLED) enables it."""

SUSPEND_TIME_MSRS = frozenset({MSR_KVM_HOST_SUSPEND_TIME_V1, MSR_KVM_HOST_SUSPEND_TIME})
"""As the series of 2021 numbered them; never merged, and 0x4b564d08 is MSR_KVM_MIGRATION_CONTROL today."""

WALL_CLOCK_MSRS = frozenset({MSR_KVM_WALL_CLOCK, MSR_KVM_WALL_CLOCK_NEW})
"""Two names of one variable: gpa of the wall clock, which is written when the MSR is."""
