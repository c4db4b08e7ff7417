"""What carries out the operations of `kvm.api` on a model, whatever the architecture: calls, refusals, the host's own.

An architecture's KVM is a subclass of `ModelKvm` that enters its handlers with `@handles`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from guestclock.errors import UserError
from guestclock.kvm import api
from guestclock.kvm.api import KvmError, Op
from guestclock.kvm.record import record
from guestclock.machine import Machine
from guestclock.sim import PS_PER_NS, Checkpoint, Emit, Timeline, cp

Handler = Callable[[Any, Any], Coroutine[Checkpoint, None, Any]]


class Spawner(Protocol):
    """What KVM needs of a scheduler: kernel workers and vCPU threads are its daemons."""

    def spawn(self, name: str, actor: Coroutine[Checkpoint, None, Any], *, daemon: bool = False) -> None: ...


VmT = TypeVar("VmT")
VcpuT = TypeVar("VcpuT")


class ModelHost(Protocol):
    """One kvm module on one machine, as far as every architecture's has it."""

    @property
    def machine(self) -> Machine: ...
    @property
    def emit(self) -> Emit | None: ...
    @property
    def timeline(self) -> Timeline: ...
    @property
    def vms(self) -> Sequence[Any]: ...


class ModelKvm(Generic[VmT, VcpuT]):
    """KVM of one kernel on one machine; `execute` carries out any operation of `kvm.api`.

    handlers: by operation; a subclass adds its own to a copy of its base's.
    """

    handlers: ClassVar[dict[type[Op], Handler]] = {}
    host: Any
    """The subclass's ModelHost."""

    async def execute(self, op: Op) -> Any:
        """Carries out one operation, as a thread of the VMM does; raises KvmError where the kernel refuses it."""
        host: ModelHost = self.host
        await cp(type(op).__name__)
        machine = host.machine
        while not machine.tasks_run():
            await cp(type(op).__name__, until=machine.tasks_run)
        handler = self.handlers.get(type(op))
        if handler is None:
            raise UserError(f"{op.name}: {type(self).__name__} has no such operation: it is of another architecture")
        emit = host.emit
        if emit is None:
            return await handler(self, op)
        start_ps = host.timeline.now_ps
        try:
            answer = await handler(self, op)
        except KvmError as error:
            record(emit, op, start_ps, host.timeline.now_ps, error)
            raise
        record(emit, op, start_ps, host.timeline.now_ps, answer)
        return answer

    @property
    def vms(self) -> tuple[VmT, ...]:
        """Every VM, by number."""
        return self.host.vms  # type: ignore[no-any-return]

    def vm(self, op: Any) -> VmT:
        """The VM an operation names."""
        vms: tuple[VmT, ...] = self.host.vms
        if not 0 <= op.vm < len(vms):
            raise UserError(f"{op.name}: VM {op.vm} does not exist, expected one of {len(vms)}")
        return vms[op.vm]  # type: ignore[no-any-return]

    def vcpu(self, op: Any) -> VcpuT:
        """The vCPU an operation names."""
        vm: Any = self.vm(op)
        vcpus: tuple[VcpuT, ...] = vm.vcpus
        if not 0 <= op.vcpu < len(vcpus):
            raise UserError(f"{op.name}: vCPU {op.vcpu} of VM {op.vm} does not exist, expected one of {len(vcpus)}")
        return vcpus[op.vcpu]  # type: ignore[no-any-return]


def handles(handlers: dict[type[Op], Handler], op: type[Op]) -> Callable[[Handler], Handler]:
    """Enters the decorated coroutine function as what carries out `op`."""

    def enter(handler: Handler) -> Handler:
        handlers[op] = handler  # setup: at import
        return handler

    return enter


# ---- the host, which is nobody's architecture


@handles(ModelKvm.handlers, api.Wait)
async def _wait(self: ModelKvm[Any, Any], op: api.Wait) -> None:
    if op.ns < 0:
        raise UserError(f"Wait: {op.ns} ns, expected 0 or more")
    await cp("Wait", delay_ps=op.ns * PS_PER_NS)


@handles(ModelKvm.handlers, api.ReadHostClock)
async def _read_host_clock(self: ModelKvm[Any, Any], op: api.ReadHostClock) -> int:
    return self.host.machine.read_clock(op.clock)  # type: ignore[no-any-return]


@handles(ModelKvm.handlers, api.SetClocksource)
async def _set_clocksource(self: ModelKvm[Any, Any], op: api.SetClocksource) -> None:
    self.host.machine.set_clocksource(op.clocksource)


@handles(ModelKvm.handlers, api.StepRealtime)
async def _step_realtime(self: ModelKvm[Any, Any], op: api.StepRealtime) -> None:
    self.host.machine.step_realtime(op.ns)


@handles(ModelKvm.handlers, api.AdjustFrequency)
async def _adjust_frequency(self: ModelKvm[Any, Any], op: api.AdjustFrequency) -> None:
    self.host.machine.adjust_frequency(op.ppb)


@handles(ModelKvm.handlers, api.HostSleep)
async def _host_sleep(self: ModelKvm[Any, Any], op: api.HostSleep) -> None:
    await self.host.machine.sleep(op.ns, op.tsc, op.kind)


@handles(ModelKvm.handlers, api.Note)
async def _note(self: ModelKvm[Any, Any], op: api.Note) -> None:
    return None
