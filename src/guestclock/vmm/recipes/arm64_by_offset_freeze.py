"""arm64 by offset, frozen: the guest's counters go on where they stood, here or on another host of the same rate.

The host's counter is read once the last vCPU is out, and again, elsewhere, before the first one is in: by that much the
offset grows. The counters may gain what lies between the two readings and the guest, and never go back.
"""

from __future__ import annotations

from guestclock.kvm.api import Host, Vm
from guestclock.vmm.recipes.arm64_by_offset import create, give, save
from guestclock.vmm.recipes.arm64_by_offset_migrate import check_rate
from guestclock.vmm.snapshot import Arm64Snapshot

ARCH = "arm64"
SEEN = "the order that crosvm's suspend came to in Aug 2024, across two VMs"
POLICY = {"cntvct": "freeze", "cntpct": "freeze"}

__all__ = ["create", "restore", "save"]


async def restore(vm: Vm, snapshot: Arm64Snapshot) -> None:
    await check_rate(snapshot)
    await give(vm, snapshot.counter_offset + (await Host().read_clock("counter") - snapshot.host_counter))
