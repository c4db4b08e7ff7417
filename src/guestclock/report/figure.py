"""The figure: clock minus true time over true time, a line per clock and vCPU, the scenario's steps on the axis."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guestclock.check import Mark, Point, Story, errors
from guestclock.errors import UserError
from guestclock.report.words import machine_named

Column = tuple[Story, list[Mark]]

SUFFIXES = (".png", ".svg", ".pdf")
MAX_PANELS = 8

# Okabe and Ito's: told apart by the colour-blind, and in grey by the widths below.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#888888")
WIDTHS = (3.4, 1.9, 1.0)
"""Lines that lie on each other stay visible: each later one is thinner."""

CLOCK_TITLES = {"tsc": "TSC − true time", "kvmclock": "kvmclock − true time"}
TIME_UNITS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
ERROR_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


@dataclass(frozen=True, slots=True)
class Line:
    """One clock of one vCPU: true time (s) and error (s), a break drawn upright."""

    label: str
    vcpu: int
    vm: int
    at_s: list[float]
    error_s: list[float]


def check_suffix(path: Path) -> None:
    """Raises UserError for a suffix that is no picture's."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--figure {path}: expected a name that ends in {', '.join(SUFFIXES)}")


def draw(columns: Sequence[Column], path: Path) -> None:
    """Writes the figure. Raises UserError where the file cannot be written, or for more runs than can be told apart."""
    check_suffix(path)
    if len(columns) > MAX_PANELS:
        raise UserError(f"--figure: {len(columns)} runs, at most {MAX_PANELS} fit beside each other; choose some")
    import matplotlib

    matplotlib.use("Agg")
    # An SVG of the same run is the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "guestclock", "axes.unicode_minus": True, "font.size": 9})
    from matplotlib.figure import Figure

    rows = [clock for clock in ("kvmclock", "tsc") if _worth_a_row(columns, clock)] or ["kvmclock"]
    count = len(columns)
    steps = [look for look in columns[0][0].looks if look.step >= 0]
    legend = _steps_told(steps, per_line=150 if count > 1 else 95)
    height = 2.6 * len(rows) + 0.17 * len(legend.splitlines()) + 1.5
    figure: Any = Figure(figsize=(max(7.0, min(3.9 * count, 16.0)), height), layout="constrained")
    panels = figure.subplots(len(rows), count, sharex="col", sharey="row", squeeze=False)
    for row, clock in enumerate(rows):
        lines = [_lines(story, clock) for story, _ in columns]
        scale, unit = _unit(ERROR_UNITS, [abs(e) for each in lines for line in each for e in line.error_s])
        bend = _bend([abs(e) / scale for each in lines for line in each for e in line.error_s])
        for place, (story, _) in enumerate(columns):
            panel = panels[row][place]
            _panel(panel, lines[place], story, scale, top=row == 0)
            if bend is not None:
                panel.set_yscale("symlog", linthresh=bend)
            if place == 0:
                panel.set_ylabel(f"{CLOCK_TITLES[clock]}, {unit}" + (" (symlog)" if bend is not None else ""))
            if row == 0:
                panel.set_title(_title(story), fontsize=9, fontweight="bold", pad=18)
            if row == len(rows) - 1:
                panel.set_xlabel(f"true time, {_time_unit(story)[1]}")
    _legend(figure, panels)
    meta = columns[0][0].trace.meta
    figure.suptitle("\n".join(textwrap.wrap(str(meta.get("about") or meta.get("scenario") or ""), 110)), fontsize=10)
    figure.supxlabel(legend, fontsize=8, ha="left", x=0.01)
    try:
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        figure.savefig(path, dpi=150, metadata=metadata)
    except OSError as error:
        raise UserError(f"--figure {path}: cannot be written: {error.strerror}") from None


def _worth_a_row(columns: Sequence[Column], clock: str) -> bool:
    """kvmclock always; the TSC where it did anything but run."""
    if clock == "kvmclock":
        return any(errors(story, clock) for story, _ in columns)
    return any(mark.clock == "tsc" for _, marks in columns for mark in marks)


