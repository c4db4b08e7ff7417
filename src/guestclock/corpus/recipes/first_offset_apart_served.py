"""The same, but vCPU 0 goes through KVM_RUN with a signal pending as soon as it is written."""

from __future__ import annotations

from guestclock.corpus.recipes.first_offset_apart import WAITS_NS, pause
from guestclock.kvm.api import Host, Vm

SEEN = "this project, Nov 2026"
POLICY = {"kvmclock": "run"}

__all__ = ["pause", "resume"]


async def resume(vm: Vm) -> None:
    first = vm.vcpus[0]
    await first.set_tsc_offset(await first.get_tsc_offset() + 1_000_000 * await first.get_tsc_khz() // 1_000)
    await first.run()
    await Host().wait(WAITS_NS)
    await first.start()
