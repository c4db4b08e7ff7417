"""A scenario on a kernel in the lab, on the model at the very same instants, and under the checker.

Three questions, each with an answer that can be wrong. Does the model tell every operation, page and tracepoint as the
kernel does? Does every property break in both traces in the same steps and by the same amount, as far as readings tell?
And does the checker prove a bound for it that the kernel keeps, with calls that may take as long as this kernel's did?
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import ceil
from typing import Any

from guestclock.check import Mark, Span, marks, story, unjudged
from guestclock.checks.spec import Spec
from guestclock.checks.target import targets
from guestclock.checks.verdict import HOLDS, VIOLATED, Verdict, check
from guestclock.compare.aligned import HostCounter, operations
from guestclock.compare.session import Session
from guestclock.errors import UserError
from guestclock.judges.shown import Shown, refusals, shown
from guestclock.judges.window import WINDOW
from guestclock.runs.real import run_lab
from guestclock.scenario import Scenario, Variation, load
from guestclock.sim import Trace

DEFAULTS = {
    "x86_64": (
        WINDOW,
        "threads/2021-idempotent-x86",
        "threads/2023-masterclock",
        "bugs/stable-while-unmatched",
        "bugs/hpet-and-back",
        "bugs/defeated-1s-rule",
        "bugs/suspend-running-tsc",
        "threads/2021-suspend-vmm-x86",
        "threads/2021-suspend-race-x86",
    ),
    "arm64": (
        "threads/2021-idempotent-arm64",
        "bugs/arm64-vcpu-creation-resets",
        "bugs/arm64-writes-ignored",
        "bugs/arm64-stale-cntvoff",
        "threads/2021-suspend-vmm-arm64",
        "threads/2021-suspend-race-arm64",
    ),
}
"""What is asked if nothing is named."""


def defaults(arch: str, kernel: str) -> list[str]:
    """What is asked of this kernel if nothing is named: of the usual choice whatever a lab with it can show."""
    return [name for name in DEFAULTS[arch] if name == WINDOW or f"lab:{kernel}" in load(name).on]


CHECK_BUDGET_S = 120.0
NS_PER_MS = 10**6
NOT_ASKED = "not asked"
"""Of a property that is the traces' alone."""


@dataclass(frozen=True, slots=True)
class Row:
    """One property. check: the checker's verdict, or why there is none; bound: what it proved. why: where they do not
    agree.

    kernel, model: the worst amount, and the steps in which it broke; None: it holds in that trace. seen: the worst that
    the guest itself read, as the checker asks of it: it does not look at vCPUs from outside.
    """

    property: str
    unit: str
    kernel: Span | None
    model: Span | None
    seen: Span | None
    steps: tuple[int, ...]
    check: str
    bound: int | None
    why: str = ""


@dataclass(slots=True)
class Judged:
    """One variation of a scenario. where: lab:KERNEL. profile: the model's.

    differences: of the two traces, in words. exact, close: how much was equal to the last bit, and within what a
    reading leaves open. rows: by property. holds: what the checker was asked, too, and nothing breaks; could: what did
    not break here, and the checker says that it can. shown: what clocks showed after a sleep, and in each of several
    VMs. refused: by the kernel, in words; by the model as well.
    """

    scenario: str
    varied: str
    where: str
    profile: str
    differences: list[str]
    exact: int
    close: int
    rows: list[Row] = field(default_factory=list)
    holds: list[str] = field(default_factory=list)
    could: list[str] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)

    @property
    def agree(self) -> bool:
        return not self.differences and not any(row.why for row in self.rows) and not any(s.why for s in self.shown)


