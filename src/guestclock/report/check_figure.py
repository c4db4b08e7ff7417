"""The figure of a violation: each vCPU's clock minus true time over the run, the story's steps on the axis."""

from __future__ import annotations

import textwrap
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from guestclock.checks.replay_file import ReplayFile
from guestclock.checks.story import Story
from guestclock.checks.whole_run import clock_error_ns
from guestclock.checks.windows import BEFORE
from guestclock.errors import UserError
from guestclock.report.check_replay import what
from guestclock.report.check_story import told
from guestclock.report.check_words import amount, khz_of, who_named
from guestclock.report.figure import CLOCK_TITLES, COLOURS, ERROR_UNITS, TO_SCALE, WIDTHS, check_suffix
from guestclock.report.numbers import duration
from guestclock.vmm.clocks import COUNTED

WIDTH, COLUMNS = 9.0, 120
VISIBLE = 200
"""A picture's height in parts that can still be told apart."""
Piece = tuple[tuple[int, int], tuple[int, int]]
"""Two points (units, ns): a clock while its vCPU is in the guest."""


def draw(file: ReplayFile, story: Story, path: Path) -> None:
    """Writes the figure. Raises UserError where the file cannot be written, or its name is no picture's."""
    check_suffix(path)
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "guestclock", "axes.unicode_minus": True, "font.size": 9})
    figure = _figure(file, story)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except OSError as error:
        raise UserError(f"--figure {path}: cannot be written: {error.strerror}") from None


