"""The shortest program that still shows a difference: steps are left out, and what is left is made plainer.

Every candidate is run on the real kernel and on the model, so each is a program of its own; several are tried at once.
A candidate counts only if it shows the same kind of difference: another one is another matter.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from guestclock.compare.verdict import Verdict

Program = dict[str, Any]
Judge = Callable[[Sequence[Program]], Sequence[Verdict | None]]
"""Runs programs and judges them, each by itself; None for one that could not be run."""

AT_ONCE = 8


def shortest(program: Program, verdict: Verdict, judge: Judge, budget: int = 200) -> tuple[Program, Verdict]:
    """The program cut down as far as `budget` runs allow, and what it shows. verdict: what the whole program shows."""
    best, shown = program, verdict
    left = budget
    while left > 0:
        for candidates in _batches(_simpler(best), AT_ONCE):
            candidates = candidates[:left]
            left -= len(candidates)
            found = next(
                (
                    (candidate, judged)
                    for candidate, judged in zip(candidates, judge(candidates), strict=True)
                    if judged is not None and kind(judged) == kind(verdict)
                ),
                None,
            )
            if found is not None:
                best, shown = found
                break
            if left <= 0:
                return best, shown
        else:
            return best, shown
    return best, shown


def kind(verdict: Verdict) -> tuple[str, str] | None:
    """What differs first: the operation and the value, without its numbers."""
    if not verdict.differences:
        return None
    first = verdict.differences[0]
    return first.operation, first.what.partition(" (±")[0]


def _simpler(program: Program) -> Iterator[Program]:
    """Programs with a little less in them, those with much less first; each can be played."""
    steps: list[dict[str, Any]] = program["steps"]
    size = len(steps) // 2
    while size:
        for start in range(0, len(steps), size):
            yield from _playable({**program, "steps": steps[:start] + steps[start + size :]})
        size //= 2
    for key, plain in (("boot", False), ("vcpus", program["vcpus"] - 1)):
        if program.get(key) and program[key] != plain and program["vcpus"] > (key == "vcpus"):
            yield from _playable({**program, key: plain})
    for index, step in enumerate(steps):
        for plainer in _plainer(step):
            yield from _playable({**program, "steps": [*steps[:index], plainer, *steps[index + 1 :]]})


def _plainer(step: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A step with one vCPU less, or with a rounder number."""
    vcpus = step.get("vcpus", [])
    if len(vcpus) > 1:
        for index in range(len(vcpus)):
            yield {**step, "vcpus": [v for v in vcpus if v != vcpus[index]]}
    for position, (what, value, *factor) in enumerate(step.get("value", [])):
        if what in ("int", "ns") and isinstance(value, int):
            for rounder in dict.fromkeys((0, value // 10**9 * 10**9, value // 10**6 * 10**6)):
                if rounder != value:
                    terms = copy.deepcopy(step["value"])
                    terms[position] = [what, rounder, *factor]
                    yield {**step, "value": terms}


def _playable(program: Program) -> Iterator[Program]:
    """The program, if each of its steps finds the vCPUs that it names; at least one vCPU, at least one step."""
    have = program["vcpus"]
    if have < 1 or not program["steps"]:
        return
    for step in program["steps"]:
        if any(vcpu >= have for vcpu in step.get("vcpus", [])):
            return
        if step["do"] == "create-vcpu":
            have += step.get("count", 1)
        elif step["do"] == "create-vm":
            have = step["count"]
    yield program


def _batches(candidates: Iterator[Program], size: int) -> Iterator[list[Program]]:
    batch: list[Program] = []
    for candidate in candidates:
        batch.append(candidate)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
