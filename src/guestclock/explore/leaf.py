"""One complete order, asked about: the worst value of a form over all its times, proved, and where it is reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import gcd
from typing import Any

import numpy as np
from numpy.typing import NDArray

from guestclock.arith.affine import Form, Symbol, Value, judged_by, numerator
from guestclock.explore.event import bits
from guestclock.explore.exact import NoAnswer, Optimum, Solver
from guestclock.explore.judge import Judge, Outcome
from guestclock.explore.run import Run
from guestclock.explore.system import System, closure
from guestclock.explore.times import FAR, ORIGIN, Impossible


@dataclass(frozen=True, slots=True)
class Worst:
    """upper: proved; found: the float optimum; value: the form; point: times and values from outside, where it is.

    rounding: by how much truncation alone can have raised it. question: the one asked, or the part of it that has this.
    """

    upper: Fraction
    found: float
    value: Value
    point: dict[Symbol, int]
    rounding: Fraction
    judge: Judge
    question: Question


class Unproved(Exception):
    """Neither a bound nor impossibility could be proved."""


class Leaf:
    """A complete order, or (events: a bit set that holds each one's past) a part of it.

    A part knows fewer bounds, so what it says is worst is never too low; and it is the same in every order that has it.
    Raises Impossible where the bounds of time contradict each other.
    """

    def __init__(self, run: Run, solver: Solver, cache: dict[Any, Optimum | None], events: int | None = None) -> None:
        self.run, self.solver, self.cache = run, solver, cache
        part = run.events if events is None else [run.events[n] for n in bits(events)]
        symbols = [s for event in part for s in dict.fromkeys((event.start, *event.times))]
        self.nodes = {symbol: i for i, symbol in enumerate(symbols, 1)}
        self.distance = run.differences.closed([ORIGIN, *(run.nodes[s] for s in symbols)])
        self.branches = [b for event in part for b in event.branches]
        self.judge = run.judge.of_events(part)
        self.choices = [(event.start, *event.after_last_of) for event in part if event.after_last_of[0]]

    def question(self) -> Question:
        return Question(self)

    def happens(self) -> bool:
        """Whether some times satisfy everything; False only if that was proved."""
        return self.question().happens()


class Question:
    """Instants added to an order, and what is then asked."""

    def __init__(self, leaf: Leaf) -> None:
        self.leaf = leaf
        self.nodes: dict[Symbol, int] = leaf.nodes
        self.distance: NDArray[np.int64] = leaf.distance
        self.added: list[Symbol] = []
        self.places: dict[Symbol, int] = {}
        self._pairs: list[tuple[Symbol, Symbol]] = []
        self._labels: list[Any] = []
        self._open: list[tuple[int, list[Any]]] = []
        self._asked = 0
        self.judge: Judge = Judge(self, leaf.run.judge.names)

    def instant(self, name: Symbol, *, after: Sequence[Symbol] = (), before: Sequence[Symbol] = ()) -> Form:
        """A further instant, in units of time."""
        n = len(self.distance)
        wider = np.full((n + 1, n + 1), FAR, dtype=np.int64)
        wider[:n, :n] = self.distance
        wider[n, n] = 0
        wider[n, :n] = np.minimum(self.leaf.run.bounds.horizon + self.distance[ORIGIN], FAR)
        wider[:n, n] = np.minimum(self.distance[:, ORIGIN], FAR)  # x - r <= x - 0
        self.distance = wider
        self.nodes = {**self.nodes, name: n}
        self.added.append(name)
        self.places[name] = max((self.place(symbol) for symbol in after), default=n)
        for symbol in after:
            self.ordered(symbol, name)
        for symbol in before:
            self.ordered(name, symbol)
        return Form.of(name)

    def ordered(self, earlier: Symbol, later: Symbol, at_most: int | None = None, at_least: int = 0) -> None:
        """earlier + at_least <= later; with at_most, later - earlier <= at_most besides."""
        self._tighten(self.nodes[earlier], self.nodes[later], -at_least)
        if earlier in self.places or later in self.places:
            self._pairs.append((earlier, later))
        if at_most is not None:
            self._tighten(self.nodes[later], self.nodes[earlier], at_most)

    def _tighten(self, x: int, y: int, c: int) -> None:
        """x - y <= c."""
        d = self.distance
        if d[x, y] <= c:
            return
        np.minimum(d, d[:, x, None] + (c + d[None, y, :]), out=d)
        np.minimum(d, FAR, out=d)

    @property
    def contradictory(self) -> bool:
        return bool((np.diagonal(self.distance) < 0).any()) or self._before_its_cause()

    def _before_its_cause(self) -> bool:
        """Whether an instant is after a step and before one that led to it: at no time, even where all are at once."""
        over = dict.fromkeys(self.added, 0)  # instant -> steps that have begun by then
        open_ = dict.fromkeys(self.added, 0)  # and those that have not, each one's beginning apart from the rest of it
        width = len(self.leaf.run.events)
        changed = True
        while changed:
            changed = False
            for earlier, later in self._pairs:
                if later in over:
                    begun = over[earlier] if earlier in over else self._steps(earlier, width)[0]
                    changed |= bool(begun & ~over[later])
                    over[later] |= begun
                if earlier in over:
                    ahead = open_[later] if later in over else self._steps(later, width)[1]
                    changed |= bool(ahead & ~open_[earlier])
                    open_[earlier] |= ahead
        return any(over[instant] & open_[instant] for instant in self.added)

    def _steps(self, symbol: Symbol, width: int) -> tuple[int, int]:
        """Of a step's time: the steps that are over by then (itself too, at its end), and the step, not begun."""
        run = self.leaf.run
        event = run.events[run.owner[run.nodes[symbol]]]
        one, long = 1 << event.number, event.start != event.end
        over = event.past | (one << width if long and symbol == event.end else 0)
        return over, one | (one << width if long and symbol == event.start else 0)

    # ---- the context of a judge

    def upper(self, x: Symbol, y: Symbol, exact: bool) -> int | None:
        if x not in self.nodes or y not in self.nodes:
            return None
        most = int(self.distance[self.nodes[x], self.nodes[y]])
        return None if most >= FAR else most

    def contradicted(self) -> None:
        """The program will say so."""

    def place(self, symbol: Symbol) -> int:
        return self.places.get(symbol, self.nodes.get(symbol, -1))

    def fork(self, outcomes: Sequence[Outcome]) -> Any:
        if self._asked < len(self._labels):
            label = self._labels[self._asked]
        else:
            label = outcomes[0][0]
            self._labels.append(label)
            self._open.append((self._asked, [other for other, _ in outcomes[1:]]))
        self._asked += 1
        return label

    # ---- asking

    def happens(self) -> bool:
        if self.contradictory:
            return False
        system = self._system(self._judge(), self.leaf.branches)
        return not self.leaf.solver.impossible(system.rows, system.box)

    def paths(self, ask: Callable[[], Value]) -> Iterator[tuple[Value, Judge]]:
        """Every way in which the comparisons that `ask` makes can come out, with the judge that knows it."""
        self._labels, self._open = [], []
        while True:
            self._asked = 0
            self.judge = judge = self._judge()
            with judged_by(judge):
                value = ask()
            yield value, judge
            while self._open and not self._open[-1][1]:
                self._open.pop()
            if not self._open:
                return
            position, rest = self._open[-1]
            self._labels[position:] = [rest.pop(0)]

    def worst(self, ask: Callable[[], Value], enough: int | None = None, *, forgiving: bool = True) -> Worst | None:
        """The highest value of what `ask` computes; None if no times allow it at all.

        A step that waited for several concurrent ones is bounded by the last of them. Where the point found takes none
        of them for the last, each is tried (branch and bound). enough: a bound that need not be made any better, with
        what truncation alone can have made of it on top (forgiving); without forgiving, the bound is one that whole
        numbers can reach.

        Raises Unproved.
        """
        best: Worst | None = None
        todo = [self]
        while todo:
            question = todo.pop()
            if question.contradictory:
                continue
            for value, judge in question.paths(ask):
                worst = question._by_intervals(value, judge, enough, forgiving) or question.bound(value, judge)
                if worst is not None and not forgiving and type(value) is Form and value.terms:
                    worst = replace(worst, upper=on_lattice(value, worst.upper))
                if worst is None or (best is not None and worst.upper <= best.upper):
                    continue
                forgiven = worst.rounding if forgiving else 0
                good = enough is not None and worst.upper - forgiven <= enough
                unsettled = None if good else question.unsettled(worst.point)
                if unsettled is None:
                    best = worst
                else:
                    todo += question._each_last(*unsettled)
                    break
        return best

    def _by_intervals(self, value: Value, judge: Judge, enough: int | None, forgiving: bool) -> Worst | None:
        """The bound that intervals and order prove, if good enough: whole numbers are their own certificate."""
        if enough is None:
            return None
        if type(value) is int:
            # A number needs no program; but whether any times allow it at all is asked where it would be too much.
            good = value <= enough
            return Worst(Fraction(value), float(value), value, {}, Fraction(0), judge, self) if good else None
        assert type(value) is Form
        most = Fraction(judge.narrowest(numerator(value))[1], value.den)
        allowed = rounding(value, judge)
        good = most - (allowed if forgiving else 0) <= enough
        return Worst(most, float(most), value, {}, allowed, judge, self) if good else None

    def unsettled(self, point: dict[Symbol, int]) -> tuple[Symbol, tuple[Symbol, ...], int] | None:
        """A step that comes later than its delay after all that it waited for, at this point."""
        if not self.leaf.choices:
            return None
        times = self.times(point, [s for start, causes, _ in self.leaf.choices for s in (start, *causes)])
        if times is None:
            return None
        for start, causes, limit in self.leaf.choices:
            if all(times[start] - times[cause] > limit for cause in causes):
                return start, causes, limit
        return None

    def _each_last(self, start: Symbol, causes: tuple[Symbol, ...], limit: int) -> Iterator[Question]:
        for last in causes:
            question = Question(self.leaf)
            question.nodes, question.added, question.places = self.nodes, self.added, self.places
            question.distance = self.distance.copy()
            for cause in causes:
                if cause != last:
                    question.ordered(cause, last)
            question.ordered(last, start, limit)
            yield question

    def times(self, point: dict[Symbol, int], of: Iterable[Symbol] | None = None) -> dict[Symbol, int] | None:
        """Whole times near `point` that satisfy every bound between times, for all of the order (or `of` it and the
        point's own); None if there are none.

        The closed bounds are exact for whole numbers: whatever is fixed first, the rest still has a place. Times that
        the point does not have come as early as the others let them, in the order in which the steps were run.
        """
        if self.contradictory:
            return None
        d, nodes = self.distance, self.nodes
        low = np.maximum(-d[ORIGIN, :], 0)
        high = d[:, ORIGIN].copy()
        out: dict[Symbol, int] = {}
        rest = nodes if of is None else {s: nodes[s] for s in of}
        wished = sorted((s for s in point if s in nodes), key=lambda s: (point[s], nodes[s]))
        for symbol in [*wished, *(s for s in sorted(rest, key=nodes.__getitem__) if s not in point)]:
            node = nodes[symbol]
            least, most = int(low[node]), int(high[node])
            if least > most:
                return None
            out[symbol] = value = min(max(point.get(symbol, least), least), most)
            np.maximum(low, value - d[node, :], out=low)
            np.minimum(high, value + d[:, node], out=high)
        return out

    def bound(self, value: Value, judge: Judge, margin: int = 0, more: Sequence[Form] = ()) -> Worst | None:
        """The highest value of a form. margin: branch rows are kept that far from their edge. more: further rows."""
        branches = [*(b + margin if margin else b for b in (*self.leaf.branches, *judge.branches)), *more]
        objective = Form({}, value) if type(value) is int else value
        assert type(objective) is Form
        system = self._system(judge, branches, objective)
        put = system.put(objective)
        key = (put.key(), tuple(sorted(row.key() for row in system.rows)), tuple(sorted(system.box.items())))
        cache = self.leaf.cache
        if key not in cache:
            cache[key] = self._solved(put, system)
        optimum = cache[key]
        if optimum is None:
            return None
        point = system.point(optimum.point)
        upper = optimum.upper
        if objective.terms:
            upper = min(upper, Fraction(judge.narrowest(numerator(objective))[1], objective.den))
        return Worst(upper, optimum.found, value, point, rounding(objective, judge), judge, self)

    def _solved(self, objective: Form, system: System) -> Optimum | None:
        try:
            optimum = self.leaf.solver.maximum(objective, system.rows, system.box)
        except NoAnswer:
            raise Unproved from None
        if optimum is None and not self.leaf.solver.impossible(system.rows, system.box):
            raise Unproved
        return optimum

    def _judge(self) -> Judge:
        known = self.leaf.judge
        judge = Judge(self, known.names)
        judge.box, judge.floors, judge.facts = dict(known.box), dict(known.floors), dict(known.facts)
        for name in self.added:
            judge.box[name] = (0, self.leaf.run.bounds.horizon)
        return judge

    def _system(self, judge: Judge, branches: Sequence[Form], objective: Form | None = None) -> System:
        contracts = self.leaf.run.contracts
        needed = closure(judge, contracts, branches if objective is None else [*branches, objective])
        times = [s for s in needed if s in self.nodes]
        index = [ORIGIN, *(self.nodes[s] for s in times)]
        d = self.distance[np.ix_(index, index)].tolist()
        return System.of(judge, contracts, branches, times, d, needed)


def on_lattice(objective: Form, upper: Fraction) -> Fraction:
    """The highest value not above `upper` that the form can have: its symbols are whole numbers."""
    step = gcd(*objective.terms.values())
    return Fraction((upper * objective.den - objective.const) // step * step + objective.const, objective.den)


def rounding(objective: Form, judge: Judge) -> Fraction:
    """By how much truncation alone can raise the form: the whole-number value against exact, unrounded arithmetic."""
    total = Fraction(0)
    weight: dict[Symbol, Fraction] = {s: Fraction(c, objective.den) for s, c in objective.terms.items()}
    todo = sorted(s for s in weight if s in judge.floors)
    seen: set[Symbol] = set()
    # Names are given innermost first, so the outermost floor is the newest; go from there inwards.
    while todo:
        symbol = max(todo, key=lambda s: int(s[1:]))
        todo.remove(symbol)
        if symbol in seen:
            continue
        seen.add(symbol)
        w = weight[symbol]
        argument, n = judge.floors[symbol]
        if w < 0:
            total -= w * Fraction(n - 1, n)
        for inner, c in argument.terms.items():
            weight[inner] = weight.get(inner, Fraction(0)) + w * Fraction(c, n)
            if inner in judge.floors and inner not in todo:
                todo.append(inner)
    return total


__all__ = ["Impossible", "Leaf", "Question", "Unproved", "Worst", "on_lattice", "rounding"]
