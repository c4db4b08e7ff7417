"""A linear program of one order, in coordinates in which no float has to tell 10 us from 10 minutes.

Times are 10^12 units from the origin and microseconds from each other; a solver's tolerance of 10^-7 of a column then
hides whole kernel sections. So a time is written as its nearest relative's plus a gap, whose column is as wide as the
gap can be, and floor(a / n) as (a - r) / n with a remainder 0..n-1. Both are exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from guestclock.arith.affine import Form, Symbol, Value, numerator
from guestclock.explore.event import bits
from guestclock.explore.judge import Interval, Judge
from guestclock.explore.run import Run
from guestclock.explore.times import FAR, ORIGIN

Rows = tuple[Form, ...]


@dataclass(slots=True)
class System:
    """rows: whole-numbered forms over gaps, remainders and values from outside, each at most 0. box: their intervals.

    written: each symbol of the order as a form over those.
    """

    rows: list[Form] = field(default_factory=list)
    box: dict[Symbol, Interval] = field(default_factory=dict)
    written: dict[Symbol, Value] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        judge: Judge,
        contracts: Mapping[Symbol, Sequence[Form]],
        branches: Sequence[Form],
        times: Sequence[Symbol],
        d: Sequence[Sequence[int]],
        needed: Sequence[Symbol],
    ) -> System:
        """d[i][j]: the most that times[i - 1] can be after
        times[j - 1]; index 0 is the origin. needed: all symbols that the rows and what will be put in depend on.
        """
        system = cls()
        system._gaps(times, d)
        for symbol in needed:
            if symbol not in system.written and symbol not in judge.floors:
                system.written[symbol] = Form.of(symbol)
                system.box[symbol] = judge.box[symbol]
        floors = sorted((s for s in needed if s in judge.floors), key=lambda s: int(s[1:]))
        for symbol in floors:
            # An inner floor was named before the one around it.
            argument, n = judge.floors[symbol]
            rest = f"r{symbol}"
            system.box[rest] = 0, n - 1
            whole = system.put(argument) - Form.of(rest)
            system.written[symbol] = Form(whole.terms, whole.const, whole.den * n)
        system._monotone(judge, floors)
        for symbol in needed:
            for row in contracts.get(symbol, ()):
                system._add(row)
        for row in branches:
            system._add(row)
        return system

    @classmethod
    def of_past(cls, run: Run, more: Sequence[Form]) -> System | None:
        """The current event's past, with `more` rows; None where bounds of time alone contradict each other."""
        event = run.current
        assert event is not None
        branches = [*event.branches, *(b for k in bits(event.past) for b in run.events[k].branches), *more]
        needed = closure(run.judge, run.contracts, branches)
        times = [s for s in needed if s in run.nodes]
        nodes = [ORIGIN, *(run.nodes[s] for s in times)]
        far = [run.farthest_from(node) for node in nodes]
        if run.ghost:
            return None
        horizon = run.bounds.horizon
        d = [
            [0 if x == y else _from(far, i, j, x, y, horizon) for j, y in enumerate(nodes)] for i, x in enumerate(nodes)
        ]
        return cls.of(run.judge, run.contracts, branches, times, d, needed)

    def put(self, form: Form) -> Form:
        """A form of the order in the new coordinates."""
        out: Value = Form({}, form.const)
        for symbol, c in form.terms.items():
            out = out + self.written[symbol] * c
        whole = out if type(out) is Form else Form({}, out)  # type: ignore[arg-type]
        assert type(whole) is Form
        return Form(whole.terms, whole.const, whole.den * form.den)

    def point(self, columns: Mapping[Symbol, int]) -> dict[Symbol, int]:
        """Times and values from outside at a point of the new coordinates; least, where it does not say."""
        values = {s: columns.get(s, lo if lo > 0 else min(0, hi)) for s, (lo, hi) in self.box.items()}
        out = {}
        for symbol, form in self.written.items():
            if type(form) is int:
                out[symbol] = form
            elif type(form) is Form and form.den == 1:
                out[symbol] = form.at(values)
        return out

    def _add(self, row: Form) -> None:
        new = numerator(self.put(row))
        self.rows.append(new)

    def _gaps(self, times: Sequence[Symbol], d: Sequence[Sequence[int]]) -> None:
        """A tree over the times, from the origin, along the differences that are known best (Prim)."""
        k = len(times)
        written: list[Value] = [0] * (k + 1)
        inside = [0]
        best = {i: (d[i][0] + d[0][i], 0) for i in range(1, k + 1)}
        while best:
            i = min(best, key=lambda n: (best[n][0], n))
            _, parent = best.pop(i)
            lo, hi = -d[parent][i], d[i][parent]
            if lo == hi:
                written[i] = written[parent] + lo
            else:
                gap = f"g{times[i - 1]}"
                self.box[gap] = lo, hi
                written[i] = written[parent] + Form.of(gap)
            inside.append(i)
            for n in best:
                width = d[n][i] + d[i][n]
                if width < best[n][0]:
                    best[n] = width, i
        for i, symbol in enumerate(times, 1):
            self.written[symbol] = written[i]
        for i, j in _needed(d):
            apart: Value = written[i] - written[j] - d[i][j]
            if type(apart) is Form and self._most(apart) > 0:
                self.rows.append(apart)

    def _most(self, form: Form) -> int:
        total = form.const
        for symbol, c in form.terms.items():
            lo, hi = self.box[symbol]
            total += c * (hi if c > 0 else lo)
        return total

    def _monotone(self, judge: Judge, floors: Sequence[Symbol]) -> None:
        """No floor falls where its argument grows, and what grows by whole steps grows the floor by as many."""
        for x in floors:
            # Whole numbers: from a >= 0 follows floor(a / n) >= 0, and not only that it is above -1.
            lo, hi = judge.range_of(x)
            for row in (Form({x: -1}, lo), Form({x: 1}, -hi)):
                new = numerator(self.put(row))
                if self._most(new) > 0:
                    self.rows.append(new)
        for i, x in enumerate(floors):
            for y in floors[:i]:
                if judge.floors[x][1] == judge.floors[y][1]:
                    least, most = judge.difference(x, y)
                    if least is not None and (least >= 0 or least == most):
                        self._add(Form({y: 1, x: -1}, least))
                    if most is not None and (most <= 0 or least == most):
                        self._add(Form({x: 1, y: -1}, -most))


def _needed(d: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """The differences that do not follow from two others. Where times are fixed to each other, all are kept."""
    m = np.array(d, dtype=np.int64)
    n = len(m)
    off = np.where(np.eye(n, dtype=bool), FAR, m)
    through = (off[:, :, None] + off[None, :, :]).min(axis=1) if n > 1 else off
    follows = through <= off
    fixed = (off + off.T) <= 0
    # Times fixed to each other may each follow from the other: then nothing is dropped.
    keep = off < FAR if fixed.any() else (off < FAR) & ~follows
    return [(int(i), int(j)) for i, j in np.argwhere(keep)]


def _from(far: Sequence[Mapping[int, int]], i: int, j: int, x: int, y: int, horizon: int) -> int:
    """The most that node x can be after node y."""
    most = far[j].get(x, FAR)
    if x == ORIGIN:
        return min(most, 0)
    return min(most, horizon)


def closure(judge: Judge, contracts: Mapping[Symbol, Sequence[Form]], forms: Iterable[Form]) -> list[Symbol]:
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
