"""The verdicts of one spec: a search over all orders, violations confirmed on integers, the shortest story of each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from time import monotonic
from typing import Any

from guestclock.checks.architectures import arch_of
from guestclock.checks.asks import QUESTIONS, Question
from guestclock.checks.breaks import Breaks, smallest_delay
from guestclock.checks.checker import Checker, Found, OrderChecker, Tell, find, measure, put
from guestclock.checks.spec import Spec
from guestclock.checks.windows import MustRun
from guestclock.errors import UserError
from guestclock.explore.replay import Confirmed
from guestclock.explore.run import Run
from guestclock.explore.search import Tally, Trail

HOLDS, VIOLATED, UNDECIDED, VACUOUS = "holds", "violated", "undecided", "not asked"


@dataclass(slots=True)
class Verdict:
    """One property's.

    worst: what an integer run showed (violated); bound: what no run exceeds, proved; tolerance: what truncation alone
    makes, and what the property allows. asked: how often it was asked. ask, trail, confirmed: the worst case. short:
    the story with the fewest steps and the least delay that still violates it; breaks: that delay.
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
    ask: str = ""
    trail: Trail = ()
    confirmed: Confirmed | None = None
    short: Confirmed | None = None
    short_ask: str = ""
    breaks: Breaks | None = None


@dataclass(slots=True)
class Result:
    """All verdicts of one spec, and what they cost. complete: every order was seen; state: where it stopped if not."""

    spec: Spec
    verdicts: list[Verdict]
    tally: Tally
    programs: int
    seconds: float
    complete: bool
    contracts: set[str] = field(default_factory=set)
    unfinished: int = 0
    state: dict[str, Any] | None = None


@dataclass(slots=True)
class Progress:
    """How far a search is. worst: the worst excess above a tolerance so far, by property."""

    spec: Spec
    tally: Tally
    worst: dict[str, Found]
    seconds: float


def check(
    spec: Spec,
    *,
    budget_s: float | None = None,
    jobs: int = 1,
    cluster: str | None = None,
    resume: dict[str, Any] | None = None,
    stories: bool = True,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[Progress], None] = lambda so_far: None,
) -> Result:
    """Every order and every delay within the spec's bounds.

    budget_s: then it ends, undecided. jobs: processes that judge orders; cluster: the address of a Dask scheduler
    instead. resume: the state of a Result that was not complete. stories: violations get their shortest story and
    smallest delay. stop: asked between two orders.
    Raises UserError for a recipe that cannot be run, and for a state that is not one of this spec.
    """
    wanted = chosen(spec)
    how = (budget_s, jobs, cluster, resume, stories, stop, progress)
    try:
        return _checked(spec.but(start=any(question.running for question in wanted)), wanted, *how)
    except MustRun:
        return _checked(spec.but(start=True), wanted, *how)


def _checked(
    spec: Spec,
    wanted: list[Question],
    budget_s: float | None,
    jobs: int,
    cluster: str | None,
    resume: dict[str, Any] | None,
    stories: bool,
    stop: Callable[[], bool],
    progress: Callable[[Progress], None],
) -> Result:
    checker = Checker(spec, wanted)
    if resume is not None:
        _restore(checker, resume)
    began = monotonic()

    def over() -> bool:
        return stop() or (budget_s is not None and monotonic() - began > budget_s)

    def seen() -> None:
        progress(Progress(spec, checker.search.tally, checker.tell.worst, monotonic() - began))

    if jobs > 1 or cluster is not None:
        complete = _elsewhere(checker, jobs, cluster, over, seen)
    else:

        def leaf(run: Run) -> None:
            checker.look(run, checker.search.trail())
            seen()

        complete = checker.search.run(leaf, over)
    checker.tell.programs += checker.search.solver.count.programs
    verdicts = list(_verdicts(checker, complete, stories, monotonic() - began))
    state = None if complete else _state(checker)
    return Result(
        spec, verdicts, checker.search.tally, checker.tell.programs, monotonic() - began, complete,
        checker.tell.contracts, checker.tell.unfinished, state,
    )  # fmt: skip


def _elsewhere(
    checker: Checker, jobs: int, cluster: str | None, over: Callable[[], bool], seen: Callable[[], None]
) -> bool:
    from guestclock.checks.work import Hands, executor

    names = tuple(question.name for question in checker.wanted)
    with executor(jobs, cluster) as (pool, workers):
        hands = Hands(pool, workers, checker.spec, names, checker.tell)

        def leaf(run: Run) -> None:
            hands.add(checker.search.trail())
            seen()

        complete = checker.search.run(leaf, over)
        hands.finish()
    return complete


def _verdicts(checker: Checker, complete: bool, stories: bool, whole_s: float) -> Iterator[Verdict]:
    for question in checker.wanted:
        verdict = verdict_of(checker, question)
        if not complete and verdict.status in (HOLDS, VACUOUS):
            verdict.status, verdict.why = UNDECIDED, "it ended before every order was seen"
        if stories and verdict.status == VIOLATED:
            _shorten(checker, question, verdict, whole_s)
        yield verdict


