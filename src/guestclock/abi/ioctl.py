"""KVM's ioctl numbers, computed as the kernel's headers compute them, and the capabilities asked for by number.

Source: include/uapi/asm-generic/ioctl.h, include/uapi/linux/kvm.h.
"""

from __future__ import annotations

KVMIO = 0xAE
KVM_API_VERSION = 12

_WRITE, _READ = 1, 2


def _io(number: int) -> int:
    return KVMIO << 8 | number


def _iow(number: int, size: int) -> int:
    return _WRITE << 30 | size << 16 | _io(number)


def _ior(number: int, size: int) -> int:
    return _READ << 30 | size << 16 | _io(number)


def _iowr(number: int, size: int) -> int:
    return (_READ | _WRITE) << 30 | size << 16 | _io(number)


# ---- requests, by the file they are made on; a size in the number is that of the fixed part of the argument


# /dev/kvm
KVM_GET_API_VERSION = _io(0x00)
KVM_CREATE_VM = _io(0x01)
KVM_CHECK_EXTENSION = _io(0x03)
KVM_GET_VCPU_MMAP_SIZE = _io(0x04)
KVM_GET_SUPPORTED_CPUID = _iowr(0x05, 8)
# a VM
KVM_CREATE_VCPU = _io(0x41)
KVM_SET_USER_MEMORY_REGION = _iow(0x46, 32)
KVM_SET_TSS_ADDR = _io(0x47)
KVM_CREATE_IRQCHIP = _io(0x60)
KVM_SET_BOOT_CPU_ID = _io(0x78)
KVM_XEN_HVM_CONFIG = _iow(0x7A, 56)
KVM_SET_CLOCK = _iow(0x7B, 48)
KVM_GET_CLOCK = _ior(0x7C, 48)
KVM_XEN_HVM_SET_ATTR = _iow(0xC9, 72)
# a vCPU
KVM_RUN = _io(0x80)
KVM_GET_REGS = _ior(0x81, 144)
KVM_SET_REGS = _iow(0x82, 144)
KVM_GET_SREGS = _ior(0x83, 312)
KVM_SET_SREGS = _iow(0x84, 312)
KVM_GET_MSRS = _iowr(0x88, 8)
KVM_SET_MSRS = _iow(0x89, 8)
KVM_SET_CPUID2 = _iow(0x90, 8)
KVM_GET_CPUID2 = _iowr(0x91, 8)
KVM_KVMCLOCK_CTRL = _io(0xAD)
# a VM or a vCPU
KVM_SET_TSC_KHZ = _io(0xA2)
KVM_GET_TSC_KHZ = _io(0xA3)
KVM_GET_STATS_FD = _io(0xCE)
# a VM, for a device of it
KVM_CREATE_DEVICE = _iowr(0xE0, 12)
# a vCPU (as far as clocks go)
KVM_SET_DEVICE_ATTR = _iow(0xE1, 24)
KVM_GET_DEVICE_ATTR = _iow(0xE2, 24)
KVM_HAS_DEVICE_ATTR = _iow(0xE3, 24)


# ---- capabilities of KVM_CHECK_EXTENSION that say something about clocks


KVM_CAP_CLOCKSOURCE = 8
KVM_CAP_XEN_HVM = 38
KVM_CAP_ADJUST_CLOCK = 39
"""The flags that KVM_GET_CLOCK may set: 14; 2 before 5.16; 1 or 0 on older kernels."""
KVM_CAP_HYPERV = 44
KVM_CAP_TSC_CONTROL = 60
"""TSC scaling in hardware. KVM_SET_TSC_KHZ exists without it."""
KVM_CAP_GET_TSC_KHZ = 61
KVM_CAP_TSC_DEADLINE_TIMER = 72
KVM_CAP_KVMCLOCK_CTRL = 76
KVM_CAP_DEVICE_CTRL = 89
KVM_CAP_HYPERV_TIME = 96
KVM_CAP_DISABLE_QUIRKS = 116
KVM_CAP_VCPU_ATTRIBUTES = 127
KVM_CAP_IMMEDIATE_EXIT = 136
KVM_CAP_BINARY_STATS_FD = 203
KVM_CAP_SYS_ATTRIBUTES = 209
KVM_CAP_VM_TSC_CONTROL = 214
KVM_CAP_X86_APIC_BUS_CYCLES_NS = 237


KVM_XEN_HVM_CONFIG_INTERCEPT_HCALL = 1 << 1
KVM_XEN_HVM_CONFIG_SHARED_INFO = 1 << 2
"""Bit of KVM_CAP_XEN_HVM: KVM_XEN_HVM_SET_ATTR takes a shared_info page."""

KVM_CLOCK_TSC_STABLE = 2
KVM_CLOCK_REALTIME = 4
KVM_CLOCK_HOST_TSC = 8

KVM_VCPU_TSC_CTRL = 0
KVM_VCPU_TSC_OFFSET = 0

KVM_EXIT_IO = 2
KVM_EXIT_HLT = 5
KVM_EXIT_MMIO = 6
KVM_EXIT_SHUTDOWN = 8
KVM_EXIT_FAIL_ENTRY = 9
KVM_EXIT_INTR = 10
KVM_EXIT_INTERNAL_ERROR = 17
KVM_EXIT_SYSTEM_EVENT = 24
