"""A vCPU is plugged in while an arm64 guest runs, whose VM was given an offset at the beginning: its counters run on.

KVM_ARM_SET_COUNTER_OFFSET is for good: later creations, and later writes of a counter by value, change nothing.
"""

from __future__ import annotations

from guestclock.vmm.recipes.arm64_by_offset import create
from guestclock.vmm.recipes.arm64_vcpu_hotplug import pause, resume

ARCH = "arm64"
SEEN = "Linux, arch/arm64/kvm/arch_timer.c (KVM_ARCH_FLAG_VM_COUNTER_OFFSET), 6.4"
POLICY = {"cntvct": "run", "cntpct": "run"}

__all__ = ["create", "pause", "resume"]
