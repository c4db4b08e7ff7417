"""A grid of variations as a figure: each cell says what came out, and is the darker the more it is off."""

from __future__ import annotations

import math
import textwrap
from typing import Any

from guestclock.report.grid import Grids, Outcome

DARK = "#D55E00"
CELL = (1.25, 0.42)
"""Width and height of a cell, inches."""


def grid_figure(grids: Grids, about: str) -> Any:
    """One panel per table of `grids`, three beside each other."""
    from matplotlib.figure import Figure

    sheets = list(grids.sheets())
    across = min(3, len(sheets))
    down = -(-len(sheets) // across)
    rows, columns = len(sheets[0].labels), len(sheets[0].across)
    width = max(across * (columns * CELL[0] + 1.3), 6.0)
    figure: Any = Figure(figsize=(width, down * (rows * CELL[1] + 0.9) + 1.0), layout="constrained")
    panels = figure.subplots(down, across, squeeze=False).flat
    worst = max((o.size_ns for o in grids.cells.values()), default=0)
    for panel, sheet in zip(panels, sheets, strict=False):
        panel.set_xlim(0, columns)
        panel.set_ylim(rows, 0)
        for y, row in enumerate(sheet.rows):
            for x, found in enumerate(row):
                _cell(panel, x, y, found, worst, grids)
        panel.set_xticks([x + 0.5 for x in range(columns)], sheet.across)
        panel.set_yticks([y + 0.5 for y in range(rows)], sheet.labels)
        panel.xaxis.tick_top()
        panel.tick_params(length=0)
        panel.spines[:].set_visible(False)
        panel.set_title(sheet.title, fontsize=9, fontweight="bold", loc="left")
        panel.set_xlabel(sheet.head, fontsize=8)
    for panel in panels:  # those that are left
        panel.set_visible(False)
    figure.suptitle("\n".join(textwrap.wrap(about, int(width * 10))), fontsize=10, x=0.01, ha="left")
    figure.supxlabel("\n".join(grids.legend()), fontsize=8, x=0.01, ha="left")
    return figure


def _cell(panel: Any, x: int, y: int, found: Outcome | None, worst_ns: int, grids: Grids) -> None:
    from matplotlib.patches import Rectangle

    share = 0.0
    if found is not None and found.size_ns:
        # By orders: 100 ns and 5 s are both worth a colour.
        share = 0.12 + 0.68 * math.log10(1 + found.size_ns) / math.log10(1 + worst_ns)
    panel.add_patch(Rectangle((x, y), 1, 1, facecolor=DARK, alpha=share, edgecolor="none"))
    panel.add_patch(Rectangle((x, y), 1, 1, fill=False, edgecolor="#bbbbbb", linewidth=0.6))
    told = "not run" if found is None else "\n".join(line for line, _ in grids.told(found))
    panel.text(x + 0.5, y + 0.5, told, ha="center", va="center", fontsize=7.5)