def judge_scenario(
    scenario: Scenario, kernel: str, cpu: str = "", progress: Callable[[str], None] = lambda line: None
) -> Iterator[Judged]:
    """Each of its variations. Raises UserError where the lab cannot play it."""
    session = Session(kernel, scenario.arch, cpu, shrink_runs=0)
    if f"lab:{kernel}" not in scenario.on:
        places = ", ".join(scenario.on)
        raise UserError(f"{scenario.name}: cannot be shown on lab:{kernel}, expected one of {places}")
    programs = [{"program": "steps", **variation.program} for variation in scenario.variations]
    progress(f"{session.where}: {scenario.name}")
    traces = run_lab(scenario.variations, kernel, cpu, progress)
    for variation, program, real in zip(scenario.variations, programs, traces, strict=True):
        verdict = session.judged(program, real)
        varied = ", ".join(f"{k} = {v}" for k, v in variation.values.items())
        differences = [str(d) for d in verdict.differences]
        judged = Judged(
            scenario.name, varied, session.where, session.profile, differences, verdict.exact, verdict.close
        )
        if not judged.differences:
            model = session.modelled(program, real)
            judged.shown, judged.refused = shown(real, model, _slack_ns(real)), refusals(real)
            progress(f"check on {session.profile}: {scenario.name}{f' ({varied})' if varied else ''}")
            _properties(judged, real, model, _checked(scenario, variation, session, real))
        yield judged


# ---- properties of the two traces


def _properties(judged: Judged, real: Trace, model: Trace, checked: dict[str, Verdict] | str) -> None:
    by_kernel, by_model, by_guest = _marks(real), _marks(model), _marks(_as_the_guest_read_it(real))
    slack_ns = _slack_ns(real)
    nothing_to_say = {prop.name for prop in unjudged(story(real))}
    for name in sorted(set(by_kernel) | set(by_model)):
        one, other = by_kernel.get(name, []), by_model.get(name, [])
        steps = tuple(sorted({mark.step for mark in one}))
        worst, modelled, seen = _worst(one), _worst(other), _worst(by_guest.get(name, []))
        status, bound, against = _against(checked, name, seen)
        why = _apart(one, other, slack_ns) or against
        judged.rows.append(Row(name, (one or other)[0].unit, worst, modelled, seen, steps, status, bound, why))
    broken = {row.property for row in judged.rows}
    for name, verdict in sorted(checked.items()) if isinstance(checked, dict) else ():
        if verdict.status == HOLDS and name not in broken | nothing_to_say:
            judged.holds.append(name)
        elif verdict.status == VIOLATED and name not in broken:
            judged.could.append(name)


def _apart(one: list[Mark], other: list[Mark], slack_ns: int) -> str:
    """Where the two traces' marks cannot be of one course of events; empty: nowhere.

    Two clocks that KVM reads one after the other are read at one instant here, so amounts may differ by what an
    operation took; and what is less than that, a kernel's readings cannot tell.
    """
    for step in sorted({mark.step for mark in (*one, *other)}):
        kernel, model = (_worst([m for m in marks_ if m.step == step], ns=True) for marks_ in (one, other))
        if kernel is None or model is None:
            only = kernel or model
            assert only is not None
            if min(abs(only.lo), abs(only.hi)) > slack_ns:
                where = "the kernel" if model is None else "the model"
                return f"step {step + 1}: {_told(only)} ns on {where} alone"
        elif not (kernel + Span(-slack_ns, slack_ns)).meets(model):
            return f"step {step + 1}: the kernel's {_told(kernel)} ns and the model's {_told(model)} cannot be one"
    return ""


def _slack_ns(real: Trace) -> int:
    """What the longest operation took that reads or moves a clock, and whose instant nothing gives away."""
    told = ["Wait", "HostSleep", "CreateVm", *([] if real.meta.get("arch") == "arm64" else ["CreateVcpu"])]
    took = [e.end_ps - e.start_ps for e in operations(real) if e.name not in told and e.kind != "step"]
    return max(took, default=0) // 1000 + 1


def _as_the_guest_read_it(trace: Trace) -> Trace:
    told = Trace(dict(trace.meta))
    for event in trace.events:
        if event.kind != "peek" and event.name != "GetClock":
            told.emit(event)
    return told


def _marks(trace: Trace) -> dict[str, list[Mark]]:
    found: dict[str, list[Mark]] = {}
    for mark in marks(story(trace)):
        found.setdefault(mark.name, []).append(mark)
    return found


