"""The TSC's rate is set when the guest has run already: its TSC jumps, and its page is still made for the old rate."""

from __future__ import annotations

from guestclock.kvm.api import Vm

SEEN = "arch/x86/kvm/x86.c kvm_vcpu_write_tsc_multiplier(), v6.12: no offset is mended, nothing is requested"
POLICY = {"kvmclock": "run"}

GUEST_KHZ = 2_000_000


async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()


async def resume(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.set_tsc_khz(GUEST_KHZ)
        await vcpu.start()
