"""The figure: clock minus true time over true time, a line per clock and vCPU, the scenario's steps on the axis."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from guestclock.check import Mark, Point, Story, errors
from guestclock.errors import UserError
from guestclock.report.grid import Grids, is_grid
from guestclock.report.numbers import short_duration
from guestclock.report.words import MOVES, machine_named
from guestclock.vmm.clocks import ARM64, CLOCKS, X86_64

Column = tuple[Story, list[Mark]]

SUFFIXES = (".png", ".svg", ".pdf")
MAX_PANELS = 8

# Okabe and Ito's: told apart by the colour-blind, and in grey by the widths below.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#888888")
WIDTHS = (3.4, 1.9, 1.0)
"""Lines that lie on each other stay visible: each later one is thinner."""

CLOCK_TITLES = {name: f"{clock.shown} − true time" for name, clock in CLOCKS.items()}
ROWS = {X86_64: ("kvmclock", "tsc"), ARM64: ("cntvct", "cntpct")}
"""The clocks from top to bottom: the first always, the others where they did anything but run."""

TIME_UNITS = ((3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
ERROR_UNITS = TIME_UNITS[2:]
TITLE_CHARS = 11
"""How many of a title's characters an inch holds."""
TO_SCALE = 1.6
"""How much of the time axis is to scale, in parts of what goes to telling the steps apart."""


