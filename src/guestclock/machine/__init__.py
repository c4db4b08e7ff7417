"""A counter and a Linux on it. L0, L1 and L2 are machines; a KVM stands on one and makes others."""

from guestclock.machine.counter import Counter, Derived, TscCounter
from guestclock.machine.machine import Machine
from guestclock.machine.spec import HostSpec

__all__ = ["Counter", "Derived", "HostSpec", "Machine", "TscCounter"]
