"""One thread that does what it is given, and what was given to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Pending(Generic[T]):
    """Something a worker will do; `result` waits for it."""

    def __init__(self, function: Callable[[], T]) -> None:
        self._function, self._done = function, threading.Event()
        self._value: T
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._value = self._function()
        except BaseException as error:  # handed to whoever waits, whatever it is
            self._error = error
        self._done.set()

    def wait(self, timeout_s: float) -> bool:
        return self._done.wait(timeout_s)

    def result(self) -> T:
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._value


class Worker:
    """One thread that does what it is given, one thing after the other."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Pending[Any] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._work, name=name, daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()

    def submit(self, function: Callable[[], T]) -> Pending[T]:
        pending = Pending(function)
        self._jobs.put(pending)
        return pending

    def close(self) -> None:
        self._jobs.put(None)
        self.thread.join()
