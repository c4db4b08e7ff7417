"""KVM of an arm64 machine: `Arm64DeviceKvm` carries out `kvm.api` on it."""

from guestclock.kvm.device.arm64.kvm import Arm64DeviceKvm

__all__ = ["Arm64DeviceKvm"]
