"""arm64 by offset, to another host: the guest's counters are where they would be if it had never stopped.

The two hosts' counters are tied by their wall clocks, a pair on either side: what these are wrong by, the guest is, and
no more. When the VMM gets to write makes no difference. A host whose counter has another rate is refused.
"""

from __future__ import annotations

from guestclock.errors import UserError
from guestclock.kvm.api import Host, Vm
from guestclock.vmm.recipes.arm64_by_offset import create, give, pair, save
from guestclock.vmm.snapshot import Arm64Snapshot

ARCH = "arm64"
SEEN = "kvmarm list, 'Add idempotent controls for migrating system counter state', 2021, by the ioctl of 6.4"
POLICY = {"cntvct": "advance", "cntpct": "advance"}

__all__ = ["create", "restore", "save"]


async def restore(vm: Vm, snapshot: Arm64Snapshot) -> None:
    await check_rate(snapshot)
    counter, realtime_ns = await pair()
    passed = (
        (realtime_ns - snapshot.realtime_ns) * snapshot.counter_hz + 500_000_000
    ) // 1_000_000_000  # to the nearest
    await give(vm, snapshot.counter_offset + (counter - snapshot.host_counter) - passed)


async def check_rate(snapshot: Arm64Snapshot) -> None:
    """Nothing scales on arm64: another rate is not put right, it is refused."""
    hz = await Host().read_clock("cntfrq")
    if hz != snapshot.counter_hz:
        raise UserError(f"counter_hz: {snapshot.counter_hz} Hz, expected this host's, {hz} Hz")