def _worst(found: list[Mark], *, ns: bool = False) -> Span | None:
    spans = [mark.time_ns if ns else mark.amount for mark in found]
    return max(spans, key=lambda span: max(abs(span.lo), abs(span.hi)), default=None)


def _told(span: Span) -> str:
    return str(span.lo) if span.lo == span.hi else f"{span.lo}..{span.hi}"


# ---- the checker


def _checked(scenario: Scenario, variation: Variation, session: Session, real: Trace) -> dict[str, Verdict] | str:
    """Verdicts by property, on a host like the lab's, with calls that may take as long as this kernel's took; or why it
    was not asked.
    """
    index = scenario.variations.index(variation)
    counter = HostCounter.of(real, session.circumstances.true_hz)
    try:
        spec: Spec = targets(scenario.name, [session.profile])[index].spec
        told: dict[str, Any] = {"uptime_ns": counter.start * 10**9 // counter.true_hz}
        if session.arch == "x86_64":  # what an arm64 counter says is what it counts, to a kHz
            true_hz = str(counter.true_hz) if counter.true_hz != counter.hz else ""
            told |= {"khz": counter.hz // 1000, "true_hz": true_hz}
        spec = spec.but(
            program=json.dumps(in_true_time(variation, counter)),
            after_ns=spec.after_ns * max(counter.hz, counter.true_hz) // counter.true_hz,
            sites=tuple(replace(site, **told) for site in spec.sites),
        )
        delay_ns = _longest_call_ns(real) * counter.hz // counter.true_hz
        result = check(spec.but(delay_ns=delay_ns), budget_s=CHECK_BUDGET_S, stories=False)
    except UserError as refused:
        return f"not asked: {refused}"
    if not result.complete:
        return f"not finished in {CHECK_BUDGET_S:.0f} s"
    # A policy is asked of an operation's two halves, and a scenario has none.
    return {v.property: v for v in result.verdicts if v.asked and not v.property.endswith("-policy")}


def in_true_time(variation: Variation, counter: HostCounter) -> dict[str, Any]:
    """The variation's program with its waits in true time, as the checker takes them.

    A kernel waits by its own clock. While that is the TSC, a second is as many cycles as it believes are one.
    """
    source = getattr(variation.host, "clocksource", None) or "tsc"

    def longer(terms: list[list[Any]]) -> list[list[Any]]:
        return [[k, v * counter.hz // counter.true_hz if k == "ns" else v, *factor] for k, v, *factor in terms]

    steps = []
    for step in variation.program["steps"]:
        if step["do"] == "clocksource":
            source = step["to"]
        waits = [key for key in ("gap", "value") if key in step and (key == "gap" or step["do"] == "wait")]
        steps.append({**step, **({key: longer(step[key]) for key in waits} if source == "tsc" else {})})
    return {**variation.program, "steps": steps}


def _longest_call_ns(real: Trace) -> int:
    """From the end of one operation to that of the next, waits and sleeps aside; rounded up to a whole ms."""
    ends, longest = 0, 0
    for event in operations(real):
        if event.name not in ("Wait", "HostSleep"):
            longest = max(longest, event.end_ps - ends)
        ends = event.end_ps
    return (longest // 1000 // NS_PER_MS + 1) * NS_PER_MS


def _against(checked: dict[str, Verdict] | str, name: str, worst: Span | None) -> tuple[str, int | None, str]:
    """The checker's verdict of this property, its bound, and in what the kernel contradicts it: it was not kept."""
    if isinstance(checked, str):
        return checked, None, ""
    verdict = checked.get(name)
    if verdict is None:
        return NOT_ASKED, None, ""
    if verdict.status not in (HOLDS, VIOLATED) or (verdict.bound is None and verdict.status == VIOLATED):
        return verdict.status, None, ""
    bound = ceil((verdict.bound or Fraction(0)) + (verdict.tolerance if verdict.status == HOLDS else 0))
    least = 0 if worst is None or 0 in worst else min(abs(worst.lo), abs(worst.hi))
    return (
        verdict.status,
        bound,
        f"the kernel shows {least}, the checker proved at most {bound}" if least > bound else "",
    )
