"""What the tables say, as one JSON document: values exact, spans as [lo, hi]."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, TextIO

from guestclock import __version__
from guestclock.check import Mark, Reading, Span, Story, errors, get_clock_error, groups, properties_of, unjudged
from guestclock.report.words import sentence, told

FORMAT = 1


def write(columns: Sequence[tuple[Story, list[Mark]]], out: TextIO) -> None:
    json.dump(document(columns), out, indent=1, ensure_ascii=False)
    out.write("\n")


def document(columns: Sequence[tuple[Story, list[Mark]]]) -> dict[str, Any]:
    """All runs. guestclock_report: this format's version; a new key does not change it, a new meaning does."""
    return {
        "guestclock_report": FORMAT,
        "guestclock": __version__,
        "runs": [run_as_json(story, marks) for story, marks in columns],
    }


def run_as_json(story: Story, marks: list[Mark]) -> dict[str, Any]:
    """meta, what became of each property, then a list of steps.

    Each step has its time (ps), readings by vCPU, groups, KVM_GET_CLOCK, marks.
    """
    error = {
        clock: {id(p.reading): p.error_ns for points in errors(story, clock).values() for p in points}
        for clock in story.clocks
    }
    steps = []
    for look in story.looks:
        clock = look.clock
        steps.append(
            {
                "step": look.step,
                "say": look.say,
                "do": look.do,
                "vm": look.vm,
                "start_ps": look.start_ps,
                "at_ps": look.at_ps,
                "readings": [_reading(r, error) for _, r in sorted(look.readings.items())],
                "groups": {
                    c: [{"vcpus": list(g.vcpus), "ahead": _span(g.ahead)} for g in groups(story, look, c)]
                    for c in story.clocks
                },
                "get_clock": None
                if clock is None
                else {
                    "clock_ns": clock.clock_ns,
                    "flags": clock.flags,
                    "realtime_ns": clock.realtime_ns,
                    "error_ns": _span(get_clock_error(story, look)),
                },
                "host": {name: value for name, (value, _) in look.host.items()},
                **(
                    {"answers": [dict(zip(("vcpu", "register", "value"), a, strict=True)) for a in look.answers]}
                    if look.answers
                    else {}
                ),
                "troubles": look.troubles,
                "marks": [{**m.as_json(), "sentence": sentence(m)} for m in marks if m.step == look.step],
                "told": [t.sentence for t in told(marks) if t.step == look.step],
            }
        )
    return {"meta": story.trace.meta, "properties": _verdicts(story, marks), "steps": steps}


def _verdicts(story: Story, marks: list[Mark]) -> dict[str, str]:
    broken, idle = {mark.name for mark in marks}, {prop.name for prop in unjudged(story)}
    told = {True: "violated", False: "holds"}
    names = [prop.name for prop in properties_of(story)]
    return {name: "nothing to judge" if name in idle - broken else told[name in broken] for name in names}


def _reading(reading: Reading, error: dict[str, dict[int, Span]]) -> dict[str, Any]:
    """By the names of its architecture: an x86 reading has its page, an arm64 one its two counters."""
    told: dict[str, Any] = {"vcpu": reading.vcpu, "source": reading.source}
    if "tsc" in reading.counts:
        told |= {
            "tsc": reading.tsc,
            "kvmclock_ns": reading.kvmclock_ns,
            "page": None if reading.page is None else asdict(reading.page),
            "at_ps": _span(reading.when.at_ps),
            "host_tsc": _span(reading.when.counter),
        }
    else:
        told |= {clock: reading.value(clock) if reading.shows(clock) else None for clock in error}
        told |= {
            "cntpct_minus_cntvct": _span(reading.apart),
            "at_ps": _span(reading.when.at_ps),
            "host_counter": _span(reading.when.counter),
        }
    return told | {f"{clock}_error_ns": _span(known.get(id(reading))) for clock, known in error.items()}


def _span(span: Span | None) -> list[int] | None:
    return None if span is None else [span.lo, span.hi]
