"""The operations of `guestclock.kvm.api` carried out on this machine's KVM, each with the host's counter on both sides.

A success code is no evidence: what is written is read back, and the answer goes into the trace beside the write. The
device judges nothing; hosts that ignore writes (kvm-pvm keeps every TSC offset at 0) are told apart by their readings.

An architecture's KVM is a subclass of `DeviceKvm` that enters its handlers with `@handles`.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, ClassVar, Generic, Self, TypeVar

from guestclock.abi import ioctl as abi
from guestclock.errors import UserError
from guestclock.kvm import api
from guestclock.kvm.device import host, ioctls, native
from guestclock.kvm.device.ioctls import IoctlError, Stamps
from guestclock.kvm.device.tracefs import Point, Tracepoints, Tracing
from guestclock.kvm.device.vcpu import Vcpu
from guestclock.kvm.device.vm import Vm
from guestclock.kvm.record import record
from guestclock.sim.trace import Emit, Event

VmT = TypeVar("VmT", bound=Vm[Any])
VcpuT = TypeVar("VcpuT", bound=Vcpu[Any])

Handler = Callable[[Any, Any, "Took"], Any]

_PS_PER_S = 10**12


class Took:
    """When an operation took place, by the host's counter, and what else is to be told of it."""

    def __init__(self) -> None:
        self.start = self.end = native.counter()
        self.more: dict[str, Any] = {}
        self._fixed = False

    def at(self, stamps: Stamps) -> None:
        """It took place within this sandwich; several calls span all of theirs."""
        if not self._fixed:
            self.start, self._fixed = stamps[0], True
        self.end = stamps[1]

    def done(self) -> None:
        if not self._fixed:
            self.end = native.counter()


