"""What an arm64 kernel in the lab says of itself: `probe` there. Standard library only."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable
from typing import Any

from guestclock.abi import arm64 as abi
from guestclock.abi import ioctl
from guestclock.kvm.device import native

Emit = Callable[[dict[str, Any]], None]

CAPABILITIES = {
    "COUNTER_OFFSET": abi.KVM_CAP_COUNTER_OFFSET,
    "PTP_KVM": abi.KVM_CAP_PTP_KVM,
    "STEAL_TIME": abi.KVM_CAP_STEAL_TIME,
    "ARM_EL2": abi.KVM_CAP_ARM_EL2,
    "DEVICE_CTRL": ioctl.KVM_CAP_DEVICE_CTRL,
    "VCPU_ATTRIBUTES": ioctl.KVM_CAP_VCPU_ATTRIBUTES,
    "IMMEDIATE_EXIT": ioctl.KVM_CAP_IMMEDIATE_EXIT,
}

LOG = r"kvm \[|arch_timer|clocksource:|sched_clock|GIC|psci"
"""Lines of the kernel's log that tell how it uses the counter and EL2."""

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
