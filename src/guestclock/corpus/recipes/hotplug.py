"""A vCPU is plugged into a running guest. No clock is asked to change."""

from __future__ import annotations

from guestclock.kvm.api import Vm

SEEN = "kvm list, 'Re: [PATCH RFC 1/1] KVM: x86: add param to update master clock periodically', 16 Oct 2023"
POLICY = {"tsc": "run", "kvmclock": "run"}


async def pause(vm: Vm) -> None:
    """The others run on."""


async def resume(vm: Vm) -> None:
    vcpu = await vm.create_vcpu()
    await vcpu.enable_kvmclock()
    await vcpu.start()
