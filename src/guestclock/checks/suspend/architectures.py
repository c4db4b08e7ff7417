"""Which architectures the suspend thread knows."""

from __future__ import annotations

from guestclock.checks.architectures import arch_of
from guestclock.checks.suspend.architecture import Architecture
from guestclock.checks.suspend.arm64 import Arm64
from guestclock.checks.suspend.x86 import X86
from guestclock.vmm.clocks import ARM64, X86_64

_ARCHITECTURES: dict[str, Architecture] = {X86_64: X86(), ARM64: Arm64()}


def architecture(kernel: str) -> Architecture:
    """Of a host with this kernel."""
    return _ARCHITECTURES[arch_of(kernel)]
