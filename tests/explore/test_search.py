"""The search against its second opinion, every interleaving one by one: the same orders, the same worst values."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, example, given, settings

from guestclock.explore.search import Search
from guestclock.explore.world import Bounds, World
from guestclock.sim import cp

from . import programs
from .orders import Trace, shown, trace_of, traces
from .search import worst_of
from .toy import TOYS, Cells, Toy


@pytest.mark.parametrize("toy", TOYS, ids=lambda t: t.name)
def test_reduced_search_finds_what_every_interleaving_shows(toy: Toy):
    reduced = worst_of(toy.build, toy.bounds, toy.ask)
    plain = worst_of(toy.build, toy.bounds, toy.ask, reduce=False)
    assert reduced.traces == plain.traces
    assert reduced.tally.orders <= plain.tally.orders
    assert (reduced.upper is None) == (plain.upper is None)
    if reduced.upper is not None and plain.upper is not None:
        assert abs(reduced.upper - plain.upper) < 1e-6
    if toy.worst is not None:
        assert reduced.upper is not None
        assert float(reduced.upper) == pytest.approx(toy.worst, abs=1e-6)


def test_toys_are_many_and_have_answers():
    assert len(TOYS) >= 30
    assert len({t.name for t in TOYS}) == len(TOYS)


# Each of these lost an order once.
NEEDS_THE_THIRD_ONE_FIRST = (
    (("set", "x", 1), ("set", "x", 2)),
    (("set", "y", 1),),
    (("wait", ("and", ("is", "x", 1), ("is", "y", 1))), ("look", "z")),
)
WRITTEN_BY_ANOTHER_LATER = (
    (("wait", ("is", "x", 0)), ("set", "z", 2), ("set", "x", 0)),
    (("set", "z", 1), ("set", "x", 2), ("set", "x", 0)),
    (("set", "x", 1), ("set", "z", 2)),
)
LAZY_GUARD = (
    (("set", "x", 1),),
    (("wait", ("or", ("is", "x", 1), ("is", "y", 1))), ("look", "z")),
    (("set", "y", 1),),
)
LOCK_REACHED_LATE = (
    (("wait", ("is", "x", 0)), ("set", "x", 1), ("set", "x", 0)),
    (("look", "z"), ("wait", ("is", "x", 0)), ("set", "x", 1), ("set", "x", 0)),
)
SAME_VALUE_ONLY_AFTER_A_RACE = (
    (("set", "z", 1), ("wait", ("same", "z", "x")), ("set", "y", 1), ("if", ("not", "x", 2), "x", 2)),
    (("wait", ("is", "z", 0)), ("set", "x", 1), ("copy", "x", "y")),
    (("if", ("not", "z", 2), "x", 1),),
)
GUARD_THAT_READS_MORE_LATER = (
    (("born", "x", 1), ("wait", ("or", ("not", "x", 1), ("not", "z", 1)))),
    (
        ("add", "z"),
        ("if", ("and", ("not", "y", 1), ("is", "y", 0)), "x", 2),
        ("wait at most", ("and", ("not", "z", 2), ("not", "y", 1)), 10),
        ("set", "x", 1),
    ),
)
STEP_AFTER_A_WAIT = (
    (("add", "x"), ("wait", ("not", "y", 0)), ("set", "x", 2), ("set", "z", 0)),
    (("set", "z", 1),),
    (("pause", 20), ("set", "y", 1), ("wait at most", ("or", ("not", "y", 1), ("is", "y", 0)), 2000)),
)
TWO_CHILDREN = (
    (("set", "y", 0), ("born", "z", 2), ("born", "z", 1)),
    (("set", "x", 0), ("wait", ("and", ("same", "y", "x"), ("same", "y", "x"))), ("set", "x", 2)),
)


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(programs.programs())
@example(NEEDS_THE_THIRD_ONE_FIRST)
@example(WRITTEN_BY_ANOTHER_LATER)
@example(LAZY_GUARD)
@example(LOCK_REACHED_LATE)
@example(SAME_VALUE_ONLY_AFTER_A_RACE)
@example(GUARD_THAT_READS_MORE_LATER)
@example(STEP_AFTER_A_WAIT)
@example(TWO_CHILDREN)
def test_no_order_of_a_random_program_is_lost(program: programs.Program):
    reduced, tally = traces(programs.build(program), programs.BOUNDS, reduce=True)
    plain, of_plain = traces(programs.build(program), programs.BOUNDS, reduce=False)
    lost, invented = plain - reduced, reduced - plain
    assert not lost, "lost:\n" + shown(min(lost, key=shown))
    assert not invented, "invented:\n" + shown(min(invented, key=shown))
    assert tally.orders <= of_plain.orders


def test_a_step_that_is_dead_does_not_put_its_actor_to_sleep_for_good():
    toy = next(t for t in TOYS if t.name == "dead-end-early")
    search = Search(toy.build, toy.bounds)
    search.run(lambda run: None)
    assert search.tally.dead > 0, "nothing is dead here any more: the test is vacuous"


def test_independent_steps_are_one_order():
    program = ((("set", "x", 1), ("set", "x", 2)), (("set", "y", 1), ("set", "y", 2)), (("set", "z", 1),))
    _, tally = traces(programs.build(program), programs.BOUNDS, reduce=True)
    assert (tally.orders, tally.blocked) == (1, 0)


def test_an_order_run_again_by_its_trail_is_the_same_order():
    for toy in TOYS:
        search = Search(toy.build, toy.bounds)
        trails = []
        search.run(lambda run, s=search, t=trails: t.append((s.trail(), trace_of(run))))
        for trail, trace in trails:
            assert trace_of(search.again(trail)) == trace, toy.name


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("toy", TOYS, ids=lambda t: t.name)
def test_a_search_that_was_interrupted_and_written_down_goes_on(toy: Toy, every: int):
    whole, _ = traces(toy.build, toy.bounds, reduce=True)
    found: list[Trace] = []
    state = ""
    while True:
        search = Search(toy.build, toy.bounds)
        if state:
            search.restore(json.loads(state))
        enough = len(found) + every
        if search.run(lambda run: found.append(trace_of(run)), lambda n=enough: len(found) >= n):
            break
        state = json.dumps(search.state())
    assert set(found) == whole


def test_bounds_of_single_actors():
    bounds = Bounds(horizon=1000, delay=10, section=1, delays=(("slow", 500),))
    assert (bounds.of("slow"), bounds.of("other")) == (500, 10)


@pytest.mark.parametrize("asks", [False, True], ids=["looks", "compares"])
def test_an_onlooker_that_compares_unknown_times_hides_no_race(asks: bool):
    """It is asked after the step: what that wrote itself was once taken for its cause, and its races for none."""

    def build(world: World) -> Cells:
        cells = Cells()

        async def writer(n: int) -> None:
            await cp("write")
            cells.a = n * world.read_ps()

        for n in (1, 2):
            world.spawn(f"{n}", writer(n))
        world.after_step(lambda number: asks and bool(cells.a < 400))
        return cells

    search = Search(build, Bounds(horizon=1000, delay=500, section=1))
    orders = set()
    search.run(lambda run: orders.add(tuple(e.actor for e in run.events if e.label == "write")))
    assert orders == {("1", "2"), ("2", "1")}
