"""The one place where another actor may go on."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any


class Checkpoint:
    """`await cp("label")`: this actor's step ends here; its next one begins later, when a scheduler says so.

    until: a guard over state; the actor is not resumed before it is true. It must not compare unknown times.
    delay_ps: resume exactly this much true time later (timers, sleeps). With `until`: at the latest then (a time-out).
    Without either, the scheduler chooses how long the step took.
    """

    __slots__ = ("delay_ps", "label", "until")

    def __init__(self, label: str, until: Callable[[], bool] | None = None, delay_ps: int | None = None) -> None:
        self.label, self.until, self.delay_ps = label, until, delay_ps

    def __await__(self) -> Generator[Checkpoint, Any, None]:
        yield self


cp = Checkpoint
