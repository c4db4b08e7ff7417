"""A guest of 3 GHz on a slower host that cannot scale: KVM catches its TSC up at each entry. It is paused."""

from __future__ import annotations

from guestclock.corpus.recipes.catchup_second_first import GUEST_KHZ
from guestclock.corpus.recipes.paused_only import pause, resume
from guestclock.kvm.api import Host, Vm

SEEN = "arch/x86/kvm/x86.c kvm_guest_time_update(), v6.12"
POLICY = {"tsc": "run"}

__all__ = ["create", "pause", "resume"]


async def create(host: Host, vcpus: int, snapshot: object) -> Vm:
    vm = await host.create_vm()
    for _ in range(vcpus):
        vcpu = await vm.create_vcpu()
        await vcpu.set_tsc_khz(GUEST_KHZ)
        await vcpu.enable_kvmclock()
    return vm
