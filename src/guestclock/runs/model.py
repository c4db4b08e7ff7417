"""A variation of a scenario on the exact model."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

from guestclock.errors import UserError
from guestclock.kvm.api import Host, Kick, MoveToCpu, Op, Peek, Preempt, Start, serve
from guestclock.kvm.model import lookup, model_kvm
from guestclock.kvm.model.arm64.host import KvmOptions as Arm64Options
from guestclock.machine import Arm64Machine, Machine, X86Machine
from guestclock.scenario import Variation
from guestclock.scenario.document import Arm64HostTable
from guestclock.sim import Deadlock, Scheduler, Timeline, Trace, drawn_ps
from guestclock.vmm.clocks import ARM64
from guestclock.vmm.steps import play

Execute = Callable[[Op], Awaitable[Any]]

STEP_PS = 1_000_000
READ_PS = 20_000
"""Without a seed, a step takes 1 µs and a clock read inside a kernel section 20 ns."""

DRAWN_STEP_PS = (200_000, 20_000_000)
DRAWN_READ_PS = (10_000, 60_000)
"""With one, they are drawn: 0.2 to 20 µs, and 10 to 60 ns."""


def run_model(variation: Variation, *, kernel: str, seed: int | None = None, tsc_khz: int | None = None) -> Trace:
    """The trace. kernel: a profile's name. seed: durations are drawn, and the same seed draws the same ones again.
    tsc_khz: an x86 machine's, unless the scenario gives it one.
    """
    step_ps, read_ps = STEP_PS, READ_PS
    if seed is None:
        timeline = Timeline(read_ps)
        scheduler = Scheduler(timeline, step_ps)
    else:
        timeline = Timeline(drawn_ps(Random(f"{seed} reads"), *DRAWN_READ_PS))
        scheduler = Scheduler(timeline, drawn_ps(Random(f"{seed} steps"), *DRAWN_STEP_PS))
    machine, meta = _machine(variation, timeline, scheduler, tsc_khz)
    trace = Trace({"on": "model", "kernel": kernel, **meta, "clocksource": machine.clocksource})
    options = Arm64Options(nested=True) if variation.program.get("nested") else None
    kvm = model_kvm(machine, lookup(kernel), scheduler, trace.emit, options)
    program = (
        {**variation.program, "tsc_khz": machine.tsc_khz} if isinstance(machine, X86Machine) else variation.program
    )
    scheduler.spawn("VMM", serve(play(Host(), program), _outside_kvm_run(kvm.execute)))
    try:
        scheduler.run()
    except Deadlock as deadlock:
        raise UserError(f"step {_last_step(trace)}: nobody can go on: {deadlock}") from None
    except UserError as error:
        raise UserError(f"step {_last_step(trace)}: {error}") from None
    return trace


def _machine(
    variation: Variation, timeline: Timeline, scheduler: Scheduler, tsc_khz: int | None
) -> tuple[Machine, dict[str, Any]]:
    """The host, and what a trace's first line says of its counter."""
    if isinstance(variation.host, Arm64HostTable):
        arm = variation.host.spec()
        counter = {"counter_hz": arm.counter_hz, "counter_true_hz": str(arm.rate), "counter_start": arm.first_counter}
        return Arm64Machine(timeline, arm, scheduler=scheduler), {"arch": ARM64, **counter}
    spec = variation.host.spec(**({} if tsc_khz is None else {"tsc_khz": tsc_khz}))
    x86 = X86Machine(timeline, spec, scheduler=scheduler)
    rates = {"tsc_khz": x86.tsc_khz, "tsc_hz": str(spec.true_hz), "tsc_start": spec.first_tsc}
    return x86, {
        **rates, "tsc_frac_bits": spec.tsc_scaling_frac_bits, "tsc_tolerance_ppm": spec.tsc_tolerance_ppm,
    }  # fmt: skip


def _outside_kvm_run(execute: Execute) -> Execute:
    """An ioctl on a vCPU that is in KVM_RUN waits for its mutex, and one VMM thread that waits will never kick it: the
    kernel's workers would go on for ever. Told at once, as the real device does.
    """
    started: set[tuple[int, int]] = set()

    async def checked(op: Op) -> Any:
        which = getattr(op, "vm", -1), getattr(op, "vcpu", None)
        if which in started and not isinstance(op, Kick | Peek | MoveToCpu | Preempt):
            raise UserError(f"{op.name} waits for vCPU {which[1]}'s mutex, which its KVM_RUN holds: kick it first")
        answer = await execute(op)
        if isinstance(op, Start):
            started.add((op.vm, op.vcpu))
        elif isinstance(op, Kick):
            started.discard((op.vm, op.vcpu))
        return answer

    return checked


def _last_step(trace: Trace) -> str:
    steps = list(trace.of("step"))
    return f"{steps[-1].data['index'] + 1} ({steps[-1].name})" if steps else "0"
