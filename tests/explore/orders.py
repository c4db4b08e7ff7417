"""Orders of a search in a form that owes nothing to the search: for comparing two searches of one model."""

from __future__ import annotations

from typing import Any

from guestclock.explore.run import Run
from guestclock.explore.search import Search, Tally
from guestclock.explore.world import Bounds, Build

Step = tuple[str, int, tuple[Any, ...], frozenset[tuple[str, int]]]
Trace = frozenset[Step]
"""Of each step: whose, the how manieth, the branches taken, and which earlier steps touched what it touches."""


def trace_of(run: Run) -> Trace:
    """Equal for two orders that differ only in the places of steps that have nothing to do with each other."""
    steps = []
    for i, event in enumerate(run.events):
        reads, writes = event.footprint
        before = set()
        for earlier in run.events[:i]:
            r, w = earlier.footprint
            if earlier.actor == event.actor or w & writes or w & reads or r & writes:
                before.add((earlier.actor, earlier.n))
        steps.append((event.actor, event.n, tuple(event.labels), frozenset(before)))
    return frozenset(steps)


def traces(build: Build, bounds: Bounds, *, reduce: bool) -> tuple[set[Trace], Tally]:
    """All orders of a model. Asserts that no two complete runs of a reduced search are the same order."""
    found: list[Trace] = []
    search = Search(build, bounds, reduce=reduce)
    search.run(lambda run: found.append(trace_of(run)))
    distinct = set(found)
    if reduce and not search.tally.forks:
        # (What a sleeper touches is the union over its branches: with forks an order may come up twice.)
        assert len(distinct) == len(found), "a reduced search came to one order twice"
    return distinct, search.tally


def shown(trace: Trace) -> str:
    """One line per step, in an order that agrees with all dependencies."""
    left, done, lines = sorted(trace, key=lambda s: (s[0], s[1])), set[tuple[str, int]](), []
    while left:
        step = next(s for s in left if s[3] <= done)
        left.remove(step)
        done.add(step[:2])
        lines.append(f"{step[0]}.{step[1]} {step[2] or ''} after {sorted(step[3])}")
    return "\n".join(lines)
