"""A timer three hours off is armed again when a vCPU is restored on the same host, TSC and deadline unchanged."""

from __future__ import annotations

from guestclock.abi.msr import MSR_IA32_TSC_DEADLINE
from guestclock.kvm.api import Vm

SEEN = "arch/x86/kvm/lapic.c start_sw_tscdeadline(), v6.12: (deadline - tsc) * 1000000 wraps"
POLICY = {"tsc": "run"}

HOURS_S = 3 * 3_600


async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()


async def resume(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        far = HOURS_S * 1_000 * await vcpu.get_tsc_khz()
        await vcpu.set_msr(MSR_IA32_TSC_DEADLINE, (await vcpu.peek()).tsc + far)
        await vcpu.start()
