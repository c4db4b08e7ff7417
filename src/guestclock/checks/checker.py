"""Orders put to questions: the worst answer to each property, and the one that the fewest steps lead to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from guestclock.arith.affine import Form
from guestclock.checks import questions as _questions
from guestclock.checks.asks import Ask, Question
from guestclock.checks.outcome import Outcome
from guestclock.checks.spec import Spec
from guestclock.checks.world import build
from guestclock.errors import UserError
from guestclock.explore import leaf as leaves
from guestclock.explore.event import bits
from guestclock.explore.leaf import Leaf, Unproved, Worst
from guestclock.explore.replay import Confirmed, confirm
from guestclock.explore.run import Run
from guestclock.explore.search import Dead, Search, Trail
from guestclock.explore.times import Impossible
from guestclock.explore.world import Bounds, Build

assert _questions.__all__


@dataclass(frozen=True, slots=True)
class Found:
    """One answer: by how much the proved bound is above the tolerance, and the order and the ask that give it.

    steps: how many steps lead to it, in every execution that has it.
    """

    excess: Fraction
    upper: Fraction
    tolerance: Fraction
    found: float
    ask: str
    unit: str
    sense: str
    who: str
    steps: int
    trail: Trail

    def worse_than(self, other: Found | None) -> bool:
        """The same whatever order they were found in."""
        return other is None or (-self.excess, *self._last()) < (-other.excess, *other._last())

    def shorter_than(self, other: Found | None) -> bool:
        return other is None or (self.steps, -self.excess, *self._last()) < (other.steps, -other.excess, *other._last())

    def _last(self) -> tuple[int, str, str]:
        return self.steps, self.ask, repr(self.trail)


@dataclass(slots=True)
class Tell:
    """What a batch of orders says, by property: plain values, to be merged in any order."""

    worst: dict[str, Found] = field(default_factory=dict)
    shortest: dict[str, Found] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    unproved: set[str] = field(default_factory=set)
    contracts: set[str] = field(default_factory=set)
    empty: int = 0
    unfinished: int = 0
    programs: int = 0

    def merge(self, other: Tell) -> None:
        for name, found in other.worst.items():
            if found.worse_than(self.worst.get(name)):
                self.worst[name] = found
        for name, found in other.shortest.items():
            if found.shorter_than(self.shortest.get(name)):
                self.shortest[name] = found
        for name, asked in other.asked.items():
            self.asked[name] = self.asked.get(name, 0) + asked
        self.unproved |= other.unproved
        self.contracts |= other.contracts
        self.empty += other.empty
        self.unfinished += other.unfinished
        self.programs += other.programs


class OrderChecker:
    """Puts the orders of one world to its questions. what: it, in a message."""

    def __init__(self, build: Build, bounds: Bounds, wanted: Sequence[Question], what: str) -> None:
        self.build, self.wanted, self.what = build, wanted, what
        self.named = {question.name: question for question in wanted}
        self.search = Search(build, bounds)
        self.tell = Tell()
        self._programs: dict[Any, Any] = {}
        self._parts: dict[Any, Fraction | None] = {}
        self._leaves: dict[frozenset[int], Leaf] = {}

    def look(self, run: Run, trail: Trail) -> None:
        """Judges one complete order. Raises UserError where it cannot end."""
        outcome: Outcome = run.world
        for name, label in run.stuck():
            raise UserError(f"{self.what}: {name} waits for ever at {label!r}: nobody will let it go on")
        tell = self.tell
        if not outcome.finished:
            tell.unfinished += 1
            return
        try:
            whole = Leaf(run, self.search.solver, self._programs)
        except Impossible:
            tell.empty += 1
            return
        tell.contracts |= outcome.contracts
        for wanted in self.wanted:
            name = wanted.name
            for ask in wanted.asks(outcome):
                tell.asked[name] = tell.asked.get(name, 0) + 1
                self._ask(run, whole, name, ask, trail)

    def _ask(self, run: Run, whole: Leaf, name: str, ask: Ask, trail: Trail) -> None:
        """Puts one ask to an order, unless its own past proves that it gives nothing worse, or shorter."""
        tell = self.tell
        events = 0
        for number in ask.events:
            events |= run.events[number].past | 1 << number
        steps = events.bit_count()
        worst, shortest = tell.worst.get(name), tell.shortest.get(name)
        try:
            most = self._by_its_past(run, events, name, ask)
            if most is None:
                return
            short = most > 0 and (shortest is None or steps <= shortest.steps)
            if worst is not None and not short and (most < worst.excess or most <= 0):
                return
            answer = put(whole, ask).worst(lambda: ask.value(Form.of), ask.tolerance, forgiving=ask.forgiving)
        except Impossible:
            return
        except Unproved:
            tell.unproved.add(name)
            return
        if answer is None:
            return
        tolerance = (answer.rounding if ask.forgiving else Fraction(0)) + ask.tolerance
        found = Found(
            answer.upper - tolerance, answer.upper, tolerance, answer.found, ask.id, ask.unit, ask.sense, ask.who,
            steps, trail,
        )  # fmt: skip
        if found.worse_than(worst):
            tell.worst[name] = found
        if found.excess > 0 and found.shorter_than(shortest):
            tell.shortest[name] = found

    def _by_its_past(self, run: Run, events: int, name: str, ask: Ask) -> Fraction | None:
        """By how much it can be above the tolerance, as far as the steps that lead to it know; None: not at all."""
        key = (name, ask.sense, ask.unit, tuple(run.events[n].signature for n in ask.events), len(ask.instants), ask.id)
        if key not in self._parts:
            part = put(self._part(run, events), ask)
            answer = part.worst(lambda: ask.value(Form.of), ask.tolerance, forgiving=ask.forgiving)
            forgiven = answer.rounding if answer is not None and ask.forgiving else 0
            self._parts[key] = None if answer is None else answer.upper - forgiven - ask.tolerance
        return self._parts[key]

    def _part(self, run: Run, events: int) -> Leaf:
        """Those steps of an order, as any order that has them knows them."""
        key = frozenset(run.events[n].signature for n in bits(events))
        if key not in self._leaves:
            self._leaves[key] = Leaf(run, self.search.solver, self._programs, events)
        return self._leaves[key]

    def confirm(self, name: str, found: Found, enough: float | None = None) -> Confirmed | None:
        """An integer run near the worst point of the order that has it."""
        wanted = self.named[name]
        worst = self.worst_of(name, found)
        if worst is None:
            return None
        if enough is None and found.tolerance < worst.rounding:
            enough = worst.found - 1  # truncation is what may be wrong: it is not taken off
        return confirm(worst, self.build, measure(wanted, found.ask), enough=enough)

    def worst_of(self, name: str, found: Found) -> Worst | None:
        """The worst answer of one ask in one order, under this checker's bounds; None if they allow it at no time."""
        try:
            run = self.search.again(found.trail)
        except (Impossible, Dead):
            return None
        try:
            ask = find(self.named[name], run.world, found.ask)
            return put(Leaf(run, self.search.solver, self._programs), ask).worst(lambda: ask.value(Form.of))
        except (Impossible, LookupError):
            return None
        finally:
            run.close()