class DeviceKvm(ABC, Generic[VmT, VcpuT]):
    """An executor over real ioctls: `drive(recipe, kvm.execute)`. Use it as a context manager.

    emit: receives the trace. host_ops_allowed: operations that change the whole host are carried out; never outside a
    lab. trace: KVM's own tracepoints as well, where this process may have them; it says so in a note where it may not.
    """

    handlers: ClassVar[dict[type[api.Op], Handler]] = {}
    """By operation; a subclass adds its own to a copy of its base's."""

    model_only: ClassVar[Mapping[str, str]] = {}
    """Why an operation is not here, where there is more to say than that."""

    registers: ClassVar[Mapping[str, Callable[[], int]]] = {}
    """What ReadHostClock can read besides the kernel's clocks: the counter, by its name here."""

    stamps_key: ClassVar[str]
    """What a sandwich is called in the trace."""

    def __init__(self, emit: Emit, *, host_ops_allowed: bool = False, trace: bool = True) -> None:
        self._sink, self._host_ops_allowed = emit, host_ops_allowed
        self._waiting: list[Event] = []
        self._vms: list[VmT] = []
        self._tracepoints: Tracepoints | None = None
        self.cpus = sorted(os.sched_getaffinity(0))
        """Physical CPUs of this process."""
        self.kvm_fd = ioctls.open_kvm()
        try:
            native.kick_signal()
            self.counter_hz, self.counter_start = self.rate_hz(), native.counter()
            if trace:
                self._open_tracepoints()
            self.counter_start = native.counter()  # time 0 is when the first operation can come
        except BaseException:
            self.close()
            raise

    # ---- an architecture's own

    @abstractmethod
    def rate_hz(self) -> int:
        """The counter's rate, as KVM and the kernel reckon with it."""

    @abstractmethod
    def new_vm(self) -> VmT:
        """KVM_CREATE_VM, and our guest in its memory."""

    @abstractmethod
    def tracing(self) -> Tracing:
        """Which of KVM's tracepoints to record."""

    @abstractmethod
    def rates(self) -> dict[str, Any]:
        """The counter's rate and where it was at time 0, as the trace's meta has them."""

    # ---- life

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Kicks and joins every vCPU, closes every descriptor, removes the trace instance. May be called twice."""
        for vm in self._vms:
            vm.close()
        self._vms.clear()
        if self._tracepoints is not None:
            self._flush()
            self._tracepoints.close()
            self._tracepoints = None
        if self.kvm_fd >= 0:
            os.close(self.kvm_fd)
            self.kvm_fd = -1

    def meta(self) -> dict[str, Any]:
        """What a trace of this machine says about itself."""
        keeps = {"clocksource": host.clocksource(), "clocksources": host.clocksources()}
        return {"on": "kvm", "kernel": os.uname().release, **self.rates(), **keeps}

    def ps(self, counter: int) -> int:
        """True time of a value of the host's counter: at its rate, from the device's creation."""
        return (counter - self.counter_start) * _PS_PER_S // self.counter_hz

    def execute(self, op: api.Op) -> Any:
        """Carries out one operation and records it. Raises KvmError where KVM refuses, UserError where we do."""
        handler = self.handlers.get(type(op))
        if handler is None:
            raise UserError(f"{op.name}: {self.model_only.get(op.name, 'no ioctl does this')}; run it on the model")
        if self.kvm_fd < 0:
            raise UserError(f"{op.name}: this {type(self).__name__} is closed")
        took = Took()
        try:
            answer = handler(self, op, took)
        except IoctlError as refusal:
            took.at(refusal.stamps)
            answer = api.KvmError(refusal.errno, op, refusal.why)
            if refusal.why:
                took.more["why"] = refusal.why
        took.done()
        record(self._waiting.append, op, self.ps(took.start), self.ps(took.end), answer, took.more)
        self._flush()
        if isinstance(answer, api.KvmError):
            raise answer
        return answer

    # ---- the trace

    def _flush(self) -> None:
        """What the operation and the kernel have said since, by time."""
        if self._tracepoints is not None:
            self._waiting += map(self._as_event, self._tracepoints.drain())
        for event in sorted(self._waiting, key=lambda e: e.end_ps if e.kind in _BY_THEIR_END else e.start_ps):
            self._sink(event)
        self._waiting.clear()

    def _as_event(self, point: Point) -> Event:
        first, last = point.stamps
        return Event("tracepoint", point.name, self.ps(first), self.ps(last), point.vcpu, point.data)

    def _open_tracepoints(self) -> None:
        try:
            self._tracepoints = Tracepoints(self.tracing(), whole_machine=self._host_ops_allowed)
        except UserError as missing:
            now = self.ps(native.counter())
            self._sink(Event("note", "no-tracepoints", now, now, None, {"why": str(missing)}))

    # ---- for handlers

    def vm(self, op: Any) -> VmT:
        """The VM an operation names."""
        index: int = op.vm
        if not 0 <= index < len(self._vms):
            raise UserError(f"{op.name}: no VM {index} ({len(self._vms)} created)")
        return self._vms[index]

    def vcpu(self, op: Any, *, in_guest_too: bool = False) -> VcpuT:
        """The vCPU an operation names, out of KVM_RUN unless that is allowed."""
        vcpus, index = self.vm(op).vcpus, int(op.vcpu)
        if not 0 <= index < len(vcpus):
            raise UserError(f"{op.name}: VM {op.vm} has no vCPU {index} ({len(vcpus)} created)")
        vcpu: VcpuT = vcpus[index]
        if vcpu.spinning and not in_guest_too:
            raise UserError(f"{op.name}: vCPU {index} is in KVM_RUN since Start: Kick it first")
        return vcpu

    def read_back(self, took: Took, value: Any, stamps: Stamps, same: bool | None = None) -> None:
        """What a write left behind; same: is it what was written?"""
        told = {"value": value, self.stamps_key: list(stamps)}
        took.more["readback"] = told if same is None else {**told, "same": same}

    def change_host(self, op: api.Op) -> None:
        """Raises UserError where the host is not ours to change."""
        if not self._host_ops_allowed:
            raise UserError(f"{op.name}: changes the whole host, which is not ours; run it in the lab or on the model")


_BY_THEIR_END = ("guest", "tracepoint")
"""Events that belong behind the operation they are part of; a tracepoint's stamp may be wider than what it stamps."""


