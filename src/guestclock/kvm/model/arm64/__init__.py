"""KVM guest time on arm64, exactly: `Arm64Kvm` carries out `kvm.api` under a kernel's `Profile`."""

from guestclock.kvm.model.arm64.host import KvmOptions
from guestclock.kvm.model.arm64.kvm import Arm64Kvm
from guestclock.kvm.model.arm64.profile import Profile, TimerMap
from guestclock.kvm.model.arm64.state import CpuTime, StolenTimePage, TimerContext, VcpuTime, VmTime

__all__ = [
    "Arm64Kvm",
    "CpuTime",
    "KvmOptions",
    "Profile",
    "StolenTimePage",
    "TimerContext",
    "TimerMap",
    "VcpuTime",
    "VmTime",
]
