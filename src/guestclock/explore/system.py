"""What a linear program needs to know of one order: rows and boxes, projected on the symbols that matter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from guestclock.arith.affine import Form, Symbol
from guestclock.explore.judge import Interval, Judge
from guestclock.explore.run import Run, bits
from guestclock.explore.times import Impossible


@dataclass(slots=True)
class System:
    """rows: whole-numbered forms, each at most 0. box: the interval of every symbol in them."""

    rows: list[Form]
    box: dict[Symbol, Interval]

    @classmethod
    def of_past(cls, run: Run, more: Sequence[Form]) -> System | None:
        """The current event's past, with `more` rows; None where bounds of time alone contradict each other."""
        event = run.current
        assert event is not None
        branches = [*event.branches, *(b for k in bits(event.past) for b in run.events[k].branches), *more]
        needed = closure(run.judge, run.contracts, branches)
        times = [s for s in needed if s in run.nodes]
        try:
            # From the origin too, so that bounds which contradict each other are met even without any time in the rows.
            rows = pairwise(times, lambda y: run.most_after(y), run.nodes)
        except Impossible:
            return None
        return cls([*rows, *defining(run.judge, needed), *contract_rows(run, needed), *branches], _boxes(run.judge, needed))


def contract_rows(run: Run, needed: Iterable[Symbol]) -> list[Form]:
    return [row for s in needed for row in run.contracts.get(s, ())]


def closure(judge: Judge, contracts: dict[Symbol, list[Form]], forms: Iterable[Form]) -> list[Symbol]:
    """All symbols of the forms, of the arguments of their floors, and of the rows of their contracts."""
    found: dict[Symbol, None] = {}
    todo = [s for form in forms for s in form.terms]
    while todo:
        symbol = todo.pop()
        if symbol in found:
            continue
        found[symbol] = None
        if symbol in judge.floors:
            todo += judge.floors[symbol][0].terms
        for row in contracts.get(symbol, ()):
            todo += row.terms
    return sorted(found)


def pairwise(times, most_after, nodes) -> list[Form]:  # type: ignore[no-untyped-def]
    rows = []
    for y in times:
        far = most_after(y)
        for x in times:
            if x != y:
                c = far.get(nodes[x])
                if c is not None:
                    rows.append(Form({x: 1, y: -1}, -c))
    return rows


def defining(judge: Judge, needed: Iterable[Symbol]) -> list[Form]:
    """q = floor(a / n) as n*q <= a <= n*q + n-1; and no floor falls where its argument grows."""
    rows: list[Form] = []
    floors = [s for s in needed if s in judge.floors]
    for symbol in floors:
        argument, n = judge.floors[symbol]
        below: Form = Form({symbol: n}) - argument
        rows += [below, -below - (n - 1)]
    for i, x in enumerate(floors):
        for y in floors[:i]:
            if judge.floors[x][1] == judge.floors[y][1]:
                lo, hi = judge.difference(x, y)
                if lo is not None and lo >= 0:
                    rows.append(Form({y: 1, x: -1}, lo))
                if hi is not None and hi <= 0:
                    rows.append(Form({x: 1, y: -1}, -hi))
    return rows


def _boxes(judge: Judge, needed: Iterable[Symbol]) -> dict[Symbol, Interval]:
    return {s: judge.box[s] for s in needed}
