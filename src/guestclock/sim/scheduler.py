"""The concrete scheduler: actors are coroutines, durations are given or drawn, one seed replays the run."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from heapq import heappop, heappush
from typing import Any

from guestclock.sim.checkpoint import Checkpoint
from guestclock.sim.timeline import Timeline

Actor = Coroutine[Checkpoint, None, Any]


class Deadlock(Exception):
    """Every actor that is left waits for something that no other one will do."""


class Scheduler:
    """Runs actors on one timeline, each step at its own time, ties in the order in which they were made.

    step_ps: how long a step without a stated delay takes, fixed or drawn anew for each step.
    """

    def __init__(self, timeline: Timeline, step_ps: Callable[[], int] | int = 0) -> None:
        self.timeline = timeline
        self.steps = 0
        self._draw: Callable[[], int] | None = None if isinstance(step_ps, int) else step_ps
        self._step_ps: int = step_ps if isinstance(step_ps, int) else 0
        self._ready: list[tuple[int, int, Actor]] = []
        self._waiting: list[tuple[int, Actor, Checkpoint, int | None]] = []
        self._serial = 0
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
        self._push(self.timeline.now_ps, actor)

    def run(self) -> None:
        """Until every actor that is not a daemon has ended. Raises Deadlock if that cannot happen."""
        timeline, ready, waiting = self.timeline, self._ready, self._waiting
        step_ps, draw, serial, steps = self._step_ps, self._draw, self._serial, 0
        push = heappush
        try:
            while self._alive:
                if not ready:
                    raise Deadlock(self._who_waits())
                at_ps, _, actor = heappop(ready)
                if at_ps > timeline.now_ps:
                    timeline.now_ps = at_ps
                self._serial = serial
                try:
                    point = actor.send(None)
                except StopIteration:
                    self._end(actor)
                    serial = self._serial
                else:
                    serial = self._serial + 1
                    if point.until is None:
                        delay = point.delay_ps
                        if delay is None:
                            delay = step_ps if draw is None else draw()
                        push(ready, (timeline.now_ps + delay, serial, actor))
                    else:
                        deadline = None if point.delay_ps is None else timeline.now_ps + point.delay_ps
                        if deadline is not None:
                            push(ready, (deadline, serial, actor))
                        waiting.append((serial, actor, point, deadline))
                steps += 1
                if waiting:
                    self._serial = serial
                    self._wake()
                    serial = self._serial
        finally:
            self._serial = serial
            self.steps += steps
            if not self._alive:
                self._close()

    def _push(self, at_ps: int, actor: Actor) -> None:
        self._serial += 1
        heappush(self._ready, (at_ps, self._serial, actor))

    def _wake(self) -> None:
        """Actors whose guard has become true are ready; one that timed out just leaves the waiting list."""
        still = []
        now = self.timeline.now_ps
        for entry in self._waiting:
            serial, actor, point, deadline = entry
            if deadline is not None and not any(s == serial for _, s, _ in self._ready):
                continue  # its deadline has passed and it has been resumed
            assert point.until is not None
            if point.until():
                if deadline is not None:
                    self._ready[:] = [e for e in self._ready if e[1] != serial]
                    self._ready.sort()
                self._push(now + (self._step_ps if self._draw is None else self._draw()), actor)
            else:
                still.append(entry)
        self._waiting[:] = still

    def _end(self, actor: Actor) -> None:
        del self._names[actor]
        if actor in self._daemons:
            self._daemons.discard(actor)
        else:
            self._alive -= 1

    def _who_waits(self) -> str:
        told = [f"{self._names[a]} waits at {p.label!r}" for _, a, p, _ in self._waiting]
        return "; ".join(told) or "no actor can go on"

    def _close(self) -> None:
        for actor in list(self._names):
            actor.close()
        self._names.clear()
        self._ready.clear()
        self._waiting.clear()
