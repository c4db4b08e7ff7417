"""Something asks for a new masterclock snapshot, here the set-up of a Xen guest's shared page. Nothing shall change."""

from __future__ import annotations

from guestclock.kvm.api import Host, Vm

SEEN = "arch/x86/kvm/xen.c kvm_xen_shared_info_init(), v6.12"
POLICY = {"tsc": "run", "kvmclock": "run"}

BOOT_NS = 1_000


async def create(host: Host, vcpus: int, snapshot: object) -> Vm:
    """Nobody enters at the very cycle at which the TSC is 0."""
    vm = await host.create_vm()
    for _ in range(vcpus):
        vcpu = await vm.create_vcpu()
        await vcpu.enable_kvmclock()
    await host.wait(BOOT_NS)
    return vm


async def pause(vm: Vm) -> None:
    """The guest runs on."""


async def resume(vm: Vm) -> None:
    await vm.xen_shared_info_init()
