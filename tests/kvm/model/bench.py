"""A bench for the models' tests: one machine, one KVM, recipes run to their end. Each architecture has its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from guestclock.kvm.api import Host, serve
from guestclock.kvm.model import ModelKvm, lookup, model_kvm
from guestclock.machine import Machine
from guestclock.sim import PS_PER_NS, Event, Scheduler, Timeline, Trace

S = 10**9


@dataclass
class AnyBench:
    """One host with the kernel's KVM; `run` carries recipes out, `vm` and `vcpu` show what KVM remembers of VM 0.

    step_ns: how long a step takes; step_ps, if given, draws it anew for each. section_ns: between two clock reads.
    """

    kernel: Any = None
    spec: Any = None
    options: Any = None
    step_ns: int = 0
    step_ps: Callable[[], int] | None = None
    section_ns: int = 0
    trace: Trace = field(default_factory=Trace)

    def machine_on(self, timeline: Timeline, scheduler: Scheduler) -> Machine:
        raise NotImplementedError

    def __post_init__(self) -> None:
        self.timeline = Timeline(self.section_ns * PS_PER_NS)
        self.scheduler = Scheduler(self.timeline, self.step_ps or self.step_ns * PS_PER_NS)
        self.machine: Any = self.machine_on(self.timeline, self.scheduler)
        profile = lookup(self.kernel) if isinstance(self.kernel, str) else self.kernel
        self.kvm: ModelKvm[Any, Any] = model_kvm(self.machine, profile, self.scheduler, self.trace.emit, self.options)
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
    def vm(self) -> Any:
        return self.kvm.vms[0]

    def vcpu(self, index: int) -> Any:
        return self.vm.vcpus[index]

    def tracepoints(self, name: str) -> list[Event]:
        return [e for e in self.trace.of("tracepoint") if e.name == name]
