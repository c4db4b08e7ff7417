"""The exact models of KVM guest time, one per architecture: `lookup` finds a kernel's profile, `model_kvm` its KVM."""

from guestclock.kvm.model.catalogue import lookup, model_kvm, names
from guestclock.kvm.model.executor import ModelKvm

__all__ = ["ModelKvm", "lookup", "model_kvm", "names"]
