"""Small random programs over shared cells: reads, writes, guards that come and go, branches, time-outs, births.

A program is plain data, so that hypothesis can make it smaller. Nothing in it has a meaning; what matters is that two
searches find the same orders of it.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from guestclock.explore.run import Bounds, World
from guestclock.sim import State, cp
from guestclock.sim.field import integer

CELLS = ("x", "y", "z")
VALUES = st.integers(0, 2)
Condition = tuple[Any, ...]
Op = tuple[Any, ...]
Program = tuple[tuple[Op, ...], ...]

BOUNDS = Bounds(horizon=1000, delay=50, section=5)


class Shared(State):
    x = integer("a shared cell")
    y = integer("a shared cell")
    z = integer("a shared cell")


def holds(shared: Shared, condition: Condition) -> bool:
    """A condition is lazy, as a guard in a model is: it reads no more than it needs."""
    match condition:
        case ("is", cell, value):
            return bool(getattr(shared, cell) == value)
        case ("not", cell, value):
            return bool(getattr(shared, cell) != value)
        case ("and", first, second):
            return holds(shared, first) and holds(shared, second)
        case ("or", first, second):
            return holds(shared, first) or holds(shared, second)
        case ("same", cell, other):
            return bool(getattr(shared, cell) == getattr(shared, other))
    raise AssertionError(condition)


async def actor(world: World, shared: Shared, ops: tuple[Op, ...], name: str) -> None:
    times: dict[str, Any] = {}
    for op in ops:
        match op:
            case ("set", cell, value):
                setattr(shared, cell, value)
                await cp("set")
            case ("add", cell):
                setattr(shared, cell, (getattr(shared, cell) + 1) % 3)
                await cp("add")
            case ("copy", cell, other):
                setattr(shared, cell, getattr(shared, other))
                await cp("copy")
            case ("look", cell):
                getattr(shared, cell)
                await cp("look")
            case ("if", condition, cell, value):
                if holds(shared, condition):
                    setattr(shared, cell, value)
                await cp("if")
            case ("wait", condition):
                await cp("wait", lambda c=condition: holds(shared, c))
            case ("wait at most", condition, units):
                await cp("wait at most", lambda c=condition: holds(shared, c), units)
            case ("pause", units):
                await cp("pause", None, units)
            case ("read", cell):
                # The difference of two clock reads: whether it is long is a branch on an unknown value.
                now = world.read_ps()
                if cell in times and now - times[cell] > 60:
                    setattr(shared, cell, 2)
                times[cell] = now
                await cp("read")
            case ("born", cell, value):
                world.spawn(f"{name}'s child", actor(world, shared, (("set", cell, value),), name + "c"))
                await cp("born")
            case _:
                raise AssertionError(op)


def build(program: Program) -> Any:
    def made(world: World) -> Shared:
        shared = Shared()
        for i, ops in enumerate(program):
            world.spawn(f"a{i}", actor(world, shared, ops, f"a{i}"))
        return shared

    return made


def single() -> st.SearchStrategy[Condition]:
    cells = st.sampled_from(CELLS)
    return st.one_of(
        st.tuples(st.just("is"), cells, VALUES),
        st.tuples(st.just("not"), cells, VALUES),
        st.tuples(st.just("same"), cells, cells),
    )


def conditions() -> st.SearchStrategy[Condition]:
    return st.one_of(single(), st.tuples(st.sampled_from(("and", "or")), single(), single()))


def ops() -> st.SearchStrategy[Op]:
    cells = st.sampled_from(CELLS)
    return st.one_of(
        st.tuples(st.just("set"), cells, VALUES),
        st.tuples(st.just("wait"), conditions()),
        st.tuples(st.just("add"), cells),
        st.tuples(st.just("copy"), cells, cells),
        st.tuples(st.just("look"), cells),
        st.tuples(st.just("if"), conditions(), cells, VALUES),
        st.tuples(st.just("wait at most"), conditions(), st.sampled_from((10, 2000))),
        st.tuples(st.just("pause"), st.sampled_from((20, 600))),
        st.tuples(st.just("read"), cells),
        st.tuples(st.just("born"), cells, VALUES),
    )


@st.composite
def programs(draw: st.DrawFn, *, most_steps: int = 7) -> Program:
    """Two to four actors that together take about `most_steps` steps: every interleaving can be tried."""
    actors = draw(st.integers(2, 4))
    left, out = most_steps - actors // 2, []
    for i in range(actors):
        most = max(1, min(3, left - (actors - 1 - i)))
        out.append(tuple(draw(st.lists(ops(), min_size=1, max_size=most))))
        left -= len(out[-1])
    return tuple(out)
