"""While the guest is paused the host finds its TSC unstable: the guest's TSC stands still whenever a vCPU does."""

from __future__ import annotations

from guestclock.kvm.api import MarkTscUnstable, Vm

SEEN = "arch/x86/kvm/x86.c kvm_arch_vcpu_load(), v6.12"
POLICY = {"tsc": "run"}


async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()


async def resume(vm: Vm) -> None:
    await MarkTscUnstable()
    for vcpu in vm.vcpus:
        await vcpu.start()
