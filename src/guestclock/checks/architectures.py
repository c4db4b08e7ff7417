"""Which architectures the checker knows."""

from __future__ import annotations

from guestclock.checks.architecture import Architecture
from guestclock.errors import UserError
from guestclock.kvm.model import lookup
from guestclock.vmm.clocks import ARM64, X86_64


def architecture(arch: str) -> Architecture:
    """By its name, as a kernel's profile has it. Only the one that is asked for is loaded."""
    if arch == X86_64:
        from guestclock.checks.x86.architecture import X86

        return X86
    if arch == ARM64:
        from guestclock.checks.arm64.architecture import ARM

        return ARM
    raise UserError(f"architecture {arch!r}: expected {X86_64!r} or {ARM64!r}")


def arch_of(kernel: str) -> str:
    """The architecture of a kernel's profile."""
    arch: str = lookup(kernel).arch
    return arch
