"""Differences between times against the simplest closure there is, and the rounding of truncated forms."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestclock.arith.affine import Form
from guestclock.explore.judge import Judge
from guestclock.explore.leaf import rounding
from guestclock.explore.system import _needed
from guestclock.explore.times import FAR, ORIGIN, Differences, Impossible

HORIZON = 12


@st.composite
def edges(draw: st.DrawFn) -> tuple[int, list[tuple[int, int, int]]]:
    n = draw(st.integers(1, 4))
    node = st.integers(0, n)
    edge = st.tuples(node, node, st.integers(-6, 8)).filter(lambda e: e[0] != e[1])
    return n, draw(st.lists(edge, max_size=7))


def differences(n: int, bounds: list[tuple[int, int, int]]) -> Differences:
    out = Differences(HORIZON)
    for _ in range(n):
        out.node()
    for x, y, c in bounds:
        out.at_most(x, y, c)
    return out


def whole_times(n: int, bounds: list[tuple[int, int, int]]) -> list[tuple[int, ...]]:
    """All whole times within the horizon that satisfy the bounds; the origin is the first."""
    every = ((0, *times) for times in product(range(HORIZON + 1), repeat=n))
    return [t for t in every if all(t[x] - t[y] <= c for x, y, c in bounds)]


@settings(max_examples=60, deadline=None)
@given(edges())
def test_closed_bounds_are_reached_and_never_passed(made: tuple[int, list[tuple[int, int, int]]]):
    n, bounds = made
    times = whole_times(n, bounds)
    if not times:
        with pytest.raises(Impossible):
            differences(n, bounds).closed(range(n + 1))
        return
    closed = differences(n, bounds).closed(range(n + 1))
    for x, y in product(range(n + 1), repeat=2):
        assert closed[x, y] == max(t[x] - t[y] for t in times)


@settings(max_examples=60, deadline=None)
@given(edges())
def test_the_farthest_is_never_passed(made: tuple[int, list[tuple[int, int, int]]]):
    n, bounds = made
    times = whole_times(n, bounds)
    if not times:
        return
    everything = (1 << n + 1) - 1
    for y in range(n + 1):
        far = differences(n, bounds).farthest(y, everything)
        for x in range(n + 1):
            most = far.get(x, FAR) if x != ORIGIN else min(far.get(x, FAR), 0)
            assert most >= max(t[x] - t[y] for t in times)


@settings(max_examples=60, deadline=None)
@given(edges())
def test_needed_bounds_imply_all_others(made: tuple[int, list[tuple[int, int, int]]]):
    n, bounds = made
    if not whole_times(n, bounds):
        return
    closed = differences(n, bounds).closed(range(n + 1))
    kept = [(i, j, int(closed[i, j])) for i, j in _needed(closed.tolist()) if i != j]
    assert (differences(n, kept).closed(range(n + 1)) == closed).all()


@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(2, 9)), min_size=1, max_size=4),
    st.lists(st.integers(-3, 3).filter(bool), min_size=4, max_size=4),
    st.integers(0, 1000),
)
def test_rounding_covers_what_truncation_adds(floors: list[tuple[int, int]], weights: list[int], x: int):
    """A chain of truncations, each of a multiple of the one before, and a sum of them."""
    judge = Judge.__new__(Judge)
    judge.floors = {}
    symbol, whole, exact = "x", x, x * 1.0
    values, exacts = {}, {}
    for i, (factor, divisor) in enumerate(floors):
        judge.floors[f"q{i}"] = Form({symbol: factor}), divisor
        symbol, whole, exact = f"q{i}", whole * factor // divisor, exact * factor / divisor
        values[symbol], exacts[symbol] = whole, exact
    objective = Form(dict(zip(values, weights, strict=False)))
    truncated = sum(c * values[s] for s, c in objective.terms.items())
    untruncated = sum(c * exacts[s] for s, c in objective.terms.items())
    assert truncated - untruncated <= float(rounding(objective, judge)) + 1e-6