def check_suffix(path: Path) -> None:
    """Raises UserError for a suffix that is no picture's."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"--figure {path}: expected a name that ends in {', '.join(SUFFIXES)}")


def draw(columns: Sequence[Column], path: Path) -> None:
    """Writes the figure: a panel per run, or for the many runs of a grid the grid itself.

    Raises UserError where the file cannot be written, or for more runs than can be told apart.
    """
    check_suffix(path)
    import matplotlib

    matplotlib.use("Agg")
    # An SVG of the same run is the same file.
    matplotlib.rcParams.update({"svg.hashsalt": "guestclock", "axes.unicode_minus": True, "font.size": 9})
    if len(columns) <= MAX_PANELS:
        figure = lines_figure(columns)
    elif is_grid([story.trace.meta for story, _ in columns]):
        from guestclock.report.figure_grid import grid_figure

        figure = grid_figure(Grids(columns), str(columns[0][0].trace.meta.get("about") or ""))
    else:
        raise UserError(f"--figure: {len(columns)} runs, at most {MAX_PANELS} fit beside each other; choose some")
    try:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except OSError as error:
        raise UserError(f"--figure {path}: cannot be written: {error.strerror}") from None


def lines_figure(columns: Sequence[Column]) -> Any:
    """A panel per run; kvmclock (arm64: CNTVCT) above, the TSC (CNTPCT) below where it did anything but run."""
    from matplotlib.figure import Figure

    count = len(columns)
    first, *others = ROWS[columns[0][0].arch]
    rows = [first] if any(errors(story, first) for story, _ in columns) else []
    rows += [clock for clock in others if any(_did_not_run(mark, clock) for _, marks in columns for mark in marks)]
    rows = rows or [first]
    width = max(7.5, min(4.2 * count, 17.0))
    legend = _steps_told(columns[0][0], per_line=int(width * 16))
    height = 2.5 * len(rows) + 0.17 * len(legend.splitlines()) + 1.4
    figure: Any = Figure(figsize=(width, height), layout="constrained")
    panels = figure.subplots(len(rows), count, sharex="col", sharey="row", squeeze=False)
    axes = [TimeAxis.of(story, width / count - 0.7) for story, _ in columns]
    for row, clock in enumerate(rows):
        lines = [_lines(story, clock) for story, _ in columns]
        sizes = [abs(e) for each in lines for line in each for e in line.error_s]
        scale, unit = _unit(ERROR_UNITS, sizes)
        bend = _bend([size / scale for size in sizes])
        for place, (story, _) in enumerate(columns):
            panel = panels[row][place]
            _panel(panel, lines[place], axes[place], scale)
            if bend is not None:
                _bent(panel, bend, max(sizes) / scale, scale)
            if row == 0:
                axes[place].number(panel)
                panel.set_title(_title(story, width / count), fontsize=9, fontweight="bold", pad=18)
        panels[row][0].set_ylabel(CLOCK_TITLES[clock] + (f", {unit}" if bend is None else " (symlog)"))
        for place, (story, marks) in enumerate(columns):
            _breaks_told(panels[row][place], marks, story, clock, axes[place], scale)
    for place in range(count):
        axes[place].label(panels[-1][place])
    panels[-1][0].set_xlabel("true time (to scale, and a little more for each step)", loc="left")
    _legend(figure, panels)
    meta = columns[0][0].trace.meta
    about = textwrap.wrap(str(meta.get("about") or meta.get("scenario") or ""), int((width - 1.4) * 13))
    figure.suptitle(_plain("\n".join(about)), fontsize=10, x=0.01, ha="left")
    figure.supxlabel(_plain(legend), fontsize=7, family="monospace", ha="left", x=0.01)
    return figure


def _did_not_run(mark: Mark, clock: str) -> bool:
    """Of two counters that part the one that moved is told by itself."""
    return mark.clock == clock and mark.what != "parts"


# ---- time


@dataclass(frozen=True, slots=True)
class TimeAxis:
    """True time as a place on the axis: to scale, plus room for each step, as most of them take next to no time.

    ps, x: when each step's look was, and where it is drawn, by step. inches: the panel's width, roughly.
    """

    ps: dict[int, int]
    x: dict[int, float]
    inches: float

    @classmethod
    def of(cls, story: Story, inches: float) -> TimeAxis:
        ps = {look.step: look.at_ps for look in story.looks if look.looked}
        whole = max(max(ps.values(), default=0) - min(ps.values(), default=0), 1)
        x = dict.fromkeys(list(ps)[:1], 0.0)
        for before, after in pairwise(ps):
            x[after] = x[before] + 1.0 + TO_SCALE * len(ps) * max(ps[after] - ps[before], 0) / whole
        return cls(ps, x, inches)

    def room(self, inches: float) -> float:
        return inches / self.inches * max(self.x.values(), default=0.0)

    def number(self, panel: Any) -> None:
        """The steps' numbers over the panel. Those that would be written over each other share a label: 2–5."""
        clusters: list[tuple[float, list[int]]] = []
        for step, x in self.x.items():
            if clusters and x - clusters[-1][0] < self.room(0.16 if len(clusters[-1][1]) == 1 else 0.4):
                clusters[-1][1].append(step + 1)
            else:
                clusters.append((x, [step + 1]))
        for x, numbers in clusters:
            text = f"{numbers[0]}–{numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
            panel.annotate(text, (x, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3),
                           textcoords="offset points", ha="center", fontsize=8)  # fmt: skip

    def label(self, panel: Any) -> None:
        """True time under the panel, wherever there is room for it."""
        end = max(self.ps.values(), default=0) / 1e12
        size, unit = next(((s, u) for s, u in TIME_UNITS if end >= 2 * s), TIME_UNITS[-1])
        ticks: list[tuple[float, str]] = []
        for step, x in self.x.items():
            text = f"{self.ps[step] / 1e12 / size:.3g}" if self.ps[step] > 1e-3 * end * 1e12 else "0"
            if not ticks or (x - ticks[-1][0] >= self.room(0.75) and text != ticks[-1][1]):
                ticks.append((x, text))
        panel.set_xticks([x for x, _ in ticks], [f"{text} {unit}" for _, text in ticks])
        panel.tick_params(axis="x", labelbottom=True)


# ---- lines


@dataclass(frozen=True, slots=True)
class Line:
    """One clock of one vCPU: after which step, and its error (s); a break is drawn upright.

    first_s: between which errors the first reading lies. What follows is known from there, breaks in a page exactly.
    """

    label: str
    vcpu: int
    vm: int
    steps: list[int]
    error_s: list[float]
    first_s: tuple[float, float]

    @property
    def known_to_s(self) -> float:
        return (self.first_s[1] - self.first_s[0]) / 2


