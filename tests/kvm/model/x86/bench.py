"""A bench for the model's tests: one machine, one KVM, recipes run to their end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from guestclock.kvm.api import Host, Vm, serve
from guestclock.kvm.model import lookup
from guestclock.kvm.model.x86 import KvmOptions, Profile, VcpuTime, VmTime, X86Kvm
from guestclock.machine import HostSpec, X86Machine
from guestclock.sim import PS_PER_NS, Event, Scheduler, Timeline, Trace

S = 10**9
TSC = 0x10


@dataclass
class Bench:
    """One host with the kernel's KVM; `run` carries recipes out, `vm` and `vcpu` show what KVM remembers of VM 0.

    step_ns: how long a step takes; step_ps, if given, draws it anew for each. section_ns: between two clock reads.
    """

    kernel: str | Profile = "linux-6.12"
    spec: HostSpec = field(default_factory=HostSpec)
    options: KvmOptions | None = None
    step_ns: int = 0
    step_ps: Callable[[], int] | None = None
    section_ns: int = 0
    trace: Trace = field(default_factory=Trace)

    def __post_init__(self) -> None:
        self.timeline = Timeline(self.section_ns * PS_PER_NS)
        self.scheduler = Scheduler(self.timeline, self.step_ps or self.step_ns * PS_PER_NS)
        self.machine = X86Machine(self.timeline, self.spec, scheduler=self.scheduler)
        profile = lookup(self.kernel) if isinstance(self.kernel, str) else self.kernel
        self.kvm = X86Kvm(self.machine, profile, self.scheduler, self.trace.emit, self.options)
        self.host = Host()

    def run(self, recipe: Callable[[Host], Awaitable[Any]], *others: Callable[[Host], Awaitable[Any]]) -> Any:
        """Runs recipes, each as a thread of the VMM of its own; answers the first one's result."""
        results: list[Any] = [None] * (1 + len(others))

        async def keep(index: int, one: Callable[[Host], Awaitable[Any]]) -> None:
            results[index] = await serve(one(self.host), self.kvm.execute)  # type: ignore[arg-type]

        for index, one in enumerate((recipe, *others)):
            self.scheduler.spawn(f"VMM {index}", keep(index, one))
        self.scheduler.run()
        return results[0]

    @property
    def vm(self) -> VmTime:
        return self.kvm.vms[0]

    def vcpu(self, index: int) -> VcpuTime:
        vcpu: VcpuTime = self.vm.vcpus[index]
        return vcpu

    def tracepoints(self, name: str) -> list[Event]:
        return [e for e in self.trace.of("tracepoint") if e.name == name]


async def vm_with(host: Host, vcpus: int, *, kvmclock: bool = True) -> Vm:
    """A VM with so many vCPUs, each with a system-time page."""
    vm = await host.create_vm()
    for _ in range(vcpus):
        vcpu = await vm.create_vcpu()
        if kvmclock:
            await vcpu.enable_kvmclock()
    return vm


async def probe(vm: Vm) -> int:
    """SET_CLOCK, then the flags of GET_CLOCK: 14 if all vCPUs match, 0 if not. The cheapest probe of matching."""
    await vm.set_clock(10 * S)
    return (await vm.get_clock()).flags
