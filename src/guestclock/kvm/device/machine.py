"""Which architecture's device this machine needs."""

from __future__ import annotations

import platform
from typing import Any

from guestclock.errors import UserError
from guestclock.kvm.device.executor import DeviceKvm
from guestclock.sim.trace import Emit


def open_device(emit: Emit, *, host_ops_allowed: bool = False, trace: bool = True) -> DeviceKvm[Any, Any]:
    """This machine's KVM, open; the options are `DeviceKvm`'s. Raises UserError saying what is missing."""
    machine = platform.machine()
    if machine == "x86_64":
        from guestclock.kvm.device.x86 import X86DeviceKvm

        return X86DeviceKvm(emit, host_ops_allowed=host_ops_allowed, trace=trace)
    if machine == "aarch64":
        from guestclock.kvm.device.arm64 import Arm64DeviceKvm

        return Arm64DeviceKvm(emit, host_ops_allowed=host_ops_allowed, trace=trace)
    raise UserError(f"this machine is {machine}: guestclock.kvm.device needs x86_64 or aarch64")