def _lines(story: Story, clock: str) -> list[Line]:
    found = errors(story, clock)
    several = len({vm for vm, _ in found}) > 1
    return [
        Line(f"VM {vm} vcpu{vcpu}" if several else f"vcpu{vcpu}", vcpu, vm, *_drawn(points), _first(points))
        for (vm, vcpu), points in found.items()
    ]


def _drawn(points: Sequence[Point]) -> tuple[list[int], list[float]]:
    """Straight from look to look; where the line broke, first to where it would have been, then upright."""
    steps: list[int] = []
    error: list[float] = []
    for before, after in _by_step(points):
        if before is not None:
            steps.append(after.reading.step)
            error.append(before / 1e9)
        steps.append(after.reading.step)
        error.append(after.error_ns.middle / 1e9)
    return steps, error


def _first(points: Sequence[Point]) -> tuple[float, float]:
    span = points[0].error_ns
    return float(span.lo) / 1e9, float(span.hi) / 1e9


def _by_step(points: Sequence[Point]) -> Iterator[tuple[int | None, Point]]:
    """Each step's last reading, and the error (ns) that the line before the step would have had at it."""
    for _, group in groupby(points, key=lambda p: p.reading.step):
        inside = list(group)
        breaks = [p.error_ns.middle - p.before_ns.middle for p in inside if p.before_ns is not None]
        last = inside[-1]
        yield (last.error_ns.middle - sum(breaks) if breaks else None), last


