"""A variation of a scenario on real kernels: this host's KVM, or a kernel in the lab."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from guestclock.errors import UserError
from guestclock.lab import Lab
from guestclock.lab.boot import ODD_TSC_KHZ, program_sleeps
from guestclock.scenario import Variation
from guestclock.scenario.document import Arm64HostTable
from guestclock.sim import Event, Trace
from guestclock.sim.trace import TRACE_VERSION
from guestclock.vmm.clocks import ARM64
from guestclock.vmm.on_device import run_program


def run_kvm(variation: Variation) -> Trace:
    """On /dev/kvm of this host. UserError where there is none, or no permission."""
    lines: list[dict[str, Any]] = []
    run_program(variation.program, lines.append)
    return from_lines(lines)


def run_lab(
    variations: Sequence[Variation], kernel: str, cpu: str = "", progress: Callable[[str], None] = lambda line: None
) -> list[Trace]:
    """On `kernel` in the lab: virtual time, the same bytes each run; for each variation a host that has just booted.

    cpu: what an arm64 kernel runs on, "" for the usual. UserError where a tool or the image is missing, or a step
    cannot be done.
    """
    by_host: dict[tuple[tuple[str, Any], ...], list[int]] = {}
    for index, variation in enumerate(variations):
        by_host.setdefault(tuple(_machine(variation, cpu).items()), []).append(index)
    traces: dict[int, Trace] = {}
    for machine, indices in by_host.items():
        # The lab's host is ours: a scenario may change its clocksource and its time.
        options = {"options": {"host_ops_allowed": True}}
        programs = [{"program": "steps", **variations[i].program, **options} for i in indices]
        results = Lab(kernel, progress=progress, **dict(machine)).run_many(programs)
        traces |= {i: from_lines(lines) for i, lines in zip(indices, results, strict=True)}
    return [traces[i] for i in range(len(variations))]


def _machine(variation: Variation, cpu: str) -> dict[str, Any]:
    """What the lab's machine is made with for this variation."""
    if isinstance(variation.host, Arm64HostTable):
        rate = {} if variation.host.counter_hz is None else {"counter_hz": variation.host.counter_hz}
        return {"arch": ARM64, "cpu": cpu, "smp": _cpus(variation), **rate}
    # A sleep is measured by the RTC, which keeps true time: there, the kernel finds the rate itself, to a kHz.
    usual = None if program_sleeps(variation.program) else ODD_TSC_KHZ
    host = variation.host
    told = {"clocksource": host.clocksource, "tsc_unstable": host.tsc_unstable}
    given = {name: value for name, value in told.items() if value is not None}
    return {"smp": _cpus(variation), "tsc_khz": host.tsc_khz or usual, **given}


def _cpus(variation: Variation) -> int:
    """One physical CPU, unless more are spoken of: only on one is a lab's run the same to the last bit."""
    named: list[int] = [step["cpu"] for step in variation.program["steps"] if "cpu" in step]
    return max(variation.host.cpus or 1, *(cpu + 1 for cpu in named), 1)


def from_lines(lines: Iterable[dict[str, Any]]) -> Trace:
    """A saved trace's JSON values as a trace; what other programs of the lab say in between is left out."""
    trace: Trace | None = None
    for line in lines:
        if "guestclock_trace" in line:
            if line["guestclock_trace"] != TRACE_VERSION:
                raise UserError(f"trace version {line['guestclock_trace']}, this program reads {TRACE_VERSION}")
            trace = Trace({k: v for k, v in line.items() if k != "guestclock_trace"})
        elif trace is not None:
            trace.emit(Event(**line))
    if trace is None:
        raise UserError("the run gave no trace")
    return trace
