"""The search over one spec: every order put to every question, the worst of each confirmed on integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from time import monotonic
from typing import Any

from guestclock.arith.affine import Form, judged_by
from guestclock.checks import questions as _questions
from guestclock.checks.asks import QUESTIONS, Ask, Question
from guestclock.checks.spec import Spec
from guestclock.checks.world import Outcome, build
from guestclock.errors import UserError
from guestclock.explore import leaf as leaves
from guestclock.explore.leaf import Leaf, Unproved, Worst
from guestclock.explore.replay import Confirmed, confirm
from guestclock.explore.run import Run, bits
from guestclock.explore.search import Search, Stop, Tally, Trail
from guestclock.explore.times import Impossible

HOLDS, VIOLATED, UNDECIDED, VACUOUS = "holds", "violated", "undecided", "not asked"

assert _questions.__all__


@dataclass(slots=True)
class Worse:
    """The worst answer to one property so far. excess: by how much the proved bound is above the tolerance."""

    excess: Fraction
    upper: Fraction
    tolerance: Fraction
    found: float
    ask: Ask
    trail: Trail


@dataclass(slots=True)
class Verdict:
    """One property's. worst: what an integer run showed, or (holds) nothing; bound: what no run exceeds, proved.

    asked: how often the property was asked; contracts: what it rests on besides exact arithmetic.
    """

    property: str
    status: str
    unit: str = "ns"
    sense: str = ""
    who: str = ""
    worst: int | None = None
    bound: Fraction | None = None
    tolerance: Fraction = Fraction(0)
    asked: int = 0
    why: str = ""
    ask: Ask | None = None
    trail: Trail = ()
    confirmed: Confirmed | None = None


@dataclass(slots=True)
class Result:
    """All verdicts of one spec, and what they cost. complete: every order was seen."""

    spec: Spec
    verdicts: list[Verdict]
    tally: Tally
    programs: int
    seconds: float
    complete: bool
    contracts: set[str] = field(default_factory=set)
    unfinished: int = 0


Progress = Callable[[str], None]


class Checker:
    """Puts orders of one spec to its questions; `look` is a leaf's judge."""

    def __init__(self, spec: Spec, wanted: Sequence[Question]) -> None:
        self.spec, self.wanted = spec, wanted
        self.build = build(spec)
        self.search = Search(self.build, spec.bounds)
        self.worst: dict[str, Worse] = {}
        self.asked: dict[str, int] = {q.name: 0 for q in wanted}
        self.unproved: set[str] = set()
        self.contracts: set[str] = set()
        self.empty = self.unfinished = 0
        self._programs: dict[Any, Any] = {}
        self._parts: dict[Any, Fraction | None] = {}
        self._leaves: dict[frozenset[int], Leaf] = {}

    def look(self, run: Run) -> None:
        """Judges one complete order."""
        outcome: Outcome = run.world
        stuck = run.stuck()
        if stuck:
            name, label = stuck[0]
            raise UserError(f"{self.spec.recipe}: {name} waits for ever at {label!r}: nobody will let it go on")
        if not outcome.finished:
            self.unfinished += 1
            return
        try:
            whole = Leaf(run, self.search.solver, self._programs)
        except Impossible:
            self.empty += 1
            return
        self.contracts |= outcome.contracts
        trail: Trail | None = None
        for wanted in self.wanted:
            for ask in wanted.asks(outcome):
                self.asked[wanted.name] += 1
                worst = self._worst(run, whole, wanted.name, ask)
                if worst is None:
                    continue
                known = self.worst.get(wanted.name)
                tolerance = worst.rounding + ask.tolerance
                excess = worst.upper - tolerance
                if known is None or excess > known.excess:
                    trail = self.search.trail() if trail is None else trail
                    self.worst[wanted.name] = Worse(excess, worst.upper, tolerance, worst.found, ask, trail)

    def _worst(self, run: Run, whole: Leaf, name: str, ask: Ask) -> Worst | None:
        """The worst of one ask, unless its own past alone proves that it is not worse than what is known."""
        known = self.worst.get(name)
        events = 0
        for number in ask.events:
            events |= run.events[number].past | 1 << number
        key = (name, ask.sense, ask.unit, tuple(run.events[n].signature for n in ask.events), len(ask.instants), ask.id)
        try:
            if key not in self._parts:
                at_worst = put(self._part(run, events), ask).worst(lambda: ask.value(Form.of), ask.tolerance)
                self._parts[key] = None if at_worst is None else at_worst.upper - at_worst.rounding - ask.tolerance
            most = self._parts[key]
            if most is None or (known is not None and most <= known.excess):
                return None
            return put(whole, ask).worst(lambda: ask.value(Form.of), ask.tolerance)
        except Impossible:
            return None
        except Unproved:
            self.unproved.add(name)
            return None

    def _part(self, run: Run, events: int) -> Leaf:
        """Those steps of an order, as any order that has them knows them."""
        key = frozenset(run.events[n].signature for n in bits(events))
        if key not in self._leaves:
            self._leaves[key] = Leaf(run, self.search.solver, self._programs, events)
        return self._leaves[key]

    def verdicts(self) -> Iterator[Verdict]:
        """After the search: each property's, violations confirmed on integers."""
        for wanted in self.wanted:
            yield self._verdict(wanted)

    def _verdict(self, wanted: Question) -> Verdict:
        name = wanted.name
        worse, asked = self.worst.get(name), self.asked[name]
        if worse is None:
            if name in self.unproved:
                return Verdict(name, UNDECIDED, asked=asked, why="neither a bound nor impossibility could be proved")
            status = HOLDS if asked else VACUOUS
            return Verdict(name, status, asked=asked, why="" if asked else "no order gave anything to judge by")
        ask = worse.ask
        verdict = Verdict(
            name, HOLDS, ask.unit, ask.sense, ask.who, None, worse.upper, worse.tolerance, asked, "", ask, worse.trail
        )
        if worse.excess <= 0:
            if name in self.unproved:
                verdict.status, verdict.why = UNDECIDED, "one order's bound could not be proved"
            return verdict
        confirmed = self.confirm(wanted, worse)
        if confirmed is not None and confirmed.value > worse.tolerance:
            verdict.status, verdict.worst, verdict.confirmed = VIOLATED, confirmed.value, confirmed
        else:
            shown = "none" if confirmed is None else str(confirmed.value)
            verdict.status = UNDECIDED
            verdict.why = f"the bound is {float(worse.upper):.3f}, an integer run shows {shown}"
        return verdict

    def confirm(self, wanted: Question, worse: Worse) -> Confirmed | None:
        """An integer run near the worst point of the order that has it."""
        run = self.search.again(worse.trail)
        try:
            ask = find(wanted, run.world, worse.ask.id)
            question = put(Leaf(run, self.search.solver, self._programs), ask)
            worst = question.worst(lambda: ask.value(Form.of))
            if worst is None:
                return None
            return confirm(worst, self.build, measure(wanted, ask.id))
        finally:
            run.close()