def _panel(panel: Any, lines: Sequence[Line], axis: TimeAxis, scale: float) -> None:
    panel.axhline(0, color="#999999", linewidth=0.8, zorder=0)
    for line in lines:
        panel.plot(
            [axis.x[step] for step in line.steps],
            [e / scale for e in line.error_s],
            color=COLOURS[line.vcpu % len(COLOURS)],
            linewidth=WIDTHS[min(line.vcpu, len(WIDTHS) - 1)],
            linestyle="-" if line.vm == 0 else (0, (4, 1.5)),
            marker="o" if line.vcpu == 0 else "s",
            markersize=4.5 - min(line.vcpu, 3),
            label=line.label,
        )
    _uncertainty(panel, lines, axis, scale)
    panel.grid(axis="y", color="#dddddd", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    for x in axis.x.values():
        panel.axvline(x, color="#cccccc", linewidth=0.6, linestyle=":", zorder=0)


def _uncertainty(panel: Any, lines: Sequence[Line], axis: TimeAxis, scale: float) -> None:
    """How far up or down a whole line may lie: a bar at its beginning, and in words. It does not stretch the axis."""
    from matplotlib.lines import Line2D

    for line in lines:
        if line.known_to_s > 0:
            x = axis.x[line.steps[0]]
            ends = [end / scale for end in line.first_s]
            colour = COLOURS[line.vcpu % len(COLOURS)]
            panel.add_artist(Line2D([x, x], ends, color=colour, alpha=0.35, linewidth=4, solid_capstyle="butt"))
    widest = max((line.known_to_s for line in lines), default=0.0)
    if widest > 0:
        told = f"each line known to ± {_round_duration(float(f'{widest:.2g}'))}"
        panel.text(0.03, 0.04, told, transform=panel.transAxes, fontsize=7, color="#555555")


def _unit(units: Sequence[tuple[float, str]], values: Sequence[float]) -> tuple[float, str]:
    largest = max(values, default=0.0)
    return next(((size, name) for size, name in units if largest >= size), units[-1])


def _bend(values: Sequence[float]) -> float | None:
    """Where a symlog axis turns linear, or None if a linear one shows everything: the smallest of many orders."""
    sizes = sorted(v for v in values if v > 0)
    if not sizes or sizes[-1] < 1_000 * sizes[0]:
        return None
    small = next((v for v in sizes if v >= sizes[-1] / 1e9), sizes[0])
    return 10.0 ** math.floor(math.log10(small)) if sizes[-1] > 1_000 * small else None


def _bent(panel: Any, bend: float, largest: float, scale: float) -> None:
    """A symmetric logarithmic axis with its ticks as durations: −10 µs, 1 ms."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    panel.set_yscale("symlog", linthresh=bend)
    decades = math.ceil(math.log10(largest / bend) - 1e-9)
    every = max(1, math.ceil(decades / 5))
    powers = [bend * 10.0**k for k in range(decades, 0, -every)]
    panel.yaxis.set_major_locator(FixedLocator([*(-p for p in powers), 0.0, *powers]))
    panel.yaxis.set_minor_locator(NullLocator())
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _round_duration(value * scale)))


def _round_duration(seconds: float) -> str:
    if seconds == 0:
        return "0"
    size, unit = next(((s, name) for s, name in ERROR_UNITS if abs(seconds) >= 0.9999 * s), ERROR_UNITS[-1])
    value = seconds / size
    if abs(value) >= 1e5:
        sign = "−" if value < 0 else ""
        return f"{sign}$10^{{{round(math.log10(abs(value)))}}}$ {unit}"
    return f"{value:g} {unit}".replace("-", "−")


def _breaks_told(panel: Any, marks: Sequence[Mark], story: Story, clock: str, axis: TimeAxis, scale: float) -> None:
    """What a break amounts to, beside it; left out where it would be written over another."""
    from matplotlib.patheffects import withStroke

    points = {
        (p.reading.vm, p.reading.vcpu, p.reading.step): (before, p)
        for line in errors(story, clock).values()
        for before, p in _by_step(line)
    }
    panel.autoscale_view()
    to_fraction = panel.transData + panel.transAxes.inverted()
    taken: list[tuple[float, float]] = []
    for mark in marks:
        if mark.clock != clock or mark.what not in MOVES:
            continue
        before, point = points[mark.vm, mark.vcpus[0], mark.step]
        if before is None:
            continue
        x = axis.x[mark.step]
        ends = [to_fraction.transform((x, ns / 1e9 / scale)) for ns in (before, point.error_ns.middle)]
        place = float(ends[0][0]), float(ends[0][1] + ends[1][1]) / 2
        if any(abs(place[0] - x) < 0.25 and abs(place[1] - y) < 0.07 for x, y in taken):
            continue
        taken.append(place)
        left = place[0] > 0.5
        panel.annotate(
            short_duration(mark.time_ns.middle), place, xycoords="axes fraction", xytext=(-5 if left else 5, 0),
            textcoords="offset points", ha="right" if left else "left", va="center", fontsize=8, color="#333333",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip


# ---- words


def _title(story: Story, inches: float) -> str:
    """In lines that fit above so wide a panel; a kernel with overlays is broken before one."""
    meta = story.trace.meta
    name, room = machine_named(meta), int(inches * TITLE_CHARS)
    lines = [name]
    if len(name) > room:
        lines = textwrap.wrap(name.replace("+", " +"), room, break_on_hyphens=False)
    if meta.get("variation"):
        lines.append(", ".join(f"{k} = {v}" for k, v in meta["variation"].items()))
    return _plain("\n".join(lines))


def _plain(text: str) -> str:
    """Not mathematics: a scenario's $names stay what they are."""
    return text.replace("$", r"\$")


def _legend(figure: Any, panels: Any) -> None:
    """One for all panels: a vCPU has the same colour in each."""
    found: dict[str, Any] = {}
    for panel in panels.flat:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(found.values(), found.keys(), loc="outside right upper", frameon=False, fontsize=8)


def _steps_told(story: Story, per_line: int) -> str:
    """The numbers over the panels, as sentences; in two columns where there are many."""
    told = [f"{look.step + 1:>2}  {look.say or 'start'}" for look in story.looks]
    half = -(-len(told) // 2)
    widest = max(map(len, told))
    if len(told) > 8 and 2 * widest + 4 <= per_line:
        pairs = zip(told[:half], [*told[half:], ""][:half], strict=True)
        return "\n".join(f"{a:<{widest + 4}}{b}".rstrip() for a, b in pairs)
    return "\n".join(line for t in told for line in textwrap.wrap(t, per_line, subsequent_indent="     "))
