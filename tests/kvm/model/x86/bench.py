"""The bench of the x86 model's tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.kvm.model.bench import AnyBench, S

from guestclock.kvm.api import Host, Vm
from guestclock.kvm.model.x86 import KvmOptions, Profile, VcpuTime, VmTime
from guestclock.machine import HostSpec, X86Machine
from guestclock.sim import Scheduler, Timeline

TSC = 0x10

__all__ = ["TSC", "Bench", "S", "probe", "vm_with"]


@dataclass
class Bench(AnyBench):
    kernel: str | Profile = "linux-6.12"
    spec: HostSpec = field(default_factory=HostSpec)
    options: KvmOptions | None = None

    def machine_on(self, timeline: Timeline, scheduler: Scheduler) -> X86Machine:
        return X86Machine(timeline, self.spec, scheduler=scheduler)

    @property
    def vm(self) -> VmTime:
        vm: VmTime = self.kvm.vms[0]
        return vm

    def vcpu(self, index: int) -> VcpuTime:
        vcpu: VcpuTime = self.vm.vcpus[index]
        return vcpu


async def vm_with(host: Host, vcpus: int, *, kvmclock: bool = True) -> Vm:
    """A VM with so many vCPUs, each with a system-time page."""
    vm = await host.create_vm()
    for _ in range(vcpus):
        vcpu = await vm.create_vcpu()
        if kvmclock:
            await vcpu.enable_kvmclock()
    return vm


async def probe(vm: Vm) -> Any:
    """SET_CLOCK, then the flags of GET_CLOCK: 14 if all vCPUs match, 0 if not. The cheapest probe of matching."""
    await vm.set_clock(10 * S)
    return (await vm.get_clock()).flags
