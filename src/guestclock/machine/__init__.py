"""A counter and a Linux on it. L0, L1 and L2 are machines; a KVM stands on one and makes others."""

from guestclock.machine.arm64 import Arm64Machine
from guestclock.machine.counter import AnyCounter, Counter, Derived
from guestclock.machine.machine import Machine
from guestclock.machine.spec import Arm64Spec, HostSpec
from guestclock.machine.x86 import X86Machine

__all__ = ["AnyCounter", "Arm64Machine", "Arm64Spec", "Counter", "Derived", "HostSpec", "Machine", "X86Machine"]
