"""The worst value of a toy, over all orders and all times, as the engine proves it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from guestclock.explore.leaf import Impossible, Leaf, Worst
from guestclock.explore.run import Run
from guestclock.explore.search import Search, Tally
from guestclock.explore.world import Bounds, Build

from .orders import Trace, trace_of


@dataclass
class Result:
    """upper: proved for all orders; None where no order shows the asked-for value. worst: of the order that has it."""

    upper: Fraction | None
    worst: Worst | None
    tally: Tally
    traces: set[Trace] = field(default_factory=set)


def worst_of(build: Build, bounds: Bounds, ask: Callable[[Any], Any], *, reduce: bool = True) -> Result:
    search = Search(build, bounds, reduce=reduce)
    result = Result(None, None, search.tally)
    cache: dict[Any, Any] = {}

    def leaf(run: Run) -> None:
        result.traces.add(trace_of(run))
        if ask(run.world) is None:
            return
        try:
            worst = Leaf(run, search.solver, cache).question().worst(lambda: ask(run.world))
        except Impossible:
            return
        if worst is not None and (result.upper is None or worst.upper > result.upper):
            result.upper, result.worst = worst.upper, worst

    search.run(leaf)
    return result
