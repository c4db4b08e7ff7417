"""The vCPUs are stopped and let go again; no clock is touched, all of them run on."""

from __future__ import annotations

from guestclock.kvm.api import Vm

POLICY = {"tsc": "run", "kvmclock": "run"}


async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()


async def resume(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.start()
