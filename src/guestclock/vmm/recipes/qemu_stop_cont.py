"""QEMU on x86, stop and cont: kvmclock stands still, the TSC runs on.

A guest on the tsc clocksource sees the pause, one on kvm-clock does not; neither can tell from the other clock. Each
vCPU's TSC is read at stop, for whoever looks at it, and not written at cont.
"""

from __future__ import annotations

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.api import Vm

SEEN = "QEMU, hw/i386/kvm/clock.c and target/i386/kvm/kvm.c, Aug 2026"
POLICY = {"tsc": "run", "kvmclock": "freeze"}


async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()
    for vcpu in vm.vcpus:  # kvm_synchronize_all_tsc()
        await vcpu.get_msr(MSR_IA32_TSC)
    vm.kept["clock"] = await vm.get_clock()


async def resume(vm: Vm) -> None:
    await vm.set_clock(vm.kept["clock"].clock_ns)
    for vcpu in vm.vcpus:
        await vcpu.kvmclock_ctrl()
    for vcpu in vm.vcpus:
        await vcpu.start()
