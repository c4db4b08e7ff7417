"""KVM guest time on x86, exactly: `X86Kvm` carries out `kvm.api` under a kernel's `Profile`."""

from guestclock.kvm.model.x86.host import KvmOptions
from guestclock.kvm.model.x86.kvm import X86Kvm
from guestclock.kvm.model.x86.page import KernelHang
from guestclock.kvm.model.x86.profile import Profile, TscWrite
from guestclock.kvm.model.x86.state import HvTscPage, SystemTimePage, VcpuTime, VmTime, WallClockPage, XenWallClock

__all__ = [
    "HvTscPage",
    "KernelHang",
    "KvmOptions",
    "Profile",
    "SystemTimePage",
    "TscWrite",
    "VcpuTime",
    "VmTime",
    "WallClockPage",
    "X86Kvm",
    "XenWallClock",
]
