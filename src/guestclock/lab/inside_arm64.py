"""What an arm64 kernel in the lab says of itself: arm64's half of `inside`. Standard library only."""

from __future__ import annotations

import ctypes
import fcntl
import os
import time
from collections.abc import Callable
from typing import Any

from guestclock.abi import arm64 as abi
from guestclock.abi import ioctl
from guestclock.kvm.device import native

Emit = Callable[[dict[str, Any]], None]

WANTED = ("guestclock.kvm.device.arm64",)
LOG = r"kvm \[|arch_timer|clocksource:|sched_clock|GIC|psci"

CAPABILITIES = {
    "COUNTER_OFFSET": abi.KVM_CAP_COUNTER_OFFSET,
    "PTP_KVM": abi.KVM_CAP_PTP_KVM,
    "STEAL_TIME": abi.KVM_CAP_STEAL_TIME,
    "ARM_EL2": abi.KVM_CAP_ARM_EL2,
    "DEVICE_CTRL": ioctl.KVM_CAP_DEVICE_CTRL,
    "VCPU_ATTRIBUTES": ioctl.KVM_CAP_VCPU_ATTRIBUTES,
    "IMMEDIATE_EXIT": ioctl.KVM_CAP_IMMEDIATE_EXIT,
}

FILES = {
    "mem_sleep": "/sys/power/mem_sleep",
    "idle_driver": "/sys/devices/system/cpu/cpuidle/current_driver",
}


def probe(emit: Emit) -> None:
    """Facts that a scenario rests on, one line each."""
    counter, frequency = native.counter(), native.frequency()
    emit({"fact": "counter", "cntfrq": frequency, "counter": counter})
    pairs = [native.clock(time.CLOCK_MONOTONIC_RAW) for _ in range(5)]
    emit({"fact": "monotonic_raw", "readings_ns": [p[0] for p in pairs], "counter": [list(p[1:]) for p in pairs]})
    for fact, path in FILES.items():
        with open(path, encoding="ascii") as file:
            emit({"fact": fact, "is": file.read().strip()})
    kvm = os.open("/dev/kvm", os.O_RDWR)
    try:
        found = {name: fcntl.ioctl(kvm, ioctl.KVM_CHECK_EXTENSION, number) for name, number in CAPABILITIES.items()}
    finally:
        os.close(kvm)
    emit({"fact": "capabilities", **found})


# ---- a machine that was stopped and goes on in another process

_TIMER_ABSTIME = 1


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


def after_stop() -> None:
    """Has the timer of every CPU of ours set anew, which QEMU 7.2 forgets where it is EL2's (a VHE kernel's).

    The kernel sets a timer only for what comes before everything else it waits for, and what it waits for may be over
    by now: so it is asked to wait for the first nanosecond after boot.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    ours = os.sched_getaffinity(0)
    for cpu in sorted(ours):
        os.sched_setaffinity(0, {cpu})
        first = _Timespec(0, 1)
        libc.clock_nanosleep(time.CLOCK_MONOTONIC, _TIMER_ABSTIME, ctypes.byref(first), None)
    os.sched_setaffinity(0, ours)
