"""The exact x86 model of KVM guest time: `ModelKvm` carries out `kvm.api`, `lookup` finds a kernel's profile."""

from guestclock.kvm.model.catalogue import lookup, names
from guestclock.kvm.model.host import KvmOptions
from guestclock.kvm.model.kvm import ModelKvm
from guestclock.kvm.model.page import KernelHang
from guestclock.kvm.model.profile import Profile, TscWrite
from guestclock.kvm.model.state import HvTscPage, SystemTimePage, VcpuTime, VmTime, WallClockPage, XenWallClock

__all__ = [
    "HvTscPage",
    "KernelHang",
    "KvmOptions",
    "ModelKvm",
    "Profile",
    "SystemTimePage",
    "TscWrite",
    "VcpuTime",
    "VmTime",
    "WallClockPage",
    "XenWallClock",
    "lookup",
    "names",
]
