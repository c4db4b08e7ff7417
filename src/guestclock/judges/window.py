"""How far apart two writes of one TSC value may be for KVM to take them for one: by kernel, model and checker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.check import Span
from guestclock.checks.spec import Spec
from guestclock.checks.verdict import check
from guestclock.compare.aligned import Circumstances, operations
from guestclock.compare.session import LAB_TSC_HZ, Session
from guestclock.compare.x86.aligned import run_aligned
from guestclock.runs.real import from_lines
from guestclock.sim import Trace

WINDOW = "window"
RECIPE = str(Path(__file__).parent / "recipes" / "one_value.py")
NS_PER_S = 10**9
VALUE = 5_192_244_000
FINE_NS = 200
"""The wait is halved until it is known to this: a call's own sandwich is ten times as wide."""


@dataclass(frozen=True, slots=True)
class Edge:
    """By one judge: the time between the two writes' clock reads, ns, up to which they are one, and from which they are
    not: the edge lies in `ns`.
    """

    judge: str
    ns: Span


def judge_window(kernel: str, progress: Callable[[str], None] = lambda line: None) -> tuple[list[Edge], bool]:
    """The edges, and whether there is one instant that is in all of them."""
    session = Session(kernel, shrink_runs=0)
    real, model = _edges(session, progress)
    progress(f"check on {session.profile}: the smallest delay that breaks it")
    edges = [
        Edge(session.where, real),
        Edge(f"model {session.profile}", model),
        Edge(f"check {session.profile}", _by_check(session.profile)),
    ]
    common = edges[0].ns
    for edge in edges[1:]:
        both = common.common(edge.ns)
        if both is None:
            return edges, False
        common = both
    return edges, True


def program(wait_ns: int) -> dict[str, Any]:
    """Both vCPUs' TSCs are set to one value, the second so much later; a second before, to leave the VM's youth."""

    def step(do: str, **keys: Any) -> dict[str, Any]:
        return {"actor": "vmm", "do": do, "say": do, "look": False, **keys}

    value = [["int", VALUE]]
    steps = [
        step("wait", value=[["ns", 2 * NS_PER_S]]),
        step("set-tsc", vcpus=[0], value=value),
        step("wait", value=[["ns", wait_ns]]),
        step("set-tsc", vcpus=[1], value=value),
        step("get-tsc-offset", vcpus=[0, 1]),
    ]
    return {"program": "steps", "vcpus": 2, "kvmclock": None, "boot": False, "look": False, "steps": steps}


def _edges(session: Session, progress: Callable[[str], None]) -> tuple[Span, Span]:
    """The kernel's edge by halving the wait, four points at a time; the model's at the same instants."""
    least, most = 0, 2 * NS_PER_S
    in_window = out_of_window = model_in = model_out = None
    while most - least > FINE_NS:
        progress(f"{session.where}: the edge lies between {least} and {most} ns")
        waits = [least + (most - least) * k // 5 for k in range(1, 5)]
        outcomes = session.real([program(wait) for wait in waits])
        for wait, lines in zip(waits, outcomes, strict=True):
            if isinstance(lines, Exception):
                raise lines
            real = from_lines(lines)
            apart = _between(real)
            modelled = run_aligned(real, program(wait), session.profile, Circumstances(true_hz=LAB_TSC_HZ))
            if _one(real):
                least = max(least, wait)
                in_window = apart if in_window is None or apart.lo > in_window.lo else in_window
            else:
                most = min(most, wait)
                out_of_window = apart if out_of_window is None or apart.hi < out_of_window.hi else out_of_window
            if _one(modelled):
                model_in = apart if model_in is None or apart.lo > model_in.lo else model_in
            else:
                model_out = apart if model_out is None or apart.hi < model_out.hi else model_out
    assert in_window is not None
    assert out_of_window is not None
    assert model_in is not None
    assert model_out is not None
    return Span(in_window.lo, out_of_window.hi), Span(model_in.lo, model_out.hi)


def _writes(trace: Trace) -> list[Any]:
    return [e for e in operations(trace) if e.name == "SetMsr" and e.data["op"]["index"] == MSR_IA32_TSC]


def _between(trace: Trace) -> Span:
    """Between the clock reads of the two writes, ns by the host's own clock."""
    first, second = _writes(trace)
    return Span((second.start_ps - first.end_ps) // 1000, -(-(second.end_ps - first.start_ps) // 1000))


def _one(trace: Trace) -> bool:
    one, other = (e.data["result"] for e in trace.of("op") if e.name == "GetTscOffset")
    return bool(one == other)


def _by_check(profile: str) -> Span:
    """The smallest delay between two calls that breaks tsc-agrees, and the largest that is proved safe."""
    spec = Spec(
        recipe=RECIPE, kernel=profile, properties=("tsc-agrees",), delay_ns=2 * NS_PER_S, section_ns=0,
        life_min_ns=2 * NS_PER_S, life_ns=2 * NS_PER_S,
    )  # fmt: skip
    (verdict,) = check(spec).verdicts
    breaks = verdict.breaks
    assert breaks is not None, verdict.status
    assert breaks.safe_ns is not None, verdict.status
    return Span(breaks.safe_ns, breaks.delay_ns)
