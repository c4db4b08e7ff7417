"""How operations and their answers enter the trace: the same for the model and for real ioctls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from guestclock.kvm.api import (
    ClockReading,
    CounterReading,
    KvmError,
    Note,
    Op,
    Peek,
    ReadClocks,
    ReadCounters,
    ReadHostClock,
    Run,
)
from guestclock.sim.trace import Emit, Event


def as_json(answer: Any) -> Any:
    """An answer of `kvm.api` as JSON values."""
    if is_dataclass(answer) and not isinstance(answer, type):
        return asdict(answer)
    if isinstance(answer, list | tuple):
        return [as_json(a) for a in answer]
    return answer


def record(emit: Emit, op: Op, start_ps: int, end_ps: int, answer: Any, more: Mapping[str, Any] | None = None) -> None:
    """Emits what became of `op`: one `op` event, or the reading that it was for.

    answer: what the executor returned, or the KvmError it raised. more: what it knows besides (a write read back),
    JSON values that go into the `op` event's data.
    """
    beside = dict(more or {})
    vcpu: int | None = getattr(op, "vcpu", None)
    if isinstance(op, Note):
        emit(Event(op.kind, op.name_, start_ps, end_ps, None, dict(op.data)))
        return
    if isinstance(answer, KvmError):
        emit(Event("op", op.name, start_ps, end_ps, vcpu, {"op": op.as_json(), "error": answer.errno, **beside}))
        return
    if isinstance(op, Peek):
        emit(Event("peek", _shown(answer), start_ps, end_ps, vcpu, {"vm": op.vm, **as_json(answer)}))
        return
    if isinstance(op, ReadHostClock):
        emit(Event("host", op.clock, start_ps, end_ps, None, {"value": answer}))
        return
    emit(Event("op", op.name, start_ps, end_ps, vcpu, {"op": op.as_json(), "result": as_json(answer), **beside}))
    if isinstance(op, Run):
        for action, got in zip(op.actions, answer, strict=True):
            if isinstance(action, ReadClocks | ReadCounters):
                assert isinstance(got, ClockReading | CounterReading)
                emit(Event("guest", _shown(got), start_ps, end_ps, vcpu, {"vm": op.vm, **as_json(got)}))


def _shown(reading: ClockReading | CounterReading) -> str:
    """The event's name: an x86 guest's TSC and page are "clocks", an arm64 guest's two are "counters"."""
    return "clocks" if isinstance(reading, ClockReading) else "counters"
