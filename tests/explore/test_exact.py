"""Certificates: a bound holds at every point, a proof of impossibility leaves none, whatever the floats said."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from random import Random
from typing import Any

import pytest
from highspy import HighsModelStatus
from hypothesis import given, settings
from hypothesis import strategies as st

from guestclock.arith.affine import Form
from guestclock.explore.exact import NoAnswer, Solver, _Program

SYMBOLS = ("x", "y", "z")
SMALL = st.integers(-4, 4)
Box = dict[str, tuple[int, int]]


@st.composite
def boxes(draw: st.DrawFn) -> Box:
    return {s: (lo, lo + draw(st.integers(0, 5))) for s in SYMBOLS for lo in [draw(st.integers(-3, 3))]}


def rows(least: int = 1) -> st.SearchStrategy[list[Form]]:
    terms = st.dictionaries(st.sampled_from(SYMBOLS), SMALL.filter(bool), min_size=1)
    return st.lists(st.builds(Form, terms, st.integers(-12, 12)), min_size=least, max_size=5)


def objectives() -> st.SearchStrategy[Form]:
    terms = st.dictionaries(st.sampled_from(SYMBOLS), SMALL.filter(bool), min_size=1)
    return st.builds(Form, terms, SMALL, st.sampled_from((1, 1, 3)))


def exactly(form: Form, point: dict[str, int]) -> Fraction:
    return Fraction(form.const + sum(c * point[s] for s, c in form.terms.items()), form.den)


def whole_points(box: Box, system: list[Form]) -> list[dict[str, int]]:
    """Every point of whole numbers that satisfies all rows."""
    every = (dict(zip(box, values, strict=True)) for values in product(*(range(lo, hi + 1) for lo, hi in box.values())))
    return [p for p in every if all(exactly(row, p) <= 0 for row in system)]


@settings(max_examples=150, deadline=None)
@given(objectives(), rows(), boxes())
def test_no_whole_point_is_above_the_proved_bound(objective: Form, system: list[Form], box: Box):
    solver = Solver()
    optimum = solver.maximum(objective, system, box)
    points = whole_points(box, system)
    best = max((exactly(objective, p) for p in points), default=None)
    if optimum is None:
        assert best is None
    elif best is not None:
        assert best <= optimum.upper
        # Tight, and not by chance: the program's own optimum is proved to a hundredth.
        assert optimum.upper <= optimum.found + 0.01
    assert not (solver.impossible(system, box) and points)


@settings(max_examples=150, deadline=None)
@given(objectives(), rows(), boxes(), st.data())
def test_any_duals_prove_a_bound(objective: Form, system: list[Form], box: Box, data: st.DataObject):
    """Whatever the float solver says, if its duals are not negative: that is what makes lies harmless."""
    program = _Program(system, box, objective)
    program.names = {s: i for i, s in enumerate(SYMBOLS)}
    program.low = [box[s][0] for s in SYMBOLS]
    program.width = [box[s][1] - box[s][0] for s in SYMBOLS]
    duals = data.draw(st.lists(st.integers(0, 1 << 122), min_size=len(system), max_size=len(system)))
    points = whole_points(box, system)
    upper = program.proved_upper(objective, duals)
    assert all(exactly(objective, p) <= upper for p in points)
    assert not (points and program.contradiction(duals))


def test_a_contradiction_is_proved_and_a_mere_claim_is_not():
    box = {"x": (0, 10), "y": (0, 10)}
    impossible = [Form({"x": 1, "y": -1}, 1), Form({"x": -1, "y": 1}, 0)]  # x < y and y <= x
    solver = Solver()
    assert solver.impossible(impossible, box)
    assert solver.count.proofs == 1
    assert solver.maximum(Form({"x": 1}), impossible, box) is None
    program = _Program(impossible, box, None)
    assert program.contradiction([1, 1])
    assert not program.contradiction([1, 0])
    assert not program.contradiction([0, 0])


def test_a_program_that_floats_cannot_refute_counts_as_possible(monkeypatch: pytest.MonkeyPatch):
    """Infeasible is only claimed: without duals that prove it, nothing may be pruned."""
    solver = Solver()
    monkeypatch.setattr(solver, "_duals", lambda program: [0] * len(program.rows))
    monkeypatch.setattr(_Program, "duals_of_basis", lambda *_: None)
    assert not solver.impossible([Form({"x": 1, "y": -1}, 1), Form({"x": -1, "y": 1}, 0)], {"x": (0, 10), "y": (0, 10)})
    assert (solver.count.proofs, solver.count.unproved) == (0, 1)


def random_program(rng: Random) -> tuple[Form, list[Form], Box]:
    """As wide and as flat as those of clocks: columns of 2^38 next to columns of 2^10, slopes of 10^-8."""
    box = {s: (0, rng.choice((1 << 38, 1 << 10, 10**11))) for s in "abcdef"}
    system = []
    for _ in range(8):
        x, y = rng.sample("abcdef", 2)
        system.append(Form({x: 1, y: -1}, -rng.choice((0, 26_000, 1 << 37))))
    x, y = rng.sample("abcdef", 2)
    mult = rng.randrange(1, 1 << 32)
    return Form({x: mult, y: -mult - rng.randrange(100)}, 0, 1 << 32), system, box


def test_wide_programs_are_answered_and_certified_closely():
    solver = Solver()
    for seed in range(200):
        optimum = solver.maximum(*random_program(Random(seed)))
        assert optimum is not None
        assert abs(float(optimum.upper) - optimum.found) <= max(0.01, 1e-9 * abs(optimum.found))
    assert solver.count.loose == 0


class Says:
    """A HiGHS that gives a status of its own for the first `times` programs."""

    def __init__(self, solver: Solver, status: HighsModelStatus, times: int) -> None:
        self.solve, self.status, self.left = solver._solve, status, times

    def __call__(self, *program: Any) -> HighsModelStatus:
        said = self.solve(*program)
        self.left -= 1
        return said if self.left < 0 else self.status


@pytest.mark.parametrize(
    "status", [HighsModelStatus.kUnknown, HighsModelStatus.kIterationLimit, HighsModelStatus.kSolveError]
)
def test_a_status_that_says_nothing_is_no_infeasibility(status: HighsModelStatus, monkeypatch: pytest.MonkeyPatch):
    """Trap 5: such programs are solved again in other scalings, and given up loudly."""
    row, box = [Form({"x": 1}, -5)], {"x": (0, 10)}
    solver = Solver()
    monkeypatch.setattr(solver, "_solve", Says(solver, status, 2))
    optimum = solver.maximum(Form({"x": 1}), row, box)
    assert optimum is not None
    assert optimum.upper == 5
    assert solver.count.retries == 2
    monkeypatch.setattr(solver, "_solve", Says(Solver(), status, 1000))
    with pytest.raises(NoAnswer):
        solver.maximum(Form({"x": 1}), row, box)
    assert not solver.impossible([Form({"x": 1}, 1)], box)
