"""A VMM that looks for a sleep before every KVM_RUN (G3), on arm64: one counter for the whole VM, and no kvmclock.

The host's counter runs on over every sleep, so there is nothing that KVM makes up for; how far the guest's shall have
come is said by MONOTONIC_RAW, as on x86, and one call moves both counters of all vCPUs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from guestclock.arith import u64
from guestclock.checks.suspend import detect
from guestclock.kvm import api
from guestclock.kvm.model.arm64.run import kvm_run


class Look(NamedTuple):
    """One instant: the host's counter (ticks), MONOTONIC_RAW and BOOTTIME - MONOTONIC (ns)."""

    counter: Any
    raw_ns: Any
    offs_boot_ns: Any


class DetectArm64(detect.Detect):
    async def joins(self, i: int) -> None:
        """It does: an offset was given to the VM before it ran."""

    async def kvm_run(self, vcpu: Any) -> None:
        await kvm_run(vcpu)

    def look(self) -> Look:
        machine = self.stage.machine
        base_ns, counter = machine.boottime_and_counter()
        offs_boot_ns = machine.ktime_get_offs_boot_ns()
        return Look(counter, base_ns - offs_boot_ns, offs_boot_ns)

    async def put(self, was: Look, now: Look, ran_ns: Any) -> Look:
        ran = ran_ns * self.stage.setting.host_khz * (detect.RAW_IS_SLOW + 1) // (detect.RAW_IS_SLOW * 1_000_000)
        self.stage.offset = u64(self.stage.offset + now.counter - was.counter - ran)
        await self.stage.execute(api.SetCounterOffset(0, self.stage.offset))
        return now