def verdict_of(checker: OrderChecker, question: Question) -> Verdict:
    """The search's answer to one property; a violation only if an integer run shows it."""
    name, tell = question.name, checker.tell
    found, asked = tell.worst.get(name), tell.asked.get(name, 0)
    if found is None:
        if name in tell.unproved:
            return Verdict(name, UNDECIDED, asked=asked, why="neither a bound nor impossibility could be proved")
        status, why = (HOLDS, "") if asked else (VACUOUS, "no order gave anything to judge by")
        return Verdict(name, status, asked=asked, why=why)
    verdict = Verdict(
        name, HOLDS, found.unit, found.sense, found.who, None, found.upper, found.tolerance, asked, "", found.ask,
        found.trail,
    )  # fmt: skip
    if found.excess <= 0:
        if name in tell.unproved:
            verdict.status, verdict.why = UNDECIDED, "one order's bound could not be proved"
        return verdict
    confirmed = checker.confirm(name, found)
    if confirmed is not None and confirmed.value > found.tolerance:
        verdict.status, verdict.worst, verdict.confirmed = VIOLATED, confirmed.value, confirmed
    else:
        shown = "none" if confirmed is None else str(confirmed.value)
        verdict.status = UNDECIDED
        verdict.why = f"the bound is {float(found.upper):.3f}, an integer run shows {shown}"
    return verdict


def _shorten(checker: Checker, question: Question, verdict: Verdict, whole_s: float) -> None:
    """The story that the fewest steps lead to, with the smallest delay that still violates the property.

    No execution shows a violation in fewer steps: each one's steps up to it are the past of one ask in some order.
    """
    found = checker.tell.shortest.get(question.name)
    if found is None:
        return
    breaks, confirmed, found = smallest_delay(checker, question, found, whole_s)
    verdict.short_ask = found.ask
    verdict.breaks = breaks
    verdict.short = confirmed if confirmed is not None else checker.confirm(question.name, found)


# ---- going on


def _state(checker: Checker) -> dict[str, Any]:
    tell = checker.tell

    def plain(found: Found) -> dict[str, Any]:
        told = asdict(found)
        for name in ("excess", "upper", "tolerance"):
            told[name] = str(told[name])
        return told

    return {
        "guestclock_search": 1,
        "spec": asdict(checker.spec),
        "properties": [question.name for question in checker.wanted],
        "search": checker.search.state(),
        "worst": {name: plain(found) for name, found in tell.worst.items()},
        "shortest": {name: plain(found) for name, found in tell.shortest.items()},
        "asked": tell.asked,
        "unproved": sorted(tell.unproved),
        "contracts": sorted(tell.contracts),
        "counts": [tell.empty, tell.unfinished, tell.programs],
    }


def _restore(checker: Checker, state: dict[str, Any]) -> None:
    def found(told: dict[str, Any]) -> Found:
        trail = tuple((name, tuple(labels)) for name, labels in told["trail"])
        numbers = {name: Fraction(told[name]) for name in ("excess", "upper", "tolerance")}
        return Found(**{**told, **numbers, "trail": trail})

    try:
        if state["guestclock_search"] != 1:
            raise UserError(f"the search's file is of version {state['guestclock_search']}, this program reads 1")
        if Spec.of(state["spec"]) != checker.spec:
            raise UserError("the search's file is of another check: recipe, kernel or bounds differ")
        if state["properties"] != [question.name for question in checker.wanted]:
            raise UserError("the search's file is of other properties")
        checker.search.restore(state["search"])
        empty, unfinished, programs = state["counts"]
        checker.tell = Tell(
            {name: found(told) for name, told in state["worst"].items()},
            {name: found(told) for name, told in state["shortest"].items()},
            dict(state["asked"]), set(state["unproved"]), set(state["contracts"]), empty, unfinished, programs,
        )  # fmt: skip
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"not a search's file, or a damaged one ({error!r})") from None


def chosen(spec: Spec) -> list[Question]:
    """The properties asked for, or all that are asked by default. Raises UserError for one that does not exist."""
    arch = arch_of(spec.kernel)
    ours = {name: q for name, q in QUESTIONS.items() if arch in q.arch}
    names = spec.properties or tuple(name for name, q in ours.items() if q.default)
    for name in names:
        if name not in QUESTIONS:
            raise UserError(f"--property: unknown {name!r}, expected one of {', '.join(ours)}")
        if name not in ours:
            raise UserError(
                f"--property: {name!r} is not asked of {arch} guests (kernel {spec.kernel}), expected one of "
                f"{', '.join(ours)}"
            )
    return [QUESTIONS[name] for name in names]


__all__ = [
    "HOLDS", "UNDECIDED", "VACUOUS", "VIOLATED", "Progress", "Result", "Verdict", "check", "chosen", "find", "measure",
    "put", "verdict_of",
]  # fmt: skip
