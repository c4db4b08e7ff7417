"""Depth-first search over orders: source-DPOR with sleep sets, each branch on an unknown value explored too.

Stateless: an order is run again from the start, with the answers of its common prefix written down. A step that races
with an earlier one makes the search try the other order (Abdulla, Aronis, Jonsson, Sagonas 2014, source sets). Whether
a branch is possible is decided on the past of its own event alone, so that a step behaves the same in every order with
the same past; orders that are impossible as a whole are run too, and judged to be empty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from guestclock.explore.event import Cell, Event, Footprint, Refusal, bits
from guestclock.explore.exact import Solver
from guestclock.explore.judge import Outcome
from guestclock.explore.run import Entry, Run, Shared
from guestclock.explore.system import System
from guestclock.explore.world import Bounds, Build

NOTHING: Footprint = (frozenset[Cell](), frozenset[Cell]())


class Dead(Exception):
    """A trail cannot be followed: under these bounds one of its branches is not there."""


@dataclass(slots=True)
class Fork:
    """A branch inside one step: at which answer, and the labels still to be tried."""

    position: int
    label: Any
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
    taken: list[tuple[int, Any]] = field(default_factory=list)  # every branch: at which answer, its label
    plan: list[tuple[Any, list[Any]]] = field(default_factory=list)  # forks of a search that is gone on with
    footprint: Footprint = NOTHING
    ghost: bool = False  # after this step no times are left
    asleep: set[str] = field(default_factory=set)  # whom a race wants to go first here, but who sleeps


@dataclass(slots=True)
class Tally:
    """orders: complete ones. blocked: runs given up because they would repeat one. dead: orders that no times allow.

    steps: carried out, replays too. forks: branches with several possible outcomes, forced: with one.
    """

    orders: int = 0
    blocked: int = 0
    dead: int = 0
    steps: int = 0
    forks: int = 0
    forced: int = 0


Trail = tuple[tuple[str, tuple[Any, ...]], ...]
"""An order, step by step: the actor, and the labels of the branches in its step."""


class _Follower:
    """The driver of a run whose choices are known."""

    def __init__(self, trail: Trail) -> None:
        self.trail = trail
        self._scripts: dict[int, list[Entry]] = {}
        self._taken: dict[int, int] = {}

    def script(self, number: int) -> list[Entry]:
        return self._scripts.setdefault(number, [])

    def fork(self, run: Run, outcomes: Sequence[Outcome]) -> Any:
        """As recorded. Where bounds are narrower than they were, some branches are not asked for any more."""
        assert run.current is not None
        number = run.current.number
        taken = self._taken.get(number, 0)
        self._taken[number] = taken + 1
        labels = self.trail[number][1]
        label = labels[taken] if taken < len(labels) else None
        if label not in [known for known, _ in outcomes]:
            raise Dead
        return label


class Stop(Exception):
    """Raised by a leaf: it has seen enough, the search shall end here and cannot be gone on with."""


class Search:
    """Enumerates orders. reduce=False: every interleaving of steps, for tests; sleep sets and races left out."""

    def __init__(self, build: Build, bounds: Bounds, *, reduce: bool = True) -> None:
        self.build, self.bounds, self.reduce = build, bounds, reduce
        self.shared, self.solver = Shared(), Solver()
        self.tally = Tally()
        self.path: list[Node] = []
        self._possible: dict[Any, bool] = {}
        self._fresh = 0
        self.more = True

    # ---- the driver of runs

    def script(self, number: int) -> list[Entry]:
        return self.path[number].script

    def fork(self, run: Run, outcomes: Sequence[Outcome]) -> Any:
        assert run.current is not None
        node = self.path[run.current.number]
        label = self._label(run, node, outcomes)
        node.taken.append((len(node.script), label))
        return label

    def _label(self, run: Run, node: Node, outcomes: Sequence[Outcome]) -> Any:
        if node.forced is not None:
            (label,), node.forced = node.forced, None
            node.forks[-1].label = label
            return label
        possible = [label for label, rows in outcomes if self._is_possible(run, label, rows)]
        if run.ghost or not possible:
            run.ghost = True
            possible = [label for label, _ in outcomes]
        self.tally.forks += len(possible) > 1
        self.tally.forced += len(possible) == 1
        if len(possible) > 1:
            label, rest = node.plan.pop(0) if node.plan else (possible[0], possible[1:])
            node.forks.append(Fork(len(node.script), label, rest))
            return label
        return possible[0]

    def _is_possible(self, run: Run, label: Any, rows: tuple[Any, ...]) -> bool:
        key = (run.partial_signature(), len(run.judge.entries), label)
        known = self._possible.get(key)
        if known is None:
            system = System.of_past(run, rows)
            known = self._possible[key] = system is not None and not self.solver.impossible(system.rows, system.box)
        return known

    # ---- one order again

    def trail(self) -> Trail:
        """The order that a leaf is being called with: who went on, and which branches were taken."""
        return tuple((node.chosen, tuple(label for _, label in node.taken)) for node in self.path)

    def again(self, trail: Trail) -> Run:
        """The order of a trail, run anew; this search's own path is left as it is."""
        follower = _Follower(trail)
        run = Run(self.build, self.bounds, self.shared, follower)
        try:
            for name, _ in trail:
                run.step(name)
        except BaseException:
            run.close()
            raise
        return run

    # ---- the search

    def run(self, leaf: Callable[[Run], None], stop: Callable[[], bool] = lambda: False) -> bool:
        """Calls leaf with each complete order, until stop() says so between two, or leaf raises Stop.

        Whether all orders were seen.
        """
        while self.more:
            if stop():
                return False
            try:
                run = self._one(leaf)
            except Stop:
                return False
            run.close()
            self.more = self._next()
        return True

    def state(self) -> dict[str, Any]:
        """Where the search stands, between two orders, as JSON values: restore() goes on from it."""

        def prints(footprints: dict[str, Footprint]) -> dict[str, Any]:
            return {name: [sorted(f[0]), sorted(f[1])] for name, f in footprints.items()}

        nodes = []
        for node in self.path:
            forks = [[fork.label, fork.labels] for fork in node.forks]
            if node.forced is not None:
                forks[-1][0] = node.forced[0]
            nodes.append(
                {
                    "enabled": node.enabled, "sleep": prints(node.sleep), "chosen": node.chosen,
                    "backtrack": node.backtrack, "done": prints(node.done), "asleep": sorted(node.asleep),
                    "forks": [*forks, *node.plan],
                }
            )  # fmt: skip
        return {"path": nodes, "fresh": self._fresh, "more": self.more, "tally": asdict(self.tally)}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from where state() was called. Raises KeyError, TypeError or ValueError for what is no such state."""

        def prints(told: dict[str, Any]) -> dict[str, Footprint]:
            return {
                name: (frozenset((a, b) for a, b in reads), frozenset((a, b) for a, b in writes))
                for name, (reads, writes) in told.items()
            }

        self.path = [
            Node(
                list(told["enabled"]), prints(told["sleep"]), str(told["chosen"]), list(told["backtrack"]),
                prints(told["done"]), plan=[(label, list(rest)) for label, rest in told["forks"]],
                asleep=set(told["asleep"]),
            )
            for told in state["path"]
        ]  # fmt: skip
        self._fresh, self.more = int(state["fresh"]), bool(state["more"])
        self.tally = Tally(**state["tally"])

    def _one(self, leaf: Callable[[Run], None]) -> Run:
        run = Run(self.build, self.bounds, self.shared, self)
        try:
            return self._followed(run, leaf)
        except BaseException:
            run.close()
            raise

    def _followed(self, run: Run, leaf: Callable[[Run], None]) -> Run:
        depth = 0
        sleep: dict[str, Footprint] = {}
        last = ""
        while True:
            if depth < len(self.path):
                node = self.path[depth]
            else:
                enabled = run.enabled()
                awake = [name for name in enabled if name not in sleep]
                if not awake:
                    if enabled:
                        self.tally.blocked += 1
                    elif run.ghost:
                        self.tally.dead += 1
                    else:
                        self.tally.orders += 1
                        leaf(run)
                    break
                first = last if last in awake else awake[0]
                node = Node(enabled, sleep, first, [first] if self.reduce else awake)
                self.path.append(node)
            last = node.chosen
            run.ghost = run.ghost or node.ghost
            event = run.step(node.chosen)
            node.ghost = run.ghost
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
            self._refused(run)
            self._wakers(run)
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
                node.taken = [taken for taken in node.taken if taken[0] < fork.position]
                node.forced, node.ghost = (fork.labels.pop(0),), False
                return True
            for name in node.backtrack:
                if name not in node.done and name not in node.sleep:
                    node.chosen, node.script, node.taken, node.footprint, node.ghost = name, [], [], NOTHING, False
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
            if events[i].actor != event.actor and not made_here and _refusal_at(run, event.actor, event.n, i) is None:
                self._reverse(run, i, event)

    def _refused(self, run: Run) -> None:
        """Races of those who had to wait: with what made their guard false, and with what alone made it true.

        A guard is no event, so no race shows that another order would have opened it earlier, or at all.
        """
        events = run.events
        waits = [(r.actor, r.n, r.before, True) for r in run.refusals]
        waits += [(e.actor, e.n, e.before, False) for e in events if e.guarded]
        for name, n, before, refused in waits:
            past = before
            for k in bits(before):
                past |= events[k].past
            for i in bits(before):
                if events[i].actor == name or any(events[k].past >> i & 1 for k in bits(before)):
                    continue
                waiting = _refusal_at(run, name, n, i)
                if waiting is None and refused:
                    # It was not there yet, or could have gone on: whatever brings it there, before i.
                    self._try(run, i, past, name)
                if waiting is None:
                    continue
                for k in range(i + 1, len(events)):
                    if events[k].writes & waiting.cells and not events[k].past >> i & 1:
                        self._try(run, i, events[k].past | 1 << k, "")

    def _try(self, run: Run, i: int, needed: int, name: str) -> None:
        """Makes the state before event i try something that leads to the `needed` events (then to `name`) without i."""
        events, node = run.events, self.path[i]
        sequence = [k for k in bits(needed) if k > i and not events[k].past >> i & 1]
        initials = [events[k].actor for k in sequence if not any(events[k].past >> j & 1 for j in sequence)]
        if not sequence:
            initials.append(name)
        self._one_of(node, initials, name)

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
        self._one_of(node, initials, event.actor)

    def _one_of(self, node: Node, initials: list[str], rather: str) -> None:
        """Makes a state try one of those who can begin the wanted order."""
        initials = [q for q in dict.fromkeys(initials) if q in node.enabled]
        asleep = [q for q in initials if q in node.sleep]
        if any(q in node.backtrack and q not in node.sleep for q in initials):
            return
        if asleep:
            node.asleep.update(asleep)
        elif initials:
            node.backtrack.append(rather if rather in initials else initials[0])

    def _wakers(self, run: Run) -> None:
        """A sleeper whose step would be another one after some event: that event must be tried before it.

        What a step touches depends on what it reads. Where a race asks for a sleeper, the orders that begin with its
        step as it would be now are known; those in which it comes later, and touches other things, are not.
        """
        events = run.events
        for i, node in enumerate(self.path[: len(events)]):
            for name in node.asleep:
                for k in range(i + 1, len(events)):
                    if not events[k].past >> i & 1 and not apart(events[k].footprint, node.sleep[name]):
                        self._try(run, i, events[k].past | 1 << k, "")


def _refusal_at(run: Run, name: str, n: int, i: int) -> Refusal | None:
    """The guard's answer for which `name` could not carry out its step n just before event i."""
    for r in run.refusals:
        if r.actor == name and r.n == n and r.asked < i and (r.again is None or r.again >= i):
            return r
    return None


def apart(f: Footprint, g: Footprint) -> bool:
    """Whether two steps can be swapped without anybody noticing."""
    return not (f[1] & g[1] or f[1] & g[0] or f[0] & g[1])
