"""The same pause, with the rate set before there are vCPUs (KVM_SET_TSC_KHZ of the VM, 5.18)."""

from __future__ import annotations

from guestclock.corpus.recipes.set_tsc_khz_late import GUEST_KHZ, pause
from guestclock.kvm.api import Host, Vm

SEEN = "ffbb61d09fc5; dcbe5a466c12 refuses it once there is a vCPU"
POLICY = {"kvmclock": "run"}

__all__ = ["create", "pause", "resume"]


async def create(host: Host, vcpus: int, snapshot: object) -> Vm:
    vm = await host.create_vm()
    await vm.set_tsc_khz(GUEST_KHZ)
    for _ in range(vcpus):
        vcpu = await vm.create_vcpu()
        await vcpu.enable_kvmclock()
    return vm


async def resume(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.start()
