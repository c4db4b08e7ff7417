"""Firecracker, snapshot restore since #4666: each vCPU's TSC, then its timer."""

from __future__ import annotations

from guestclock.vmm.recipes.firecracker_restore import pause, restore
from guestclock.vmm.recipes.firecracker_restore_deadline_first import save

SEEN = "Firecracker PR #4666, src/vmm/src/arch/x86_64/vcpu.rs"
POLICY = {"tsc": "freeze", "kvmclock": "freeze"}

__all__ = ["pause", "restore", "save"]
