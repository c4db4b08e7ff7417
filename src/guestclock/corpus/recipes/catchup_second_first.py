"""A guest faster than a host that cannot scale: both vCPUs get one TSC, and the one written second enters first.

It computes where its TSC should be from a snapshot that is older than the write: a negative time.
"""

from __future__ import annotations

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.kvm.api import Host, Vm

SEEN = "kvm list, Oct 2023 (Christopherson on 7f187922ddf6) and Jan 2026 (Zhang); d9173f59df3a"
POLICY = {"tsc": "run"}

GUEST_KHZ = 3_000_000
FURTHER = 3_600 * 1_000 * GUEST_KHZ


async def create(host: Host, vcpus: int, snapshot: object) -> Vm:
    vm = await host.create_vm()
    for _ in range(vcpus):
        vcpu = await vm.create_vcpu()
        await vcpu.set_tsc_khz(GUEST_KHZ)
    for vcpu in vm.vcpus:
        await vcpu.enable_kvmclock()
        await vcpu.set_msr(MSR_IA32_TSC, FURTHER)
    return vm


async def pause(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.kick()


async def resume(vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.set_msr(MSR_IA32_TSC, 2 * FURTHER)
    for vcpu in vm.vcpus[::-1]:
        await vcpu.start()
