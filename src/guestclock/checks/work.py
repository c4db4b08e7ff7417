"""Orders judged elsewhere: by other processes of this machine, or of a Dask cluster, with the same answer.

The search itself is one process's; what it hands out is an order's trail, and whoever gets it runs that order again and
puts it to the questions. Anything with the interface of concurrent.futures.Executor will do.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from guestclock.checks.asks import QUESTIONS
from guestclock.checks.checker import Checker, Tell
from guestclock.checks.spec import Spec
from guestclock.errors import UserError
from guestclock.explore.search import Trail

BATCH = 24
WAITING = 4
"""Batches per worker that may wait: more would only fill the memory."""

_checkers: dict[tuple[Spec, tuple[str, ...]], Checker] = {}


def judge(spec: Spec, names: tuple[str, ...], trails: list[Trail]) -> Tell:
    """What these orders say. Runs in a worker, which keeps what it has learnt about a spec for the next batch."""
    key = spec, names
    if key not in _checkers:
        _checkers.clear()
        _checkers[key] = Checker(spec, [QUESTIONS[name] for name in names])
    checker = _checkers[key]
    checker.tell = Tell()
    before = checker.search.solver.count.programs
    for trail in trails:
        run = checker.search.again(trail)
        try:
            checker.look(run, trail)
        finally:
            run.close()
    checker.tell.programs = checker.search.solver.count.programs - before
    return checker.tell


class Hands:
    """Collects trails into batches, hands them out, and merges what comes back."""

    def __init__(self, executor: Executor, workers: int, spec: Spec, names: tuple[str, ...], tell: Tell) -> None:
        self.executor, self.workers, self.spec, self.names, self.tell = executor, workers, spec, names, tell
        self._batch: list[Trail] = []
        self._out: set[Future[Tell]] = set()

    def add(self, trail: Trail) -> None:
        self._batch.append(trail)
        if len(self._batch) >= BATCH:
            self._send()
        if len(self._out) >= self.workers * WAITING:
            self._collect(FIRST_COMPLETED)

    def finish(self) -> None:
        """Waits for everything that was handed out."""
        self._send()
        while self._out:
            self._collect(FIRST_COMPLETED)

    def _send(self) -> None:
        if self._batch:
            self._out.add(self.executor.submit(judge, self.spec, self.names, self._batch))
            self._batch = []

    def _collect(self, when: str) -> None:
        done, self._out = wait(self._out, return_when=when)
        for future in done:
            self.tell.merge(future.result())


@contextmanager
def executor(jobs: int, cluster: str | None) -> Iterator[tuple[Executor, int]]:
    """Local processes, or the workers of the Dask cluster at an address. Raises UserError where there is none."""
    if cluster is None:
        with ProcessPoolExecutor(jobs) as pool:
            yield pool, jobs
        return
    try:
        from distributed import Client
    except ImportError:
        raise UserError("--cluster: the package 'distributed' is missing: pip install 'guestclock[cluster]'") from None
    try:
        client: Any = Client(cluster, timeout="10s")  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError, ValueError) as error:
        raise UserError(f"--cluster {cluster}: no Dask scheduler answers ({error})") from None
    try:
        workers = len(client.scheduler_info()["workers"])
        if not workers:
            raise UserError(f"--cluster {cluster}: the scheduler has no workers")
        with client.get_executor(pure=False) as pool:
            yield pool, workers
    finally:
        client.close()
