"""Swim lanes: who did what in a run of a thread's protocol, one lane per actor, time from top to bottom.

The arrows are what a step needed of another actor's: the latest steps that had written what it read. They are found by
running the schedule once more with everything watched that the model remembers.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guestclock.arith.affine import Symbol
from guestclock.checks import protocol_replay
from guestclock.checks.protocol import Case, thread
from guestclock.errors import UserError
from guestclock.explore.leaf import Impossible, Leaf
from guestclock.explore.replay import IntegerWorld, Schedule, schedule
from guestclock.explore.run import Run
from guestclock.explore.search import Search
from guestclock.report.figure import check_suffix
from guestclock.report.numbers import duration, grouped
from guestclock.sim.state import State, watching

Cell = tuple[str, str]
LANE, ROW, MARGIN = 1.75, 0.36, 1.3
"""Inches: a lane's width, a step's height, and the margin in which the time stands."""
LETTERS, LETTER = 26, 0.054
"""How many of them a line of a label has, and how wide one is, inches."""


@dataclass(frozen=True, slots=True)
class LaneStep:
    """One step. ps: when it began. needs: numbers of others' steps that it could not have come before."""

    actor: str
    label: str
    ps: int
    needs: tuple[int, ...]


@dataclass
class _Footprints:
    """What each step of an integer run read and wrote."""

    steps: list[tuple[set[Cell], set[Cell]]] = field(default_factory=lambda: [(set(), set())])
    made: int = 0

    def name(self, state: State) -> str:
        self.made += 1
        return f"{type(state).__name__} {self.made}"

    def read(self, state: State, name: str) -> None:
        self.steps[-1][0].add((state.watched_as, name))  # type: ignore[attr-defined]

    def write(self, state: State, name: str, value: Any) -> None:
        self.steps[-1][1].add((state.watched_as, name))  # type: ignore[attr-defined]

    def next(self, number: int) -> None:
        self.steps.append((set(), set()))


def lane_steps(case: Case, of: Schedule) -> list[LaneStep]:
    """A case's run at these times. An outcome may say more about a step: `notes`, by its number."""
    assert case.build is not None
    assert case.bounds is not None
    seen = _Footprints()
    with watching(seen):
        world = IntegerWorld(case.build, case.bounds, of)
        seen.steps = [(set(), set())]  # what was made before the first step is nobody's
        world.after_step(seen.next)
        outcome = world.run()
    notes = getattr(outcome, "notes", {})
    past: list[int] = []
    writers: dict[Cell, int] = {}
    last: dict[str, int] = {}
    found = []
    for number, event in enumerate(world.events):
        reads, writes = seen.steps[number]
        causes = {writers[cell] for cell in reads if cell in writers}
        own = last.get(event.actor)
        implied = 0 if own is None else past[own] | 1 << own
        needs = [c for c in sorted(causes, reverse=True) if not implied >> c & 1]
        direct = [c for c in needs if not any(past[d] >> c & 1 for d in needs)]
        past.append(implied)
        for c in needs:
            past[-1] |= past[c] | 1 << c
        writers.update(dict.fromkeys(writes, number))
        last[event.actor] = number
        label = f"{event.label}: {notes[number]}" if number in notes else event.label
        found.append(LaneStep(event.actor, label, world.ps(event.start), tuple(direct)))
    return _told(found)


def _told(steps: Sequence[LaneStep]) -> list[LaneStep]:
    """Without the steps in which an actor only comes to where it waits first."""
    kept = [n for n, step in enumerate(steps) if step.label != "start"]
    place = {n: k for k, n in enumerate(kept)}
    return [
        LaneStep(s.actor, s.label, s.ps, tuple(place[c] for c in s.needs if c in place))
        for s in (steps[n] for n in kept)
    ]


