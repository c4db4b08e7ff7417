"""A thread of three lines: two writers of a stamp, with and without a lock, and how old what they leave can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from guestclock.checks.asks import Ask, Question
from guestclock.checks.protocol import Case, Design, Shown, Thread
from guestclock.explore.world import Bounds, World
from guestclock.sim import State, cp
from guestclock.sim.field import flag, integer

BOUNDS = Bounds(horizon=10_000, delay=300, section=7)


class Cells(State):
    stamp = integer("the time that the last writer read")
    lock = flag("held")
    done = integer("writers that are through")


@dataclass
class Outcome:
    world: World
    cells: Cells
    reads: dict[int, Any] = field(default_factory=dict)
    finished: bool = False
    reached: set[str] = field(default_factory=set)
    contracts: set[str] = field(default_factory=set)


def build(locked: bool, writers: int = 2) -> Callable[[World], Outcome]:
    def made(world: World) -> Outcome:
        outcome = Outcome(world, Cells())
        cells = outcome.cells

        async def writer(number: int) -> None:
            if locked:
                await cp("lock", until=lambda: not cells.lock)
                cells.lock = True
            now = world.read_ps()
            await cp("read")
            outcome.reads[number] = now
            cells.stamp = now
            cells.lock = False
            cells.done = cells.done + 1
            if cells.done == writers:
                outcome.finished = True
                outcome.reached.add("written twice" if writers > 1 else "written once")

        for number in range(writers):
            world.spawn(f"writer {number}", writer(number))
        return outcome

    return made


def never_older(outcome: Any) -> Iterator[Ask]:
    for number, read in outcome.reads.items():
        events = tuple(range(len(outcome.world.events)))
        yield Ask(
            "older", "ns", "what is left", f"older {number}", events, (), (),
            lambda t, read=read: read - outcome.cells.stamp,
        )  # fmt: skip


def nothing(outcome: Any) -> Iterator[Ask]:
    return iter(())


def cases(locked: bool) -> Callable[[], list[Case]]:
    return lambda: [
        Case(name="race", about="two writers", build=build(locked), bounds=BOUNDS, must=("written twice",)),
        Case(
            name="alone", about="one writer, taken for two", build=build(locked, 1), bounds=BOUNDS,
            must=("written twice",),
        ),
        Case(name="runs", about="two runs", runs=lambda: [Shown("older", 3 - 3 * locked, "ns", "older", "it")]),
    ]  # fmt: skip


THREAD = Thread(
    "threads/toy",
    "Whose stamp is left?",
    (
        Design("locked", "with a lock", "here", cases(True)),
        Design("unlocked", "without one", "here", cases(False)),
        Design("broken", "a negative control", "here", cases(False), broken=True),
    ),
    (
        Question("older", "what is left is the latest", "here", "everything", never_older),
        Question("nothing", "is asked of nobody", "here", "nothing", nothing),
    ),
    "300 ns between steps",
)
