"""Live hosts: what kind this one is, told by what its KVM does."""

from guestclock.inspect.host import HostReport, classify, conclude
from guestclock.inspect.probe import Observations, observe

__all__ = ["HostReport", "Observations", "classify", "conclude", "observe"]
