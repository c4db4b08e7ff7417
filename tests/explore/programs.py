"""Small random programs over shared cells: reads, writes, guards that come and go, branches, time-outs, births.

A program is plain data, so that hypothesis can make it smaller. Nothing in it has a meaning; what matters is that two
searches find the same orders of it.
"""

from __future__ import annotations

from math import factorial, prod
from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from guestclock.explore.world import Bounds, World
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
    """Each operation is a step; one after a wait belongs to the step that the wait lets go on."""
    times: dict[str, Any] = {}
    begun = True
    for op in ops:
        match op:
            case ("wait", condition):
                await cp("wait", lambda c=condition: holds(shared, c))
            case ("wait at most", condition, units):
                await cp("wait at most", lambda c=condition: holds(shared, c), units)
            case ("pause", units):
                await cp("pause", None, units)
            case _:
                if not begun:
                    await cp("next")
                begun = False
                act(world, shared, op, name, times)
                continue
        begun = True


def act(world: World, shared: Shared, op: Op, name: str, times: dict[str, Any]) -> None:
    match op:
        case ("set", cell, value):
            setattr(shared, cell, value)
        case ("add", cell):
            setattr(shared, cell, (getattr(shared, cell) + 1) % 3)
        case ("copy", cell, other):
            setattr(shared, cell, getattr(shared, other))
        case ("look", cell):
            getattr(shared, cell)
        case ("if", condition, cell, value):
            if holds(shared, condition):
                setattr(shared, cell, value)
        case ("read", cell):
            # The difference of two clock reads: whether it is long is a branch on an unknown value.
            now = world.read_ps()
            if "read" in times and now - times["read"] > 60:
                setattr(shared, cell, 2)
            times["read"] = now
        case ("born", cell, value):
            world.spawn(f"{name}'s child", actor(world, shared, (("set", cell, value),), name + "c"))
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


def steps(ops: tuple[Op, ...]) -> int:
    return (
        1
        + sum(op[0] in ("wait", "wait at most", "pause") for op in ops)
        + sum(
            op[0] not in ("wait", "wait at most", "pause")
            and (i > 0 and ops[i - 1][0] not in ("wait", "wait at most", "pause"))
            for i, op in enumerate(ops)
        )
    )


def interleavings(program: Program) -> int:
    """How many there are at most, where nobody waits for anybody. A child runs at any time after its birth."""
    counts = [steps(ops) for ops in program]
    counts += [1 for ops in program for op in ops if op[0] == "born"]
    return factorial(sum(counts)) // prod(factorial(c) for c in counts)


@st.composite
def programs(draw: st.DrawFn, *, most: int = 1500) -> Program:
    """Two to four actors, of which every interleaving can be tried."""
    made = draw(st.lists(st.lists(ops(), min_size=1, max_size=4).map(tuple), min_size=2, max_size=4).map(tuple))
    assume(interleavings(made) <= most)
    return made
