"""Steps that do nothing: the concrete scheduler against a bare heapq loop over coroutines, and against SimPy."""

from __future__ import annotations

import types
from collections.abc import Generator
from heapq import heappop, heappush
from typing import Any

from benchmarks.measure import rate, side_by_side
from guestclock.sim import Scheduler, Timeline, cp

ACTORS, STEPS = 4, 25_000
TOTAL = ACTORS * STEPS


async def actor() -> None:
    for _ in range(STEPS):
        await cp("step")


def ours() -> None:
    scheduler = Scheduler(Timeline(), step_ps=1000)
    for i in range(ACTORS):
        scheduler.spawn(f"a{i}", actor())
    scheduler.run()


@types.coroutine
def pause() -> Generator[int, None, None]:
    yield 1000


async def bare_actor() -> None:
    for _ in range(STEPS):
        await pause()


def bare() -> None:
    heap: list[tuple[int, int, Any]] = [(0, i, bare_actor()) for i in range(ACTORS)]
    serial = ACTORS
    while heap:
        now, _, coroutine = heappop(heap)
        try:
            delay = coroutine.send(None)
        except StopIteration:
            continue
        serial += 1
        heappush(heap, (now + delay, serial, coroutine))


def simpy_run() -> None:
    import simpy

    environment = simpy.Environment()

    def process() -> Generator[Any, None, None]:
        for _ in range(STEPS):
            yield environment.timeout(1000)

    for _ in range(ACTORS):
        environment.process(process())
    environment.run()


def main() -> None:
    bare_s, ours_s, simpy_s = side_by_side(bare, ours, simpy_run)
    print(f"empty steps      bare heapq loop {rate(TOTAL, bare_s)}   guestclock {rate(TOTAL, ours_s)}   "
          f"SimPy {rate(TOTAL, simpy_s)}")  # fmt: skip
    print(f"                 guestclock runs at {bare_s / ours_s:.2f} of the bare loop's rate (aim 0.50), "
          f"{simpy_s / ours_s:.1f} times SimPy's")  # fmt: skip


if __name__ == "__main__":
    main()
