"""A thread that argues over several designs: which invariants does each of them keep, whatever happens, and by how much
does it miss them at worst?

A design is asked in several cases: worlds that differ in what disturbs it. A case is a world for the explorer (every
order and every delay within its bounds), or a list of integer runs, which says something of those runs alone. A thread
is a module of its own that is imported when it is asked for (`THREADS`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import import_module
from time import monotonic
from typing import Any, NoReturn, Protocol

from guestclock.checks.asks import Question
from guestclock.checks.checker import OrderChecker
from guestclock.checks.verdict import HOLDS, UNDECIDED, VACUOUS, VIOLATED, Verdict, verdict_of
from guestclock.errors import UserError
from guestclock.explore.run import Run
from guestclock.explore.search import Tally, Trail
from guestclock.explore.world import Bounds, Build
from guestclock.scenario.quantity import did_you_mean
from guestclock.vmm.clocks import COUNTED

THREADS = {
    "threads/2017-freeze": "guestclock.checks.freeze.thread",
    "threads/2021-suspend": "guestclock.checks.suspend.thread",
}
"""Where each thread's `THREAD` is."""

LISTED = "listed runs"
"""What a verdict that rests on integer runs alone says: it is no proof about any other run."""


class Outcome(Protocol):
    """What the world of a case leaves behind: the same object whether times were forms or ints.

    finished: the case came to its end. reached: what happened in it, of what a case says must happen in some order.
    contracts: names of the contracts that its clocks rest on.
    """

    world: Any
    finished: bool
    reached: set[str]
    contracts: set[str]


@dataclass(frozen=True, slots=True)
class Shown:
    """What one integer run showed of one invariant. tolerance: what truncation makes and the invariant allows."""

    invariant: str
    value: int
    unit: str
    sense: str
    who: str
    tolerance: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One world of a design.

    build, bounds: for the explorer; build's result is an `Outcome`. runs: integer runs instead of them, each of what
    they showed. must: facts of `Outcome.reached` without which no verdict of this case says anything. invariants: those
    asked; empty: all of the thread's. khz: of the counters in whose cycles, or ticks, its verdicts count; 0: in none.
    """

    name: str
    about: str
    build: Build | None = None
    bounds: Bounds | None = None
    runs: Callable[[], Iterable[Shown]] | None = None
    must: tuple[str, ...] = ()
    invariants: tuple[str, ...] = ()
    khz: int = 0

    def __post_init__(self) -> None:
        assert (self.build is None) == (self.bounds is None) != (self.runs is None), self.name


@dataclass(frozen=True, slots=True)
class Design:
    """One proposal. cases: made when they are asked for. source: where it is from. broken: a negative control, left out
    of the table unless it is named. named: makes a case that is not among them from its name, which says what it is;
    None: the name says nothing. It may raise UserError.
    """

    name: str
    about: str
    source: str
    cases: Callable[[], Sequence[Case]]
    broken: bool = False
    named: Callable[[str], Case | None] = lambda name: None


@dataclass(frozen=True, slots=True)
class Thread:
    """A protocol with its designs, and the invariants that it is asked about. bounds: in words, for the reader.

    own: which cases one can name besides those listed, in words; "": none.
    recorder: laid beside an integer run (its world, what its build returned), makes a trace of readings of it
    (`checks.readings.Recorder`), or is None for a case without clocks.
    """

    name: str
    about: str
    designs: tuple[Design, ...]
    invariants: tuple[Question, ...]
    bounds: str
    own: str = ""
    recorder: Callable[[Any, Any], Any] | None = None

    def design(self, name: str) -> Design:
        """Raises UserError for one that is not there."""
        known = {design.name: design for design in self.designs}
        if name not in known:
            raise UserError(f"{self.name}: --design: unknown {name!r}{_meant(name, known)}")
        return known[name]

    def case(self, design: str, name: str) -> Case:
        """Raises UserError for one that is not there."""
        found = self.find(design, name)
        if found is None:
            self.no_case([self.design(design)], name)
        return found

    def find(self, design: str, name: str) -> Case | None:
        """A case that is listed, or one that its name describes."""
        of = self.design(design)
        listed = {case.name: case for case in of.cases()}
        return listed[name] if name in listed else of.named(name)

    def no_case(self, designs: Sequence[Design], name: str) -> NoReturn:
        """Raises UserError: none of these designs has such a case."""
        known = dict.fromkeys(case.name for design in designs for case in design.cases())
        whose = f"{designs[0].name} has no" if len(designs) == 1 else "no design has"
        own = f", or {self.own}" if self.own else ""
        raise UserError(f"{self.name}: --case: {whose} {name!r}{_meant(name, known)}{own}")

    def asked(self, case: Case, properties: Sequence[str] = ()) -> tuple[Question, ...]:
        """The invariants asked of a case. Raises UserError for a property that the thread does not have."""
        known = {question.name: question for question in self.invariants}
        for name in (*properties, *case.invariants):
            if name not in known:
                raise UserError(f"{self.name}: --property: unknown {name!r}{_meant(name, known)}")
        return tuple(
            question
            for name, question in known.items()
            if (not properties or name in properties) and (not case.invariants or name in case.invariants)
        )


@dataclass(slots=True)
class CaseResult:
    """One case's verdicts, and what they cost. never: facts that must happen and did not, in any order."""

    design: str
    case: str
    verdicts: list[Verdict]
    tally: Tally = field(default_factory=Tally)
    programs: int = 0
    seconds: float = 0.0
    complete: bool = True
    contracts: set[str] = field(default_factory=set)
    never: tuple[str, ...] = ()
    khz: int = 0


@dataclass(frozen=True, slots=True)
class Cell:
    """A design's answer to one invariant, over all its cases: the case that decides it, and its verdict there."""

    status: str
    case: str
    verdict: Verdict | None
    khz: int = 0


