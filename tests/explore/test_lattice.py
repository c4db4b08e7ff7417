"""Bounds of whole numbers: what the form can have, instants that are apart, coarse floors in a replay."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import Any

import pytest

from guestclock.arith.affine import Form
from guestclock.explore.leaf import Leaf, on_lattice
from guestclock.explore.replay import confirm
from guestclock.explore.run import Run
from guestclock.explore.search import Search
from guestclock.explore.world import Bounds, World
from guestclock.sim import cp


@pytest.mark.parametrize(
    ("terms", "const", "den", "upper", "highest"),
    [
        ({"x": 1}, 0, 1, Fraction(1, 3), 0),
        ({"x": 1}, 0, 1, Fraction(-1, 3), -1),
        ({"x": 6, "y": -10}, 1, 1, Fraction(4), 3),
        ({"x": 4}, 0, 8, Fraction(3, 4), Fraction(1, 2)),
        ({"x": 3, "y": 5}, 2, 7, Fraction(1, 7), Fraction(1, 7)),
    ],
)
def test_the_highest_value_that_whole_symbols_give(
    terms: dict[str, int], const: int, den: int, upper: Fraction, highest: Any
) -> None:
    form = Form(terms, const, den)
    found = on_lattice(form, upper)
    assert found == highest <= upper
    given = {
        Fraction(form.const + sum(c * v for c, v in zip(terms.values(), values, strict=True)), den)
        for values in product(range(-9, 10), repeat=len(terms))
    }
    assert max(value for value in given if value <= upper) == found


UNIT = 1_000_000


def _world(world: World) -> dict[str, Any]:
    """One who sleeps 10 ms and up to 5 more, measures it by a clock of 2/3 the rate, and takes whole milliseconds."""
    seen: dict[str, Any] = {}

    async def sleeper() -> None:
        began = world.read_ps()
        await cp("asleep", delay_ps=10 * UNIT)
        slept = (world.read_ps() - began) * 2 // 3
        seen["left"] = slept - slept // UNIT * UNIT

    world.spawn("sleeper", sleeper())
    return seen


def test_a_replay_finds_a_remainder_that_a_program_can_have_anywhere() -> None:
    search = Search(_world, Bounds(horizon=100 * UNIT, delay=5 * UNIT + UNIT // 4, section=0))
    shown: list[int] = []

    def leaf(run: Run) -> None:
        worst = Leaf(run, search.solver, {}).question().worst(lambda: run.world["left"])
        assert worst is not None
        assert worst.upper == UNIT - 1
        found = confirm(worst, _world, lambda seen, values: seen["left"], enough=UNIT - 1)
        assert found is not None
        shown.append(found.value)

    assert search.run(leaf)
    assert shown == [UNIT - 1]


def test_a_bound_is_one_that_whole_numbers_can_reach() -> None:
    """2x + 4y <= 7 leaves 2x + 2y at most 6, where fractions would give 7."""

    def build(world: World) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        x, y = world.unknown("x", 0, 9), world.unknown("y", 0, 9)

        async def actor() -> None:
            if 2 * x + 4 * y <= 7:
                seen["sum"] = 2 * x + 2 * y

        world.spawn("actor", actor())
        return seen

    search = Search(build, Bounds(horizon=10, delay=5, section=0))
    found: list[Any] = []

    def leaf(run: Run) -> None:
        if "sum" in run.world:
            worst = Leaf(run, search.solver, {}).question().worst(lambda: run.world["sum"], forgiving=False)
            found.append(None if worst is None else worst.upper)

    assert search.run(leaf)
    assert found == [6]


def test_instants_can_be_held_apart() -> None:
    search = Search(_world, Bounds(horizon=100 * UNIT, delay=5 * UNIT, section=0))
    lengths: list[Any] = []

    def leaf(run: Run) -> None:
        for at_least in (0, 3 * UNIT, 200 * UNIT):
            question = Leaf(run, search.solver, {}).question()
            question.instant("a")
            question.instant("b")
            question.ordered("a", "b", None, at_least)
            worst = question.worst(lambda: Form.of("a") - Form.of("b"))
            lengths.append(None if worst is None else worst.upper)

    assert search.run(leaf)
    assert lengths == [0, -3 * UNIT, None]
