"""Both vCPUs get a new TSC offset, an hour on. The one written second enters first: a new TSC with the old page."""

from __future__ import annotations

from guestclock.kvm.api import Vm

SEEN = "by reading c52ffadc65e2 (6.8): only the vCPU that opens the generation has its page updated"
POLICY = {"kvmclock": "run"}

HOUR_S = 3_600


async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()


async def resume(vm: Vm) -> None:
    first = vm.vcpus[0]
    offset = await first.get_tsc_offset() + HOUR_S * 1_000 * await first.get_tsc_khz()
    for vcpu in vm.vcpus:
        await vcpu.set_tsc_offset(offset)
    for vcpu in vm.vcpus[::-1]:
        await vcpu.start()
