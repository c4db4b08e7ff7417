"""Prints runs in the form that suits them: one step by step, several side by side, variations as grids."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from guestclock.check import Mark, Story, marks, story
from guestclock.report.grid import Grids, is_grid
from guestclock.report.sidebyside import CAPTIONS, side_by_side
from guestclock.report.table import STYLES, TraceTable, hanging, summary, title
from guestclock.report.words import machine_named
from guestclock.sim.trace import Trace

Column = tuple[Story, list[Mark]]

PLAIN_WIDTH = 160
"""How wide tables may be where nobody says how wide the page is."""


def columns(traces: Sequence[Trace]) -> list[Column]:
    """Each trace read and checked."""
    told = [story(trace) for trace in traces]
    return [(each, marks(each)) for each in told]


def show(console: Console, runs: Sequence[Column]) -> None:
    """The question, the runs, what they come to."""
    meta = runs[0][0].trace.meta
    width = console.width
    if meta.get("scenario"):
        console.print(Text(str(meta["scenario"]), style="bold"))
    for line in hanging("", str(meta.get("about") or ""), width):
        console.print(line, soft_wrap=True)
    console.print()
    if is_grid([each.trace.meta for each, _ in runs]):
        _grids(console, runs)
    elif len(runs) == 1:
        console.print(title(runs[0][0]), style="bold", soft_wrap=True)
        console.print(TraceTable(*runs[0]), soft_wrap=True)
        console.print()
        _sum(console, runs[0])
    else:
        for table in side_by_side(runs, width):
            console.print(table)
        _text(console, CAPTIONS[runs[0][0].arch], "dim")
        seen: dict[tuple[str, ...], str] = {}
        for run in runs:
            console.print()
            console.print(title(run[0]), style="bold", soft_wrap=True)
            same = seen.setdefault(tuple(line for _, line in summary(*run)), machine_named(run[0].trace.meta))
            if same == machine_named(run[0].trace.meta):
                _sum(console, run)
            else:
                _text(console, f"all as on {same}", "dim")


def _grids(console: Console, runs: Sequence[Column]) -> None:
    grids = Grids(runs)
    for part in grids.tables(console.width):
        console.print(part)
    for line in grids.legend():
        _text(console, line, "dim")


def _sum(console: Console, run: Column) -> None:
    for weight, line in summary(*run):
        name, gap, rest = line.partition("  ")
        if not gap:
            _text(console, line, "green")
            continue
        indent = name + gap + " " * (len(rest) - len(rest.lstrip()))
        for text in hanging(indent, rest.lstrip(), console.width if console.is_terminal else 10_000, STYLES[weight]):
            console.print(text, soft_wrap=True)


def _text(console: Console, line: str, style: str) -> None:
    for text in hanging("", line, console.width if console.is_terminal else 10_000, style):
        console.print(text, soft_wrap=True)
