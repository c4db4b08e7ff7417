"""Something asks for a new masterclock snapshot, here KVM's set-up of a Xen guest's shared page. Nothing shall change."""

from __future__ import annotations

from guestclock.kvm.api import Vm

SEEN = "arch/x86/kvm/xen.c kvm_xen_shared_info_init(), v6.12"
POLICY = {"tsc": "run", "kvmclock": "run"}


async def pause(vm: Vm) -> None:
    """The guest runs on."""


async def resume(vm: Vm) -> None:
    await vm.xen_shared_info_init()