def is_thread(name: str) -> bool:
    return name in THREADS


def mistyped(name: str, others: Iterable[str]) -> None:
    """Raises UserError for a name that is nothing, and of all that there are is nearest to a thread's."""
    near = did_you_mean(name, [*THREADS, *others])
    if name not in others and any(repr(thread) in near for thread in THREADS):
        raise UserError(f"{name!r}: no recipe, scenario or thread{near}")


def thread(name: str) -> Thread:
    """Raises UserError for one that is not there."""
    if name not in THREADS:
        raise UserError(f"thread {name!r} is unknown{_meant(name, THREADS)}")
    found: Thread = import_module(THREADS[name]).THREAD
    assert found.name == name
    return found


def check_case(
    of: Thread,
    design: str,
    case: str,
    *,
    properties: Sequence[str] = (),
    budget_s: float | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> CaseResult:
    """The verdicts of one case. Plain names go in, so that another process can be handed it."""
    what = of.case(design, case)
    wanted = of.asked(what, properties)
    began = monotonic()
    if what.runs is not None:
        result = _listed(design, what, wanted)
    else:
        result = _explored(of, design, what, wanted, budget_s, stop)
    result.seconds = monotonic() - began
    return result


def _explored(
    of: Thread,
    design: str,
    case: Case,
    wanted: Sequence[Question],
    budget_s: float | None,
    stop: Callable[[], bool],
) -> CaseResult:
    assert case.build is not None
    assert case.bounds is not None
    checker = OrderChecker(case.build, case.bounds, wanted, f"{of.name}, {design}, {case.name}")
    began = monotonic()
    reached: set[str] = set()

    def over() -> bool:
        return stop() or (budget_s is not None and monotonic() - began > budget_s)

    def leaf(run: Run) -> None:
        before = checker.tell.empty
        checker.look(run, checker.search.trail())
        if checker.tell.empty == before:
            reached.update(run.world.reached)

    complete = checker.search.run(leaf, over)
    never = tuple(fact for fact in case.must if fact not in reached)
    verdicts = [verdict_of(checker, question) for question in wanted]
    for verdict in verdicts:
        if verdict.status in (HOLDS, VACUOUS) and not complete:
            verdict.status, verdict.why = UNDECIDED, "it ended before every order was seen"
        elif verdict.status == HOLDS and never:
            verdict.status, verdict.why = UNDECIDED, f"in no order: {', '.join(never)}"
    return CaseResult(
        design, case.name, verdicts, checker.search.tally, checker.search.solver.count.programs, 0.0, complete,
        checker.tell.contracts, never, case.khz,
    )  # fmt: skip


def _listed(design: str, case: Case, wanted: Sequence[Question]) -> CaseResult:
    """The worst that a list of integer runs showed. What holds there says so: it holds of these."""
    assert case.runs is not None
    asked: dict[str, int] = {}
    worst: dict[str, Shown] = {}
    for shown in case.runs():
        asked[shown.invariant] = asked.get(shown.invariant, 0) + 1
        known = worst.get(shown.invariant)
        if known is None or shown.value - shown.tolerance > known.value - known.tolerance:
            worst[shown.invariant] = shown
    verdicts = []
    for question in wanted:
        found = worst.get(question.name)
        if found is None:
            verdicts.append(Verdict(question.name, VACUOUS, why="no run gave anything to judge by"))
            continue
        bad = found.value > found.tolerance
        verdicts.append(
            Verdict(
                question.name, VIOLATED if bad else HOLDS, found.unit, found.sense, found.who,
                found.value if bad else None, Fraction(found.value), Fraction(found.tolerance), asked[question.name],
                LISTED,
            )
        )  # fmt: skip
    return CaseResult(design, case.name, verdicts)


def table(of: Thread, results: Sequence[CaseResult]) -> Mapping[str, Mapping[str, Cell]]:
    """Design -> invariant -> its answer over all cases: violated if any is, else undecided if any is, else holds."""
    out: dict[str, dict[str, Cell]] = {}
    for result in results:
        row = out.setdefault(result.design, {})
        for verdict in result.verdicts:
            cell = Cell(verdict.status, result.case, verdict, result.khz)
            known = row.get(verdict.property)
            if known is None or _weight(cell) > _weight(known):
                row[verdict.property] = cell
    for row in out.values():
        for question in of.invariants:
            row.setdefault(question.name, Cell(VACUOUS, "", None))
    return out


def _weight(cell: Cell) -> tuple[int, Fraction]:
    """What decides a cell: the worse status, then the higher value above what is allowed, in time where that can be."""
    verdict = cell.verdict
    assert verdict is not None
    worst = (verdict.bound if verdict.worst is None else Fraction(verdict.worst)) or Fraction(0)
    in_time = cell.khz if verdict.unit in COUNTED else 0
    above = (worst - verdict.tolerance) * Fraction(1_000_000, in_time or 1_000_000)
    return (VACUOUS, HOLDS, UNDECIDED, VIOLATED).index(cell.status), above


def exit_status(results: Sequence[CaseResult]) -> int:
    """1 violated, else 3 undecided, else 0."""
    statuses = {verdict.status for result in results for verdict in result.verdicts}
    return 1 if VIOLATED in statuses else 3 if UNDECIDED in statuses else 0


def _meant(name: str, known: Iterable[str]) -> str:
    names = list(known)
    return did_you_mean(name, names) or f", expected one of {', '.join(names)}"


__all__ = [
    "LISTED", "THREADS", "Case", "CaseResult", "Cell", "Design", "Outcome", "Shown", "Thread", "Trail", "check_case",
    "exit_status", "is_thread", "table", "thread",
]  # fmt: skip
