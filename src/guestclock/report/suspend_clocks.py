"""The picture of a sleep: what clocks of guest and host gained over true time, under each design.

The sleep is left out of both axes. A clock that counted it goes on above the break, one that did not below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from guestclock.errors import UserError
from guestclock.report.figure import check_suffix
from guestclock.report.numbers import NS_PER_S, folded
from guestclock.report.suspend_run import LETTERS, Line, SuspendRun, gains_told
from guestclock.sim import PS_PER_NS

STYLES: dict[str, dict[str, Any]] = {
    "kvmclock": {"color": "#b5b5b5", "linewidth": 5.0, "solid_capstyle": "butt"},
    "monotonic": {"color": "#0072B2", "linewidth": 2.2, "solid_capstyle": "butt"},
    "boottime": {"color": "#000000", "linewidth": 1.1, "dashes": (4, 1.5)},
}
"""From below: lines that lie on each other are all seen, and told apart in grey."""
UNSEEN = {"linewidth": 0.8, "linestyle": (0, (1, 2)), "color": "#555555"}
BAND_NS = 60_000_000
"""How wide the sleep is drawn: as so much time awake."""
LABELS_APART, COLUMN = 0.055, 42
"""Letters at the ends of lines: so much of a panel's height. How many characters stand above a panel side by side."""


@dataclass(frozen=True, slots=True)
class Room:
    """Where a time and a gain are drawn, ns. awake_ns: the longest time awake that a panel must hold."""

    awake_ns: int

    @property
    def apart_ns(self) -> int:
        """From a gain without the sleep to the same gain with it."""
        return self.awake_ns * 5 // 4

    def x(self, run: SuspendRun, ps: int) -> float:
        began, woke = run.sleep_ps
        if ps > began:
            ps = began + BAND_NS * PS_PER_NS + ps - woke
        return (ps - run.begin_ps) / PS_PER_NS

    def y(self, gain_ns: int, slept_ns: int) -> float:
        return gain_ns - slept_ns + self.apart_ns if gain_ns > slept_ns // 2 else gain_ns


def draw(columns: Mapping[str, Mapping[str, SuspendRun]], path: Path) -> None:
    """Writes the figure. columns: by title; of each, a run by what became of the TSC. Below them the first one's host.

    Raises UserError where the file cannot be written, or its name is no picture's.
    """
    check_suffix(path)
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "guestclock", "axes.unicode_minus": True, "font.size": 8})
    figure = _figure(columns)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except OSError as error:
        raise UserError(f"--figure {path}: cannot be written: {error.strerror}") from None


