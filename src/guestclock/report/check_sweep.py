"""A check as a function of a bound, or of two: a table per target, or one for several; the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TextIO

from rich.console import Console

from guestclock import __version__
from guestclock.checks.spec import Spec
from guestclock.checks.sweep import Cell, sweep
from guestclock.checks.target import OF_RECIPES, OPTIONS, Target, forgiven
from guestclock.checks.verdict import UNDECIDED, VIOLATED, chosen
from guestclock.errors import UserError
from guestclock.report.check import STATUS
from guestclock.report.check_json import short_verdict
from guestclock.report.check_table import Line, as_text, hanging
from guestclock.report.check_words import STYLES, bounds_told, cell, span

FORMAT_VERSION = 1
NAMED = {field: option for option, field in OPTIONS.items()}


@dataclass(frozen=True, slots=True)
class Swept:
    """One target's results, one per combination of the axes' values, the last axis fastest."""

    target: Target
    axes: Mapping[str, Sequence[int]]
    cells: Sequence[Cell]

    def text(self, cell_: Cell, name: str) -> tuple[str, str]:
        """What a property came to, and its style."""
        verdict = next(v for v in cell_.result.verdicts if v.property == name)
        return cell(verdict, cell_.result.spec), STYLES[verdict.status]

    @property
    def properties(self) -> list[str]:
        return [v.property for v in self.cells[0].result.verdicts]

    @property
    def name(self) -> str:
        varied = f", {self.target.varied}" if self.target.varied else ""
        return f"{self.target.name} on {self.target.kernel}{varied}"


def run(
    targets: Sequence[Target],
    axes: Mapping[str, Sequence[int]],
    progress: Callable[[str], None],
    how: Mapping[str, Any],
) -> list[Swept]:
    """All combinations for each target. Raises UserError, before anything runs, for a grid of several properties."""
    for target in targets:
        asked = chosen(target.spec)
        if len(axes) == 2 and len(asked) != 1:
            raise UserError(f"{' and '.join(NAMED[a] for a in axes)}: a grid is of one property: add --property NAME")
        steps = [axis for axis in axes if NAMED[axis] in OF_RECIPES]
        if steps and target.spec.program:
            raise UserError(f"{NAMED[steps[0]]}: is a recipe's; a scenario's steps say what happens when")
    return [_swept_over(target, axes, progress, how) for target in targets]


def _swept_over(
    target: Target, axes: Mapping[str, Sequence[int]], progress: Callable[[str], None], how: Mapping[str, Any]
) -> Swept:
    def so_far(line: str) -> None:
        progress(f"{target.name} on {target.kernel}: {line}")

    cells = sweep(target.spec, dict(axes), so_far, **how)
    for each in cells:
        forgiven(each.result, target.policy)
    return Swept(target, axes, cells)


def exit_status(done: Sequence[Swept]) -> int:
    """1 violated, else 3 undecided, else 0."""
    statuses = {v.status for each in done for c in each.cells for v in c.result.verdicts}
    return next((STATUS[s] for s in (VIOLATED, UNDECIDED) if s in statuses), 0)


# ---- as text

Rows = list[list[tuple[str, str]]]
"""Cells with their styles. The first row and the first column are headings."""


def show(console: Console, done: Sequence[Swept]) -> None:
    for text in as_text(lines(done, console.width)):
        console.print(text, soft_wrap=True)


def lines(done: Sequence[Swept], width: int) -> Iterator[Line]:
    """One property, one list: targets side by side. Several properties, or a grid: a table per target."""
    together = len(done[0].axes) == 1 and all(len(each.properties) == 1 for each in done)
    if together:
        name = done[0].target.name
        columns = [label_of(each, done) for each in done]
        yield f"{done[0].properties[0]}, {name}{f' on {columns[0]}' if len(done) == 1 else ''}", "bold"
        yield from table(_beside(done, columns), width)
        yield from _footer(done, width)
        return
    for number, each in enumerate(done):
        if number:
            yield "", ""
        if len(each.axes) == 2:
            yield f"{each.properties[0]}, {each.name}", "bold"
            yield from table(_grid(each), width)
        else:
            yield each.name, "bold"
            yield from table(_by_property(each), width)
        yield from _footer([each], width)


def label_of(each: Swept, done: Sequence[Swept]) -> str:
    """What tells a column from the others."""
    kernels = len({d.target.kernel for d in done}) > 1
    parts = [each.target.kernel if kernels or not each.target.varied else "", each.target.varied]
    return ", ".join(part for part in parts if part)


def value_told(ns: int) -> str:
    """A bound as a person writes it: 1 h, 5 min, 2 s, 100 ms."""
    for size, unit in ((3600 * 10**9, "h"), (60 * 10**9, "min")):
        if ns >= size and ns % size == 0:
            return f"{ns // size} {unit}"
    return span(ns)


def _beside(done: Sequence[Swept], columns: Sequence[str]) -> Rows:
    (axis,) = done[0].axes
    rows: Rows = [[(NAMED[axis], ""), *((c, "bold") for c in columns)]]
    for number, ns in enumerate(done[0].axes[axis]):
        rows.append([(value_told(ns), ""), *(each.text(each.cells[number], each.properties[0]) for each in done)])
    return rows


def _by_property(each: Swept) -> Rows:
    """A row per property, as in every table of verdicts; a column per value."""
    ((axis, values),) = each.axes.items()
    rows: Rows = [[(NAMED[axis], ""), *((value_told(ns), "bold") for ns in values)]]
    for name in each.properties:
        rows.append([(name, ""), *(each.text(c, name) for c in each.cells)])
    return rows


def _grid(each: Swept) -> Rows:
    (down, heights), (across, widths) = each.axes.items()
    name = each.properties[0]
    rows: Rows = [[(f"{NAMED[down]} \\ {NAMED[across]}", ""), *((value_told(ns), "bold") for ns in widths)]]
    for number, ns in enumerate(heights):
        cells = each.cells[number * len(widths) : (number + 1) * len(widths)]
        rows.append([(value_told(ns), ""), *(each.text(c, name) for c in cells)])
    return rows


def table(rows: Rows, width: int) -> Iterator[Line]:
    """Columns aligned; as many beside each other as fit, the first one again before the rest."""
    widths = [max(len(row[at][0]) for row in rows) + 2 for at in range(len(rows[0]))]
    starts = [1]
    used = widths[0]
    for at in range(1, len(widths)):
        if used + widths[at] > width + 2 and at > starts[-1]:
            starts.append(at)
            used = widths[0]
        used += widths[at]
    for block, (start, end) in enumerate(pairwise([*starts, len(widths)])):
        if block:
            yield "", ""
        for row in rows:
            shown = [row[0], *row[start:end]]
            line = "".join(f"{text:<{w}}" for (text, _), w in zip(shown, [widths[0], *widths[start:end]], strict=True))
            styles = [style for _, style in shown]
            worst = next((s for s in (STYLES[VIOLATED], STYLES[UNDECIDED], "bold") if s in styles), "")
            yield line.rstrip(), worst


def _footer(done: Sequence[Swept], width: int) -> Iterator[Line]:
    results = [c.result for each in done for c in each.cells]
    contracts = sorted({contract for result in results for contract in result.contracts})
    told = bounds_told(results[0].spec, contracts, tuple(done[0].axes))
    if len(results) > len([r for r in results if r.complete]):
        told = f"{told}; NOT every order"
    yield from hanging("bounds: ", told, width)


# ---- as JSON


def write(done: Sequence[Swept], out: TextIO) -> None:
    """One document. docs/checking.md has the schema."""
    document = {
        "guestclock_sweep": FORMAT_VERSION,
        "guestclock": __version__,
        "status": exit_status(done),
        "axes": {axis: list(values) for axis, values in done[0].axes.items()},
        "sweeps": [_swept(each) for each in done],
    }
    json.dump(document, out, indent=2)
    out.write("\n")


def _swept(each: Swept) -> dict[str, Any]:
    spec: Spec = each.target.spec
    return {
        "what": each.target.name,
        "variation": each.target.varied,
        "kernel": each.target.kernel,
        "vcpus": spec.vcpus,
        "tsc_khz": spec.sites[0].khz,
        "policy": dict(spec.policy),
        "cells": [
            {
                **dict(zip(each.axes, c.values, strict=True)),
                "contracts": sorted(c.result.contracts),
                "complete": c.result.complete,
                "verdicts": [short_verdict(v) for v in c.result.verdicts],
            }
            for c in each.cells
        ],
    }