def usual(case: Case, *facts: str, wished: Callable[[Run], dict[Symbol, int]] | None = None) -> Schedule:
    """The times of the shortest order in which all these facts were reached, each step as early as it can be.

    wished: when steps are to begin instead, as nearly as the bounds let them.
    """
    assert case.build is not None
    assert case.bounds is not None
    search = Search(case.build, case.bounds)
    best: list[tuple[int, Schedule]] = []

    def leaf(run: Run) -> None:
        if not set(facts) <= run.world.reached or (best and len(run.events) >= best[0][0]):
            return
        try:
            question = Leaf(run, search.solver, {}).question()
        except Impossible:
            return
        found = schedule(question, wished(run) if wished else {})
        if found is not None:
            best[:] = [(len(run.events), found)]

    search.run(leaf)
    assert best, f"{case.name}: no order reaches {', '.join(facts)}"
    return best[0][1]


def draw_replay(file: Path, path: Path) -> None:
    """The lanes of a thread's replay file. Raises UserError for a file that is none, or does not fit any more."""
    check_suffix(path)
    loaded = protocol_replay.load(file)
    protocol_replay.retold(loaded, str(file))  # whoever is told the value shall see the run that shows it
    case = thread(loaded.thread).case(loaded.design, loaded.case)
    amount = f"{grouped(loaded.value)} {loaded.unit} {loaded.sense}: {loaded.who}"
    title = f"{loaded.thread}, {loaded.design}, {loaded.case}: {loaded.property}, {amount}"
    draw(lane_steps(case, Schedule(loaded.steps, dict(loaded.values))), title, path)


def draw(steps: Sequence[LaneStep], title: str, path: Path, *, lanes: Sequence[str] = ()) -> None:
    """Writes the figure. lanes: actors from left to right; without them as they come.

    Raises UserError where the file cannot be written, or its name is no picture's.
    """
    check_suffix(path)
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "guestclock", "font.size": 8})
    figure = _figure(steps, title, list(lanes) or list(dict.fromkeys(step.actor for step in steps)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except OSError as error:
        raise UserError(f"--figure {path}: cannot be written: {error.strerror}") from None


def _figure(steps: Sequence[LaneStep], title: str, lanes: list[str]) -> Any:
    from matplotlib.figure import Figure

    steps = [step for step in steps if step.actor in lanes]
    x = {actor: k + 0.5 for k, actor in enumerate(lanes)}
    width, height = MARGIN + LANE * len(lanes), 1.0 + ROW * (len(steps) + 1)
    figure: Any = Figure(figsize=(width, height), layout="constrained")
    panel = figure.subplots()
    panel.set_xlim(-MARGIN / LANE, len(lanes))
    panel.set_ylim(len(steps) + 0.2, -0.9)
    panel.axis("off")
    for actor in lanes:
        panel.vlines(x[actor], -0.35, len(steps) + 0.2, color="#bbbbbb", linewidth=0.8, zorder=0)
        panel.text(x[actor], -0.6, actor, ha="center", va="center", fontsize=9, weight="bold")
    before = None
    timed = len({step.ps for step in steps}) > 1
    for row, step in enumerate(steps):
        if timed and step.ps != before:
            time = duration(step.ps // 1000)
            panel.text(-0.05, row, time, ha="right", va="center", fontsize=7, color="#555555")
            before = step.ps
        for cause in step.needs:
            _arrow(panel, steps[cause], step, (x[steps[cause].actor], cause), (x[step.actor], row))
        label = _wrapped(step)
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": "#333333", "linewidth": 0.7}
        panel.text(x[step.actor], row, label, ha="center", va="center", fontsize=7, bbox=box, zorder=3)
    figure.suptitle("\n".join(textwrap.wrap(title, int(width * 14))), fontsize=9, x=0.01, ha="left")
    return figure


def _wrapped(step: LaneStep) -> str:
    return "\n".join(textwrap.wrap(step.label, LETTERS))


def _arrow(panel: Any, cause: LaneStep, effect: LaneStep, start: tuple[float, float], end: tuple[float, float]) -> None:
    """From one label's side to the other's."""
    way = 1 if end[0] > start[0] else -1

    def side(step: LaneStep) -> float:
        return way * (LETTER * max(map(len, _wrapped(step).splitlines())) / 2 + 0.08) / LANE

    style = {"arrowstyle": "-|>", "color": "#666666", "linewidth": 0.7, "shrinkA": 0, "shrinkB": 0}
    sides = (start[0] + side(cause), start[1]), (end[0] - side(effect), end[1])
    panel.annotate("", xy=sides[1], xytext=sides[0], arrowprops=style, zorder=1)