def put(leaf: Leaf, ask: Ask) -> leaves.Question:
    """An order with the ask's instants in it."""
    question = leaf.question()
    for instant in ask.instants:
        question.instant(instant.name, after=instant.after, before=instant.before)
    for earlier, later in ask.ordered:
        question.ordered(earlier, later)
    for earlier, later, units in ask.at_most:
        question.ordered(earlier, later, units)
    return question


def find(wanted: Question, outcome: Outcome, id_: str) -> Ask:
    return next(ask for ask in wanted.asks(outcome) if ask.id == id_)


def measure(wanted: Question, id_: str) -> Callable[[Outcome, dict[str, int]], int | None]:
    def value(outcome: Outcome, values: dict[str, int]) -> int | None:
        ask = next((a for a in wanted.asks(outcome) if a.id == id_), None)
        return None if ask is None else int(ask.value(values.__getitem__))

    return value


def check(
    spec: Spec,
    *,
    budget_s: float | None = None,
    progress: Progress = lambda line: None,
) -> Result:
    """Every order and every delay within the spec's bounds. Raises UserError for a recipe that cannot be run."""
    wanted = chosen(spec)
    began = monotonic()
    checker = Checker(spec, wanted)
    complete = True

    def leaf(run: Run) -> None:
        checker.look(run)
        progress(f"{spec.recipe} on {spec.kernel}: {checker.search.tally.orders} orders")
        if budget_s is not None and monotonic() - began > budget_s:
            raise Stop

    try:
        checker.search.run(leaf)
    except Stop:
        complete = False
    verdicts = list(checker.verdicts())
    if not complete:
        for verdict in verdicts:
            if verdict.status in (HOLDS, VACUOUS):
                verdict.status, verdict.why = UNDECIDED, "the budget ended before every order was seen"
    return Result(
        spec, verdicts, checker.search.tally, checker.search.solver.count.programs, monotonic() - began, complete,
        checker.contracts, checker.unfinished,
    )  # fmt: skip


def chosen(spec: Spec) -> list[Question]:
    """The properties asked for, or all that are asked by default. Raises UserError for one that does not exist."""
    names = spec.properties or tuple(name for name, q in QUESTIONS.items() if q.default)
    for name in names:
        if name not in QUESTIONS:
            raise UserError(f"--property: unknown {name!r}, expected one of {', '.join(QUESTIONS)}")
    return [QUESTIONS[name] for name in names]


__all__ = ["HOLDS", "UNDECIDED", "VACUOUS", "VIOLATED", "Checker", "Result", "Verdict", "check", "judged_by"]