def _figure(columns: Mapping[str, Mapping[str, SuspendRun]]) -> Any:
    from matplotlib.figure import Figure

    runs = [run for column in columns.values() for run in column.values()]
    room = Room(max(run.end_ps - run.begin_ps - (run.sleep_ps[1] - run.sleep_ps[0]) for run in runs) // PS_PER_NS)
    rows = list(next(iter(columns.values())))
    figure: Any = Figure(figsize=(2.4 * len(columns) + 0.3, 2.1 * (len(rows) + 1) + 1.0), layout="constrained")
    panels = figure.subplots(len(rows) + 1, len(columns), sharey=True, squeeze=False)
    for place, (title, column) in enumerate(columns.items()):
        panels[0][place].annotate(title, (0, 1), xycoords="axes fraction", xytext=(0, 44), textcoords="offset points",
                                  fontsize=9, weight="bold")  # fmt: skip
        for row, name in enumerate(rows):
            run = column[name]
            gained = f"a to b: {gains_told(run.gained_ns(at_once=True))}", f"a to end: {gains_told(run.gained_ns())}"
            told = [line for text in gained for line in folded(text, COLUMN)]
            _panel(panels[row][place], run, run.guest, room)
            panels[row][place].set_title("\n".join([f"guest, {name}", *told]), loc="left", fontsize=7, pad=11)
        run = column[rows[0]]
        _panel(panels[-1][place], run, run.host, room)
        panels[-1][place].set_title("host", loc="left", fontsize=7)
        panels[-1][place].set_xlabel("true time, s")
    for row_of in panels:
        row_of[0].set_ylabel("gained, s")
    told = [
        "M CLOCK_MONOTONIC, B CLOCK_BOOTTIME, K kvmclock. Dotted: nobody can look.",
        "Grey: the host's timekeeping stands; that is left out of both axes.",
        "a: the guest's last instruction, b: its first one after, c: its handler, which is late.",
    ]
    figure.supxlabel("\n".join(told), fontsize=7, ha="left", x=0.01)
    return figure


def _panel(panel: Any, run: SuspendRun, clocks: Mapping[str, list[Line]], room: Room) -> None:
    slept_ns = (run.sleep_ps[1] - run.sleep_ps[0]) // PS_PER_NS
    ends: list[tuple[float, str]] = []
    for clock, style in STYLES.items():
        if clock not in clocks:
            continue
        lines = clocks[clock]
        first = lines[0][0][1]
        drawn = [[(room.x(run, ps), room.y(ns - first, slept_ns)) for ps, ns in line] for line in lines]
        for line in drawn:
            panel.plot(*zip(*line, strict=True), **style)
        for before, after in pairwise(drawn):
            joined = before[-1][0] == after[0][0]
            panel.plot(*zip(before[-1], after[0], strict=True), **(style if joined else UNSEEN))
        ends.append((drawn[-1][-1][1], LETTERS[clock]))
    _letters(panel, ends, room.x(run, run.end_ps), room)
    _axes(panel, run, room, slept_ns)
    if clocks is run.guest:
        _marks(panel, run, clocks["monotonic"], room)


def _letters(panel: Any, ends: Sequence[tuple[float, str]], x: float, room: Room) -> None:
    """At the right end of each line; lines that end together share a place."""
    places: list[tuple[float, list[str]]] = []
    for y, letter in sorted(ends):
        if places and y - places[-1][0] < LABELS_APART * 2 * room.apart_ns:
            places[-1][1].append(letter)
        else:
            places.append((y, [letter]))
    for y, letters in places:
        told = ", ".join(letter for letter in LETTERS.values() if letter in letters)
        panel.annotate(told, (x, y), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8, weight="bold")


def _axes(panel: Any, run: SuspendRun, room: Room, slept_ns: int) -> None:
    began = room.x(run, run.sleep_ps[0])
    woke = began + BAND_NS
    panel.axvspan(began, woke, color="#e4e4e4", linewidth=0, zorder=0)
    panel.text((began + woke) / 2, room.apart_ns * 2, f"{slept_ns // NS_PER_S} s", ha="center", va="top", fontsize=7)
    step = 100_000_000
    awake = range(0, room.awake_ns + 1, step)
    panel.set_yticks(
        [*awake, *(room.apart_ns + ns for ns in awake)],
        [f"{(base + ns) / NS_PER_S:g}" for base in (0, slept_ns) for ns in awake],
    )
    panel.set_xlim(0, (room.awake_ns + BAND_NS) * 1.2)
    panel.set_ylim(-0.03 * room.apart_ns, 2.05 * room.apart_ns)
    began_ns = (run.sleep_ps[0] - run.begin_ps) // PS_PER_NS
    before = [ns for ns in awake if ns < began_ns - step // 4]
    after = [ns for ns in awake if ns > began_ns + step // 4]
    panel.set_xticks(
        [*before, *(ns + BAND_NS for ns in after)],
        [*(f"{ns / NS_PER_S:g}" for ns in before), *(f"{(slept_ns + ns) / NS_PER_S:g}" for ns in after)],
    )
    slash = {"marker": [(-1, -0.6), (1, 0.6)], "markersize": 7, "color": "#000000", "clip_on": False}
    panel.plot([0, 0], [(room.awake_ns + room.apart_ns) / 2 + by for by in (0, 0.03 * room.apart_ns)], "", **slash)
    panel.tick_params(labelsize=6.5)
    panel.spines[["top", "right"]].set_visible(False)


def _marks(panel: Any, run: SuspendRun, lines: list[Line], room: Room) -> None:
    """Where the guest stopped, went on, and its handler ran, over the panel."""
    instants = [lines[0][-1][0], *(line[0][0] for line in lines[1:])]
    for ps, letter in zip(instants, "abc", strict=False):
        x = room.x(run, ps)
        panel.axvline(x, color="#aaaaaa", linewidth=0.6, zorder=0)
        panel.annotate(letter, (x, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 1), textcoords="offset points",
                       ha="center", va="bottom", fontsize=7, style="italic")  # fmt: skip
