"""The concrete scheduler: actors are coroutines, durations are given or drawn, one seed replays the run."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count
from typing import Any

from guestclock.sim.checkpoint import Checkpoint
from guestclock.sim.timeline import Timeline

Actor = Coroutine[Checkpoint, None, Any]
Step = Callable[[None], Checkpoint]


class Deadlock(Exception):
    """Every actor that is left waits for something that no other one will do."""


def _actor(step: Step) -> Actor:
    """The coroutine whose `send` this is."""
    return step.__self__  # type: ignore[attr-defined,no-any-return]


class Scheduler:
    """Runs actors on one timeline, each step at its own time, ties in the order in which they were made.

    step_ps: how long a step without a stated delay takes, fixed or drawn anew for each step.
    """

    def __init__(self, timeline: Timeline, step_ps: Callable[[], int] | int = 0) -> None:
        self.timeline = timeline
        self.steps = 0
        self._draw: Callable[[], int] | None = None if isinstance(step_ps, int) else step_ps
        self._step_ps: int = step_ps if isinstance(step_ps, int) else 0
        self._ready: list[tuple[int, int, Step]] = []
        self._waiting: list[tuple[int, Step, Checkpoint]] = []
        self._serial = count()
        self._alive = 0
        self._daemons: set[Actor] = set()
        self._names: dict[Actor, str] = {}

    def spawn(self, name: str, actor: Actor, *, daemon: bool = False) -> None:
        """Adds an actor; its first step is due now. A daemon (a kernel worker, NTP) does not keep the run alive."""
        self._names[actor] = name
        if daemon:
            self._daemons.add(actor)
        else:
            self._alive += 1
        heappush(self._ready, (self.timeline.now_ps, next(self._serial), actor.send))

    def run(self) -> None:
        """Until every actor that is not a daemon has ended. Raises Deadlock if that cannot happen."""
        timeline, ready, waiting, serial = self.timeline, self._ready, self._waiting, self._serial
        step_ps, draw, steps = self._step_ps, self._draw, 0
        try:
            while self._alive:
                if not ready:
                    raise Deadlock(self._who_waits())
                # The first entry stays on the heap while its actor runs: whatever is pushed meanwhile is due later.
                at_ps, _, step = ready[0]
                if at_ps > timeline.now_ps:
                    timeline.now_ps = at_ps
                steps += 1
                try:
                    point = step(None)
                except StopIteration:
                    heappop(ready)
                    self._end(_actor(step))
                else:
                    _, until, delay_ps = point
                    if until is None:
                        if delay_ps is None:
                            delay_ps = step_ps if draw is None else draw()
                        heapreplace(ready, (timeline.now_ps + delay_ps, next(serial), step))
                    else:
                        number = next(serial)
                        if delay_ps is None:
                            heappop(ready)
                        else:
                            heapreplace(ready, (timeline.now_ps + delay_ps, number, step))
                        waiting.append((number, step, point))
                if waiting:
                    self._wake()
        finally:
            self.steps += steps
            self._close()

    def _wake(self) -> None:
        """Actors whose guard has become true are ready; one that timed out has left the heap and just stops waiting."""
        still = []
        for entry in self._waiting:
            number, step, (_, until, timeout_ps) = entry
            timed = timeout_ps is not None
            deadline_ps = next((at for at, n, _ in self._ready if n == number), None) if timed else None
            if timed and deadline_ps is None:
                continue
            assert until is not None
            if not until():
                still.append(entry)
                continue
            if timed:
                self._ready[:] = [e for e in self._ready if e[1] != number]
                heapify(self._ready)
            at_ps = self.timeline.now_ps + (self._step_ps if self._draw is None else self._draw())
            if deadline_ps is not None and at_ps > deadline_ps:
                at_ps = deadline_ps
            heappush(self._ready, (at_ps, next(self._serial), step))
        self._waiting[:] = still

    def _end(self, actor: Actor) -> None:
        del self._names[actor]
        if actor in self._daemons:
            self._daemons.discard(actor)
        else:
            self._alive -= 1

    def _who_waits(self) -> str:
        told = [f"{self._names[_actor(s)]} waits at {p[0]!r}" for _, s, p in self._waiting]
        return "; ".join(told) or "no actor can go on"

    def _close(self) -> None:
        for actor in list(self._names):
            actor.close()
        self._names.clear()
        self._ready.clear()
        self._waiting.clear()