def handles(handlers: dict[type[api.Op], Handler], op: type[api.Op]) -> Callable[[Handler], Handler]:
    """Enters the decorated function as what carries out `op`: (kvm, op, took) -> answer."""

    def enter(handler: Handler) -> Handler:
        handlers[op] = handler
        return handler

    return enter


Device = DeviceKvm[Vm[Any], Vcpu[Any]]

# ---- /dev/kvm and VMs


@handles(DeviceKvm.handlers, api.CheckExtension)
def _check_extension(self: Device, op: api.CheckExtension, took: Took) -> int:
    answer = ioctls.call(self.kvm_fd, abi.KVM_CHECK_EXTENSION, op.capability)
    took.at(answer.stamps)
    return answer.value


@handles(DeviceKvm.handlers, api.CreateVm)
def _create_vm(self: Device, op: api.CreateVm, took: Took) -> int:
    vm = self.new_vm()
    self._vms.append(vm)
    took.at(vm.created.stamps)
    return len(self._vms) - 1


@handles(DeviceKvm.handlers, api.CreateVcpu)
def _create_vcpu(self: Device, op: api.CreateVcpu, took: Took) -> int:
    vm = self.vm(op)
    vcpu: Vcpu[Any] = vm.create_vcpu(self.cpus[len(vm.vcpus) % len(self.cpus)], op.id)
    if self._tracepoints is not None and vcpu.tid is not None:
        self._tracepoints.threads[vcpu.tid] = (op.vm, vcpu.index)
    took.at(vcpu.created.stamps)
    took.more |= vcpu.facts()
    return vcpu.index


# ---- vCPUs


@handles(DeviceKvm.handlers, api.Start)
def _start(self: Device, op: api.Start, took: Took) -> None:
    took.at(self.vcpu(op).start())


@handles(DeviceKvm.handlers, api.Kick)
def _kick(self: Device, op: api.Kick, took: Took) -> None:
    vcpu = self.vcpu(op, in_guest_too=True)
    took.more["was_in_guest"] = vcpu.spinning
    took.at(vcpu.kick())


@handles(DeviceKvm.handlers, api.MoveToCpu)
def _move_to_cpu(self: Device, op: api.MoveToCpu, took: Took) -> None:
    vcpu = self.vcpu(op)
    if op.cpu not in self.cpus:
        raise UserError(f"MoveToCpu: no CPU {op.cpu} for this process (it has {', '.join(map(str, self.cpus))})")
    vcpu.move_to(op.cpu)


# ---- the host


@handles(DeviceKvm.handlers, api.Wait)
def _wait(self: Device, op: api.Wait, took: Took) -> None:
    time.sleep(op.ns / 1e9)


@handles(DeviceKvm.handlers, api.ReadHostClock)
def _read_host_clock(self: Device, op: api.ReadHostClock, took: Took) -> int:
    value, stamps = host.read_clock(op.clock, self.registers)
    took.at(stamps)
    return value


@handles(DeviceKvm.handlers, api.SetClocksource)
def _set_clocksource(self: Device, op: api.SetClocksource, took: Took) -> None:
    self.change_host(op)
    host.set_clocksource(op.clocksource)
    took.done()
    now = host.clocksource()
    self.read_back(took, now, (took.end, native.counter()), now == op.clocksource)


@handles(DeviceKvm.handlers, api.StepRealtime)
def _step_realtime(self: Device, op: api.StepRealtime, took: Took) -> None:
    self.change_host(op)
    host.step_realtime(op.ns)


@handles(DeviceKvm.handlers, api.AdjustFrequency)
def _adjust_frequency(self: Device, op: api.AdjustFrequency, took: Took) -> None:
    self.change_host(op)
    host.adjust_frequency(op.ppb)


@handles(DeviceKvm.handlers, api.Note)
def _note(self: Device, op: api.Note, took: Took) -> None:
    pass
