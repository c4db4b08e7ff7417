"""A variation of a scenario on real kernels: this host's KVM, or a kernel in the lab."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from guestclock.errors import UserError
from guestclock.kvm.device import run_program
from guestclock.lab import Lab
from guestclock.scenario import Variation
from guestclock.sim import Event, Trace
from guestclock.sim.trace import TRACE_VERSION

LAB_CPUS = 2


def run_kvm(variation: Variation) -> Trace:
    """On /dev/kvm of this host. UserError where there is none, or no permission."""
    lines: list[dict[str, Any]] = []
    run_program(variation.program, lines.append)
    return from_lines(lines)


def run_lab(variation: Variation, kernel: str) -> Trace:
    """On `kernel` in the lab: virtual time, the same bytes each run. UserError where a tool or the image is missing."""
    host = variation.host
    khz = {} if host.tsc_khz is None else {"tsc_khz": host.tsc_khz}
    lab = Lab(kernel, smp=host.cpus or LAB_CPUS, **khz)
    # The lab's host is ours: a scenario may change its clocksource and its time.
    program = {"program": "steps", **variation.program, "options": {"host_ops_allowed": True}}
    return from_lines(lab.run(program))


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
