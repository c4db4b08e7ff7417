"""One property's worst value as a function of a bound, or of two: the same check, again and again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from guestclock.checks.spec import Spec
from guestclock.checks.verdict import Result, check

AXES = ("life_ns", "away_ns", "delay_ns", "section_ns", "save_delay_ns", "restore_delay_ns")
"""Bounds of a Spec that can be swept."""


@dataclass(frozen=True, slots=True)
class Cell:
    """values: what the axes were set to, in their order."""

    values: tuple[int, ...]
    result: Result


def sweep(
    spec: Spec, axes: dict[str, Sequence[int]], progress: Callable[[str], None] = lambda line: None, **how: Any
) -> list[Cell]:
    """A result per combination of the axes' values, the last axis fastest. how: as for check()."""
    assert set(axes) <= set(AXES), axes
    cells = []
    for values in product(*axes.values()):
        bounds: dict[str, Any] = dict(zip(axes, values, strict=True))
        if "life_ns" in bounds:
            # A life of exactly this long: the step is asked for as a function of it.
            bounds["life_min_ns"] = bounds["life_ns"]
        if "away_ns" in bounds:
            bounds["away_min_ns"] = min(spec.away_min_ns, bounds["away_ns"])
        progress(", ".join(f"{name} {value}" for name, value in bounds.items()))
        cells.append(Cell(values, check(spec.but(**bounds), stories=False, **how)))
    return cells
