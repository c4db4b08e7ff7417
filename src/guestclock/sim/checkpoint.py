"""The one place where another actor may go on."""

from __future__ import annotations

import types
from collections.abc import Callable, Generator

Guard = Callable[[], bool]

# What a scheduler receives from `await cp(...)`: label, until, delay_ps. A plain tuple, as every step makes one.
Checkpoint = tuple[str, Guard | None, int | None]


@types.coroutine
def cp(label: str, until: Guard | None = None, delay_ps: int | None = None) -> Generator[Checkpoint, None, None]:
    """`await cp("label")`: this actor's step ends here; its next one begins later, when a scheduler says so.

    until: a guard over state; the actor is not resumed before it is true. It must not compare unknown times.
    delay_ps: resume exactly this much true time later (timers, sleeps). With `until`: at the latest then (a time-out).
    Without either, the scheduler chooses how long the step took.
    """
    yield (label, until, delay_ps)
