"""Two ways of doing one thing, timed in turn so that a noisy machine disturbs both alike."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def side_by_side(*works: Callable[[], object], rounds: int = 7) -> list[float]:
    """The median seconds of each, measured alternately after one unmeasured round."""
    for work in works:
        work()
    times: list[list[float]] = [[] for _ in works]
    for _ in range(rounds):
        for taken, work in zip(times, works, strict=True):
            taken.append(seconds(work))
    return [median(taken) for taken in times]


def rate(count: int, taken_s: float) -> str:
    return f"{count / taken_s / 1e6:6.2f} M/s"
