"""Depth-first search over orders: source-DPOR with sleep sets, each branch on an unknown value explored too.

Stateless: an order is run again from the start, with the answers of its common prefix written down. A step that races
with an earlier one makes the search try the other order (Abdulla, Aronis, Jonsson, Sagonas 2014, source sets). Whether
a branch is possible is decided on the past of its own event alone, so that a step behaves the same in every order with
the same past; orders that are impossible as a whole are run too, and judged to be empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from guestclock.explore.exact import Solver
from guestclock.explore.judge import FloorNames, Outcome
from guestclock.explore.run import Bounds, Build, Cell, Entry, Event, Footprint, Run, bits
from guestclock.explore.system import System
from guestclock.explore.times import Impossible

NOTHING: Footprint = (frozenset[Cell](), frozenset[Cell]())


class Dead(Exception):
    """No outcome of a branch is possible: this order cannot happen, whatever follows."""


@dataclass(slots=True)
class Fork:
    """A branch inside one step: at which answer, and the labels still to be tried."""

    position: int
    labels: list[Any]


@dataclass(slots=True)
class Node:
    """One state of the path: who could go on, who goes on now, and who has to be tried."""

    enabled: list[str]
    sleep: dict[str, Footprint]
    chosen: str
    backtrack: list[str]
    done: dict[str, Footprint] = field(default_factory=dict)
    script: list[Entry] = field(default_factory=list)
    forks: list[Fork] = field(default_factory=list)
    forced: Any = None
    footprint: Footprint = NOTHING


@dataclass(slots=True)
class Tally:
    """orders: complete ones. blocked: runs given up because they would repeat one. steps: carried out, replays too."""

    orders: int = 0
    blocked: int = 0
    dead: int = 0
    steps: int = 0
    forks: int = 0
    forced: int = 0


class Stop(Exception):
    """Raised by a leaf's judge: the search shall end here."""


class Search:
    """Enumerates orders. reduce=False: every interleaving of steps, for tests; sleep sets and races left out."""

    def __init__(self, build: Build, bounds: Bounds, *, reduce: bool = True) -> None:
        self.build, self.bounds, self.reduce = build, bounds, reduce
        self.names, self.signatures, self.solver = FloorNames(), dict[Any, int](), Solver()
        self.tally = Tally()
        self.path: list[Node] = []
        self._possible: dict[Any, bool] = {}
        self._fresh = 0
        self._new_fork = False

    # ---- the driver of runs

    def script(self, number: int) -> list[Entry]:
        return self.path[number].script

    def fork(self, run: Run, outcomes: Sequence[Outcome]) -> Any:
        assert run.current is not None
        node = self.path[run.current.number]
        if node.forced is not None:
            (label,), node.forced = node.forced, None
            return label
        possible = [label for label, rows in outcomes if self._is_possible(run, label, rows)]
        if not possible:
            raise Dead
        self.tally.forks += len(possible) > 1
        self.tally.forced += len(possible) == 1
        if len(possible) > 1:
            node.forks.append(Fork(len(node.script), possible[1:]))
        return possible[0]

    def _is_possible(self, run: Run, label: Any, rows: tuple[Any, ...]) -> bool:
        key = (run.partial_signature(), len(run.judge.entries), label)
        known = self._possible.get(key)
        if known is None:
            system = System.of_past(run, rows)
            known = self._possible[key] = system is not None and not self.solver.impossible(system.rows, system.box)
        return known

    # ---- the search

    def run(self, leaf: Callable[[Run], None]) -> Tally:
        """Calls leaf with each complete order. A leaf may raise Stop."""
        more = True
        while more:
            run = self._one(leaf)
            run.close()
            more = self._next()
        return self.tally

    def _one(self, leaf: Callable[[Run], None]) -> Run:
        run = Run(self.build, self.bounds, self.names, self.signatures, self)
        depth = 0
        sleep: dict[str, Footprint] = {}
        last = ""
        dead = False
        while True:
            if depth < len(self.path):
                node = self.path[depth]
            else:
                enabled = run.enabled()
                awake = [name for name in enabled if name not in sleep]
                if not awake:
                    if enabled:
                        self.tally.blocked += 1
                    else:
                        self.tally.orders += 1
                        leaf(run)
                    break
                first = last if last in awake else awake[0]
                node = Node(enabled, sleep, first, [first] if self.reduce else awake)
                self.path.append(node)
            last = node.chosen
            try:
                event = run.step(node.chosen)
            except (Dead, Impossible):
                self.tally.dead += 1
                dead = True
                break
            self.tally.steps += 1
            node.footprint = event.footprint
            depth += 1
            sleep = (
                {q: f for q, f in {**node.sleep, **node.done}.items() if q != node.chosen and apart(f, node.footprint)}
                if self.reduce
                else {}
            )
        if self.reduce:
            for event in run.events[self._fresh :]:
                self._races(run, event)
            if dead:
                for node in self.path:
                    node.backtrack += [name for name in node.enabled if name not in node.backtrack]
        return run

    def _next(self) -> bool:
        """Makes the path end in something untried; False: there is nothing left."""
        while self.path:
            node = self.path[-1]
            old = node.done.get(node.chosen, NOTHING)
            node.done[node.chosen] = (old[0] | node.footprint[0], old[1] | node.footprint[1])
            while node.forks and not node.forks[-1].labels:
                node.forks.pop()
            self._fresh = len(self.path) - 1
            if node.forks:
                fork = node.forks[-1]
                del node.script[fork.position :]
                node.forced = (fork.labels.pop(0),)
                return True
            for name in node.backtrack:
                if name not in node.done and name not in node.sleep:
                    node.chosen, node.script, node.footprint = name, [], NOTHING
                    return True
            self.path.pop()
        return False

    # ---- races

    def _races(self, run: Run, event: Event) -> None:
        events = run.events
        node = self.path[event.number]
        for name in event.disabled:
            # This step stopped somebody who could have gone first.
            if name not in node.backtrack:
                node.backtrack.append(name)
        direct = [
            i for i in bits(event.before) if not any(events[k].past >> i & 1 for k in bits(event.before) if k != i)
        ]
        for i in direct:
            made_here = event.n == 1 and run.born[event.actor] == i
            if events[i].actor != event.actor and not made_here:
                self._reverse(run, i, event)

    def _reverse(self, run: Run, i: int, event: Event) -> None:
        """Makes the state before event i try an order in which `event` comes before it."""
        events, node = run.events, self.path[i]
        sequence = [k for k in range(i + 1, event.number) if not events[k].past >> i & 1]
        sequence.append(event.number)
        inside = 0
        initials: list[str] = []
        for k in sequence:
            if not events[k].past & inside:
                initials.append(events[k].actor)
            inside |= 1 << k
        initials = [name for name in dict.fromkeys(initials) if name in node.enabled]
        if not initials or any(name in node.backtrack for name in initials):
            return
        node.backtrack.append(event.actor if event.actor in initials else initials[0])


def apart(f: Footprint, g: Footprint) -> bool:
    """Whether two steps can be swapped without anybody noticing."""
    return not (f[1] & g[1] or f[1] & g[0] or f[0] & g[1])
