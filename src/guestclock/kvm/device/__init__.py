"""The real thing: `kvm.api` over /dev/kvm of this machine. Standard library only: it also runs inside a lab."""

from guestclock.kvm.device.kvm import DeviceKvm

__all__ = ["DeviceKvm"]
