"""What an x86 kernel in the lab says of itself: x86's half of `inside`. Standard library only."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Callable
from typing import Any

Emit = Callable[[dict[str, Any]], None]

WANTED = ("guestclock.kvm.device.x86", "guestclock.inspect")
LOG = r"tsc:|clocksource:|kvm|unstable"

KVM_CREATE_VM = 0xAE01
KVM_CHECK_EXTENSION = 0xAE03
KVM_CREATE_VCPU = 0xAE41
KVM_SET_CLOCK = 0x4030AE7B
KVM_GET_CLOCK = 0x8030AE7C
KVM_GET_TSC_KHZ = 0xAEA3
CAPABILITIES = {
    "ADJUST_CLOCK": 39,
    "TSC_CONTROL": 60,
    "GET_TSC_KHZ": 61,
    "KVMCLOCK_CTRL": 76,
    "VCPU_ATTRIBUTES": 127,
    "IMMEDIATE_EXIT": 136,
    "VM_TSC_CONTROL": 214,
}
KVM_CLOCK_DATA = struct.Struct("<QIIQQ16x")


def after_stop() -> None:
    """QEMU copies every timer of an x86 machine."""


def probe(emit: Emit) -> None:
    """Facts that a scenario rests on, one line each."""
    raw_ns = [time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW) for _ in range(5)]
    emit({"fact": "monotonic_raw", "readings_ns": raw_ns})
    kvm = os.open("/dev/kvm", os.O_RDWR)
    emit({"fact": "capabilities", **{k: fcntl.ioctl(kvm, KVM_CHECK_EXTENSION, v) for k, v in CAPABILITIES.items()}})
    vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
    vcpu = fcntl.ioctl(vm, KVM_CREATE_VCPU, 0)
    emit({"fact": "tsc_khz", "kvm": fcntl.ioctl(vcpu, KVM_GET_TSC_KHZ, 0)})
    # flags stay 0 until a masterclock update ran; SET_CLOCK makes one without any KVM_RUN (kvm-x86.md section 5.2)
    fcntl.ioctl(vm, KVM_SET_CLOCK, KVM_CLOCK_DATA.pack(1_000_000_000, 0, 0, 0, 0))
    answer = fcntl.ioctl(vm, KVM_GET_CLOCK, bytes(KVM_CLOCK_DATA.size))
    clock, flags, _, realtime, host_tsc = KVM_CLOCK_DATA.unpack(answer)
    emit({"fact": "get_clock", "clock_ns": clock, "flags": flags, "realtime_ns": realtime, "host_tsc": host_tsc})
