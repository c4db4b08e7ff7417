"""True time: integer picoseconds, moved on by the scheduler between steps and by clock reads inside one."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

PS_PER_NS = 1_000
PS_PER_S = 10**12


class Timeline:
    """The one true clock of a run. Counters and kernels read it through `read_ps`; nothing else knows the time."""

    __slots__ = ("now_ps", "section_ps")

    def __init__(self, section_ps: Callable[[], int] | int = 0, start_ps: int = 0) -> None:
        """section_ps: how long one clock read inside a kernel section takes, fixed or drawn anew at each read."""
        self.now_ps = start_ps
        self.section_ps = section_ps

    def read_ps(self) -> int:
        """The instant of a clock read, ps. Of two reads in one section the second is not before the first."""
        now = self.now_ps
        step = self.section_ps
        self.now_ps = now + (step if type(step) is int else step())  # type: ignore[operator]
        return now


def drawn_ps(rng: Random, lo_ps: int, hi_ps: int) -> Callable[[], int]:
    """A duration that is drawn uniformly from lo_ps..hi_ps each time it is asked for."""
    return lambda: rng.randint(lo_ps, hi_ps)
