"""The model in a lab's place: programs and variations as a real kernel would have played them, by any profile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from guestclock.runs.model import run_model
from guestclock.scenario import Variation
from guestclock.scenario.document import HostTable
from guestclock.sim import Trace
from guestclock.sim.trace import TRACE_VERSION

TSC_KHZ = 2_596_122


def played_by(kernel: str) -> Callable[..., list[Trace]]:
    """What run_lab would have given."""

    def run_lab(variations: Sequence[Variation], *_: Any) -> list[Trace]:
        return [run_model(variation, kernel=kernel) for variation in variations]

    return run_lab


def lines_by(kernel: str) -> Callable[..., list[Any]]:
    """What Session.real would have given."""

    def real(_: Any, programs: Sequence[dict[str, Any]]) -> list[Any]:
        return [lines(run_model(Variation({}, HostTable(tsc_khz=TSC_KHZ), p, ()), kernel=kernel)) for p in programs]

    return real


def lines(trace: Trace) -> list[dict[str, Any]]:
    return [{"guestclock_trace": TRACE_VERSION, **trace.meta}, *(event.as_json() for event in trace.events)]
