"""KVM of an x86-64 machine: `X86DeviceKvm` carries out `kvm.api` on it."""

from guestclock.kvm.device.x86.kvm import X86DeviceKvm

__all__ = ["X86DeviceKvm"]
