"""The same coroutines once more with integers, at times that a linear program or a random search has chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from guestclock.arith.affine import Form, Symbol
from guestclock.explore.leaf import Question, Unproved, Worst
from guestclock.explore.run import Run
from guestclock.explore.system import closure
from guestclock.explore.world import Actor, Bounds, Build


class Diverged(Exception):
    """With these times the integer run does not go the way the order says: a branch or a guard comes out otherwise."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """Everything an integer run needs. steps: (actor, label) in the order of time. values: every symbol's value: times
    of events and of clock reads in units, unknowns, contract clocks, added instants.
    """

    steps: tuple[tuple[str, str], ...]
    values: dict[Symbol, int]


class IntegerWorld:
    """What a model sees of a replay. Times are true time in ps, rounded up: a TSC that counts units reads them."""

    def __init__(self, build: Build, bounds: Bounds, schedule: Schedule) -> None:
        self.bounds, self.schedule = bounds, schedule
        self._waiting: dict[str, _Next] = {}
        self._born: set[str] = set()
        self._sees: list[Callable[[int], None]] = []
        self._symbol: Symbol | None = None
        self._reads = 0
        self.events: list[Done] = []
        self.world = build(self)

    @property
    def now_ps(self) -> int:
        return 0 if self._symbol is None else self.ps(self._last)

    symbolic = False

    def value(self, symbol: Symbol) -> int:
        return self.schedule.values[symbol]

    @property
    def horizon_ns(self) -> int:
        return self.bounds.horizon_ns

    @property
    def here(self) -> str:
        return self._symbol or ""

    @property
    def latest(self) -> Symbol:
        return self._last if self._symbol is not None else ""

    def ps_of(self, units: int) -> int:
        num, den = self.bounds.ps
        return -(-units * num // den)

    def ps(self, symbol: Symbol) -> int:
        return self.ps_of(self.schedule.values[symbol])

    def read_ps(self) -> int:
        if self._symbol is None:
            return 0
        self._last = f"{self._symbol}:{self._reads}"
        self._reads += 1
        if self._last not in self.schedule.values:
            raise Diverged(f"{self._last}: a clock read that the order has not")
        return self.ps(self._last)

    def spawn(self, name: str, actor: Actor, *, daemon: bool = False) -> None:
        unique, k = name, 1
        while unique in self._born:
            k += 1
            unique = f"{name} #{k}"
        self._born.add(unique)
        self._waiting[unique] = _Next(actor)

    def unknown(self, name: str, lo: int, hi: int) -> int:
        value = self.schedule.values.get(name, lo)
        assert lo <= value <= hi, (name, lo, value, hi)
        return value

    def clock(self, name: str, rows: Callable[[Form], Iterable[Form]], lo: int, hi: int) -> int:
        return self.schedule.values[name]

    def new_call(self, within: int | None = None) -> None:
        """Times are given."""

    def after_step(self, see: Callable[[int], None]) -> None:
        self._sees.append(see)

    def run(self) -> Any:
        """Carries out the schedule; what the build returned. Raises Diverged."""
        try:
            for name, label in self.schedule.steps:
                self._step(name, label)
        finally:
            self._symbol = None  # what actors still do on their way out is at no time
            for waiting in self._waiting.values():
                waiting.actor.close()
        return self.world

    def _step(self, name: str, label: str) -> None:
        waiting = self._waiting.get(name)
        if waiting is None or waiting.label != label:
            found = "is over" if waiting is None else f"is at {waiting.label!r}"
            raise Diverged(f"{name} {found}, expected {label!r}")
        if waiting.until is not None and not waiting.timed and not waiting.until():
            raise Diverged(f"{name} cannot go on at {label!r}")
        waiting.n += 1
        self._symbol = self._last = f"{name}.{waiting.n}"
        self._reads = 0
        try:
            waiting.label, waiting.until, delay_ps = waiting.actor.send(None)
            waiting.timed = delay_ps is not None
        except StopIteration:
            del self._waiting[name]
        self.events.append(Done(name, self._symbol, self._symbol, self._last, label))
        for see in self._sees:
            see(len(self.events) - 1)


@dataclass(slots=True)
class _Next:
    actor: Actor
    label: str = "start"
    until: Callable[[], bool] | None = None
    timed: bool = False
    n: int = 0


@dataclass(frozen=True, slots=True)
class Done:
    """A step of an integer run, as explore.event.Event has it."""

    actor: str
    name: str
    start: Symbol
    end: Symbol
    label: str


def schedule(question: Question, point: dict[Symbol, int]) -> Schedule | None:
    """An integer run's times near `point`; None if the bounds leave none."""
    run: Run = question.leaf.run
    values = question.times(point)
    if values is None or question.unsettled(values) is not None:
        return None
    for name, (lo, hi) in run.unknowns.items():
        values[name] = min(max(point.get(name, lo), lo), hi)
    for name, rows in run.contracts.items():
        lo, hi = run.judge.box[name]
        for row in rows:
            c = row.terms[name]
            rest = row.const + sum(k * _valued(run, values, s) for s, k in row.terms.items() if s != name)
            lo, hi = (lo, min(hi, -rest // c)) if c > 0 else (max(lo, -(rest // c)), hi)
        if lo > hi:
            return None
        values[name] = min(max(point.get(name, lo), lo), hi)
    order = sorted(run.events, key=lambda e: (values[e.start], e.number))
    if not _legal(run, order):
        order = _respecting(run, values)
    return Schedule(tuple((e.actor, e.label) for e in order), values)


def _valued(run: Run, values: dict[Symbol, int], symbol: Symbol) -> int:
    """A symbol's value; a floor's by what it is the floor of."""
    floor = run.judge.floors.get(symbol)
    if floor is None:
        return values[symbol]
    argument, n = floor
    return (argument.const + sum(c * _valued(run, values, s) for s, c in argument.terms.items())) // n


def _legal(run: Run, order: list[Any]) -> bool:
    done = 0
    for event in order:
        if event.past & ~done:
            return False
        done |= 1 << event.number
    return True


def _respecting(run: Run, values: dict[Symbol, int]) -> list[Any]:
    """By time, and among equal times by the order of the run."""
    left, done, out = list(run.events), 0, []
    while left:
        ready = [e for e in left if not e.past & ~done]
        first = min(ready, key=lambda e: (values[e.start], e.number))
        left.remove(first)
        done |= 1 << first.number
        out.append(first)
    return out


@dataclass(frozen=True, slots=True)
class Confirmed:
    """An integer run that showed `value`."""

    value: int
    schedule: Schedule


Measure = Callable[[Any, dict[Symbol, int]], "int | None"]
"""The asked-for value in an integer run: of what the build returned, and the values of all symbols; None: not there."""


def confirm(
    worst: Worst,
    build: Build,
    measure: Measure,
    *,
    enough: float | None = None,
    tries: int = 16,
) -> Confirmed | None:
    """The highest value that an integer run near the optimum shows; None if none of them goes that way.

    At a threshold the float vertex may stand on the wrong side: branch rows are tightened step by step, then times are
    moved by a few units, one at a time. A program takes a coarse floor for any number: at last each is held at a whole
    one near the vertex. enough: a value at which to stop.
    """
    question = worst.question
    best: Confirmed | None = None
    # Truncation alone may keep whole numbers that far below the optimum.
    enough = worst.found - 1 - float(worst.rounding) if enough is None else enough
    bounds = question.leaf.run.bounds

    def attempt(point: dict[Symbol, int]) -> bool:
        """Whether this is better than all before."""
        nonlocal best
        chosen = schedule(question, point)
        if chosen is None:
            return False
        try:
            value = measure(IntegerWorld(build, bounds, chosen).run(), chosen.values)
        except (Diverged, KeyError):
            return False
        if value is None or (best is not None and value <= best.value):
            return False
        best = Confirmed(value, chosen)
        return True

    attempt(worst.point)
    for margin in (1, 2, 4, 8, 64):
        if best is not None and best.value >= enough:
            return best
        try:
            tighter = question.bound(worst.value, worst.judge, margin)
        except Unproved:
            continue
        if tighter is not None:
            attempt(tighter.point)
    if best is None or best.value >= enough:
        return best
    moved = [s for s in worst.point if s in question.nodes or s in question.leaf.run.unknowns]

    def polish() -> None:
        assert best is not None
        step = 0
        while step < tries and best.value < enough:
            improved = False
            for symbol in moved:
                for by in (1, -1, 4, -4):
                    step += 1
                    improved |= attempt({**best.schedule.values, symbol: best.schedule.values[symbol] + by})
                    if step >= tries:
                        return
            if not improved:
                return

    polish()
    for rows in _whole_floors(worst, best):
        if best.value >= enough:
            break
        try:
            fixed = question.bound(worst.value, worst.judge, more=rows)
        except Unproved:
            continue
        if fixed is not None:
            # The vertex is on the floor's edge: a floor inside it may take it over.
            attempt(fixed.point)
            for symbol in [s for s in fixed.point if s in question.nodes]:
                attempt({**fixed.point, symbol: fixed.point[symbol] - 1})
    return best


_COARSE, _FLOORS = 1_000, 4


def _whole_floors(worst: Worst, best: Confirmed | None) -> Iterator[tuple[Form, Form]]:
    """Rows that hold one coarse floor of the asked-for value at what it is in the best run, and one below."""
    if best is None or type(worst.value) is not Form:
        return
    run, judge = worst.question.leaf.run, worst.judge
    values = best.schedule.values

    def valued(symbol: Symbol) -> int:
        if symbol not in judge.floors:
            return values[symbol]
        argument, n = judge.floors[symbol]
        return (argument.const + sum(c * valued(s) for s, c in argument.terms.items())) // n

    coarse = [s for s in closure(judge, run.contracts, [worst.value]) if s in judge.floors]
    for symbol in [s for s in coarse if judge.floors[s][1] >= _COARSE][:_FLOORS]:
        whole = valued(symbol)
        for held in (whole, whole - 1):
            yield Form({symbol: 1}, -held), Form({symbol: -1}, held)