def _lines(story: Story, clock: str) -> list[Line]:
    found = errors(story, clock)
    several = len({vm for vm, _ in found}) > 1
    return [
        Line(f"VM {vm} vcpu{vcpu}" if several else f"vcpu{vcpu}", vcpu, vm, *_drawn(points))
        for (vm, vcpu), points in found.items()
    ]


def _drawn(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    """Straight from look to look; where the line broke, first to where it would have been, then upright."""
    at: list[float] = []
    error: list[float] = []
    for point in points:
        here = point.at_ps / 1e12
        if point.before_ns is not None:
            at.append(here)
            error.append(point.before_ns.middle / 1e9)
        at.append(here)
        error.append(point.error_ns.middle / 1e9)
    return at, error


def _panel(panel: Any, lines: Sequence[Line], story: Story, scale: float, *, top: bool) -> None:
    unit, _ = _time_unit(story)
    panel.axhline(0, color="#999999", linewidth=0.8, zorder=0)
    for line in lines:
        panel.plot(
            [t / unit for t in line.at_s],
            [e / scale for e in line.error_s],
            color=COLOURS[line.vcpu % len(COLOURS)],
            linewidth=WIDTHS[min(line.vcpu, len(WIDTHS) - 1)],
            linestyle="-" if line.vm == 0 else (0, (4, 1.5)),
            marker="o" if line.vcpu == 0 else "s",
            markersize=4.5 - min(line.vcpu, 3),
            label=line.label,
            solid_joinstyle="miter",
        )
    panel.grid(axis="y", color="#dddddd", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    end = max((look.at_ps for look in story.looks), default=0) / 1e12 / unit
    for at, numbers in _clusters([(look.at_ps / 1e12 / unit, look.step + 1) for look in story.looks], end):
        panel.axvline(at, color="#bbbbbb", linewidth=0.7, linestyle=":", zorder=0)
        if top:
            panel.annotate(numbers, (at, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3),
                           textcoords="offset points", ha="center", fontsize=8)  # fmt: skip


def _clusters(steps: Sequence[tuple[float, int]], end: float) -> list[tuple[float, str]]:
    """Steps that would be written over each other share a label: 2-5. Step 0 is the start."""
    found: list[tuple[float, list[int]]] = []
    for at, number in steps:
        if found and at - found[-1][0] <= 0.06 * end:
            found[-1][1].append(number)
        else:
            found.append((at, [number]))
    return [(at, f"{n[0]}–{n[-1]}" if len(n) > 1 else str(n[0])) for at, n in found]


def _time_unit(story: Story) -> tuple[float, str]:
    end = max((look.at_ps for look in story.looks), default=0) / 1e12
    return next(((size, name) for size, name in TIME_UNITS if end >= 2 * size), TIME_UNITS[-1])


def _unit(units: Sequence[tuple[float, str]], values: Sequence[float]) -> tuple[float, str]:
    largest = max(values, default=0.0)
    return next(((size, name) for size, name in units if largest >= size), units[-1])


def _bend(values: Sequence[float]) -> float | None:
    """Where a symlog axis turns linear, or None if a linear one shows everything: the smallest of many orders."""
    sizes = sorted(v for v in values if v > 0)
    if not sizes or sizes[-1] < 1_000 * sizes[0]:
        return None
    small = next((v for v in sizes if v >= sizes[-1] / 1e9), sizes[0])
    return small if sizes[-1] > 1_000 * small else None


def _title(story: Story) -> str:
    meta = story.trace.meta
    lines = [machine_named(meta)]
    if meta.get("variation"):
        lines.append(", ".join(f"{k} = {v}" for k, v in meta["variation"].items()))
    return "\n".join(lines)


def _legend(figure: Any, panels: Any) -> None:
    """One for all panels: a vCPU has the same colour in each."""
    found: dict[str, Any] = {}
    for panel in panels.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside right upper", frameon=False, fontsize=8)


def _steps_told(steps: Sequence[Any], per_line: int) -> str:
    """The numbers on the axis, as sentences."""
    told = [f"{look.step + 1}  {look.say}" for look in steps]
    lines: list[str] = []
    for sentence in ["0  start: the vCPUs are created", *told]:
        lines += textwrap.wrap(sentence, per_line, subsequent_indent="     ") or [""]
    return "\n".join(lines)
