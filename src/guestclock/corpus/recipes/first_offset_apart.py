"""vCPU 0 gets another TSC offset and is not let go; vCPU 1 runs on with a page that says all TSCs agree."""

from __future__ import annotations

from guestclock.kvm.api import Host, Vm

SEEN = "observed on 6.18: the request for a new snapshot waits on the vCPU that was written"
POLICY = {"kvmclock": "run"}

WAITS_NS = 10**9


async def pause(vm: Vm) -> None:
    await vm.vcpus[0].kick()


async def resume(vm: Vm) -> None:
    first = vm.vcpus[0]
    await first.set_tsc_offset(await first.get_tsc_offset() + 1_000_000 * await first.get_tsc_khz() // 1_000)
    await Host().wait(WAITS_NS)
    await first.start()
