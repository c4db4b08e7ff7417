"""The bench of the arm64 model's tests, and what a guest's counters ought to show."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

from tests.kvm.model.bench import AnyBench, S

from guestclock.kvm.api import Host, KvmError, Vm
from guestclock.kvm.model.arm64 import KvmOptions, Profile, TimerContext, VcpuTime, VmTime
from guestclock.kvm.model.arm64.state import TIMER_PTIMER, TIMER_VTIMER
from guestclock.machine import Arm64Machine, Arm64Spec
from guestclock.sim import Scheduler, Timeline

__all__ = ["FEW", "HZ", "Bench", "S", "errno", "tried", "vm_with"]

HZ = 62_500_000
"""The default rate of the counter: a tick is 16 ns."""

FEW = 100
"""Ticks that a few operations in a row take at most, in these benches."""


@dataclass
class Bench(AnyBench):
    kernel: str | Profile = "linux-6.12-arm64"
    spec: Arm64Spec = field(default_factory=Arm64Spec)
    options: KvmOptions | None = None

    def machine_on(self, timeline: Timeline, scheduler: Scheduler) -> Arm64Machine:
        return Arm64Machine(timeline, self.spec, scheduler=scheduler)

    @property
    def vm(self) -> VmTime:
        vm: VmTime = self.kvm.vms[0]
        return vm

    def vcpu(self, index: int) -> VcpuTime:
        return self.vm.vcpus[index]

    def vtimer(self, index: int) -> TimerContext:
        return self.vcpu(index).timers[TIMER_VTIMER]

    def ptimer(self, index: int) -> TimerContext:
        return self.vcpu(index).timers[TIMER_PTIMER]

    @property
    def now(self) -> int:
        """The host's counter at this instant."""
        counter: int = self.machine.counter_at(self.timeline.now_ps)
        return counter


async def vm_with(host: Host, vcpus: int) -> Vm:
    """A VM with so many vCPUs and no irqchip in the kernel."""
    vm = await host.create_vm()
    for _ in range(vcpus):
        await vm.create_vcpu()
    return vm


async def tried(op: Awaitable[Any]) -> Any:
    """The answer, or the errno of a kernel that refuses it."""
    try:
        return await op
    except KvmError as refused:
        return refused.errno


async def errno(op: Awaitable[Any]) -> str:
    """The errno of what is refused, which says why; "" if it is not."""
    try:
        await op
    except KvmError as refused:
        return refused.errno if refused.why else "no reason given"
    return ""