class Checker(OrderChecker):
    """Puts the orders of one spec to its questions."""

    def __init__(self, spec: Spec, wanted: Sequence[Question], bounds: Bounds | None = None) -> None:
        self.spec = spec
        super().__init__(build(spec), spec.bounds if bounds is None else bounds, wanted, spec.recipe or "the scenario")


def put(leaf: Leaf, ask: Ask) -> leaves.Question:
    """An order with the ask's instants in it."""
    question = leaf.question()
    for instant in ask.instants:
        question.instant(instant.name, after=instant.after, before=instant.before)
    for earlier, later in ask.ordered:
        question.ordered(earlier, later)
    for earlier, later, units in ask.at_most:
        question.ordered(earlier, later, units)
    for earlier, later, units in ask.at_least:
        question.ordered(earlier, later, None, units)
    return question


def find(wanted: Question, outcome: Outcome, id_: str) -> Ask:
    """Raises LookupError where the order has no such ask."""
    for ask in wanted.asks(outcome):
        if ask.id == id_:
            return ask
    raise LookupError(id_)


def measure(wanted: Question, id_: str) -> Callable[[Outcome, dict[str, int]], int | None]:
    """The value of one ask in an integer run."""

    def value(outcome: Outcome, values: dict[str, int]) -> int | None:
        ask = next((a for a in wanted.asks(outcome) if a.id == id_), None)
        return None if ask is None else int(ask.value(values.__getitem__))

    return value