def _figure(file: ReplayFile, story: Story) -> Any:
    from matplotlib.figure import Figure

    lines = _lines(story, before=True)
    shown_ns = story.value * 1_000_000 // khz_of(file.spec) if file.unit in COUNTED else story.value
    if max((abs(error) for points in lines.values() for _, error in points), default=0) > VISIBLE * shown_ns:
        lines = _lines(story, before=False)  # beside the operation's own jump it could not be seen
    steps = _numbered(story)
    legend = "\n".join(
        line
        for number, (_, text) in enumerate(steps, 1)
        for line in textwrap.wrap(f"{number:>2}  {text}", COLUMNS, subsequent_indent="      ")
    )
    height = 3.6 + 0.14 * len(legend.splitlines())
    figure: Any = Figure(figsize=(WIDTH, height), layout="constrained")
    panel = figure.subplots()
    times = sorted({t for points in lines.values() for t, _ in points} | {t for t, _ in steps})
    places = _places(times)
    sizes = [abs(error) for points in lines.values() for _, error in points]
    scale, unit = next(((s * 1e9, n) for s, n in ERROR_UNITS if max(sizes, default=0) >= s * 1e9), (1.0, "ns"))
    panel.axhline(0, color="#999999", linewidth=0.8, zorder=0)
    for vcpu, points in lines.items():
        _line(panel, vcpu, points, places, scale)
    for t, _ in steps:
        panel.axvline(places[t], color="#cccccc", linewidth=0.6, linestyle=":", zorder=0)
    for x, text in _labels(steps, places):
        panel.annotate(text, (x, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
                       ha="center", fontsize=8)  # fmt: skip
    _time_axis(panel, story, steps, times, places)
    panel.set_ylabel(f"{CLOCK_TITLES[story.clock]}, {unit}")
    panel.grid(axis="y", color="#dddddd", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=8, loc="best")
    shown = f"{amount(story.value, file.unit, khz_of(file.spec))} {file.sense}, {who_named(file.who)}"
    figure.suptitle(_plain(f"{what(file)}\n{file.property}: {shown}"), fontsize=10, x=0.01, ha="left")
    figure.supxlabel(_plain(legend), fontsize=7, family="monospace", ha="left", x=0.01)
    return figure


def _lines(story: Story, *, before: bool) -> dict[int, list[tuple[int, int]]]:
    """By vCPU: (units, ns), two per window, from the end of the guest's life before to a little after the story.

    The first reading of the story is 0. before: the life before is shown too.
    """
    steps = [s.units for s in story.steps]
    last = max(steps, default=0)
    values = story.world.schedule.values
    left = [values[w.closed] for w in story.outcome.tracker.windows() if w.phase == BEFORE and w.closed is not None]
    first = min(min(steps, default=0), max(left, default=last)) if before else min(steps, default=0)
    margin = max((last - first) // 8, 1)
    first, last = first - (margin if before else 0), last + margin
    found: dict[int, list[tuple[int, int]]] = {}
    for vcpu, clock, units, error in clock_error_ns(story, margin):
        if clock == story.clock:
            found.setdefault(vcpu, []).append((units, error))
    pieces: dict[int, list[Piece]] = {}
    for vcpu, points in sorted(found.items()):
        pairs = list(zip(points[::2], points[1::2], strict=True))
        kept = [(_clip(a, b, first), _clip(a, b, last)) for a, b in pairs if b[0] >= first and a[0] <= last]
        if kept:
            pieces[vcpu] = kept
    zero = _zero(story, pieces)
    return {vcpu: [(t, error - zero) for piece in kept for t, error in piece] for vcpu, kept in pieces.items()}


def _zero(story: Story, pieces: dict[int, list[Piece]]) -> int:
    """The error of the story's first reading."""
    if not story.readings:
        return 0
    reading = story.readings[0]
    for a, b in pieces.get(reading.vcpu or 0, []):
        if a[0] <= reading.units <= b[0]:
            return _clip(a, b, reading.units)[1]
    return 0


def _clip(a: tuple[int, int], b: tuple[int, int], at: int) -> tuple[int, int]:
    """The end of a straight piece that is nearer to `at`, or the point at it."""
    if at <= a[0]:
        return a
    if at >= b[0]:
        return b
    return at, a[1] + (b[1] - a[1]) * (at - a[0]) // (b[0] - a[0])


def _numbered(story: Story) -> list[tuple[int, str]]:
    return [(step.units, row.text) for step, row in zip(story.steps, told(story), strict=True)]


def _places(times: list[int]) -> dict[int, float]:
    """Where an instant is drawn: to scale, and a little room for each, as most of them take next to no time."""
    whole = max(times[-1] - times[0], 1) if times else 1
    places = dict.fromkeys(times[:1], 0.0)
    for before, after in pairwise(times):
        places[after] = places[before] + 1.0 + TO_SCALE * len(times) * (after - before) / whole
    return places


def _line(panel: Any, vcpu: int, points: list[tuple[int, int]], places: dict[int, float], scale: float) -> None:
    """Solid while the guest runs; dotted while nobody looks."""
    colour, width = COLOURS[vcpu % len(COLOURS)], WIDTHS[min(vcpu, len(WIDTHS) - 1)]
    pieces = list(zip(points[::2], points[1::2], strict=True))
    for number, piece in enumerate(pieces):
        panel.plot(
            [places[t] for t, _ in piece], [error / scale for _, error in piece], color=colour, linewidth=width,
            marker="o" if vcpu == 0 else "s", markersize=4.5 - min(vcpu, 3), label="" if number else f"vcpu{vcpu}",
        )  # fmt: skip
    for (_, left), (entered, _) in pairwise(pieces):
        ends = [places[left[0]], places[entered[0]]]
        panel.plot(ends, [left[1] / scale, entered[1] / scale], color=colour, linewidth=0.8, linestyle=(0, (1, 2)))


def _labels(steps: list[tuple[int, str]], places: dict[int, float]) -> list[tuple[float, str]]:
    """The steps' numbers; those at one place share a label."""
    room = max(places.values(), default=0.0) / 40
    clusters: list[tuple[float, list[int]]] = []
    for number, (t, _) in enumerate(steps, 1):
        if clusters and places[t] - clusters[-1][0] < room:
            clusters[-1][1].append(number)
        else:
            clusters.append((places[t], [number]))
    return [(x, f"{n[0]}–{n[-1]}" if len(n) > 1 else str(n[0])) for x, n in clusters]


def _time_axis(
    panel: Any, story: Story, steps: list[tuple[int, str]], times: list[int], places: dict[int, float]
) -> None:
    first = story.ps(steps[0][0]) if steps else 0
    room = max(places.values(), default=0.0) / 7
    ticks: list[tuple[float, str]] = []
    for t, _ in groupby(times):
        text = _short(story.ps(t) - first)
        if not ticks or (places[t] - ticks[-1][0] >= room and text != ticks[-1][1]):
            ticks.append((places[t], text))
    panel.set_xticks([x for x, _ in ticks], [text for _, text in ticks])
    panel.set_xlabel("true time from the first step (to scale, and a little more for each instant)", loc="left")


def _short(ps: int) -> str:
    for size, name in ((10**12, "s"), (10**9, "ms"), (10**6, "µs")):
        if abs(ps) >= 0.99995 * size:
            return f"{ps / size:.4g} {name}".replace("-", "−")
    return duration(ps // 1000) if ps else "0"


def _plain(text: str) -> str:
    """Not mathematics."""
    return text.replace("$", r"\$")
