"""The real thing: `kvm.api` over /dev/kvm of this machine. Standard library only: it also runs inside a lab.

`open_device` gives the executor of this machine's architecture. What the architectures share is in this directory, what
they do not in `x86` and `arm64`.
"""

from guestclock.kvm.device.executor import DeviceKvm
from guestclock.kvm.device.machine import open_device

__all__ = ["DeviceKvm", "open_device"]
