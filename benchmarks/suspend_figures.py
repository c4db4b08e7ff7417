"""The pictures of docs/suspend.md: the adjustment step by step, and the clocks of guest and host over the sleep."""

from __future__ import annotations

from pathlib import Path

from guestclock.report import suspend_clocks, swim_lanes
from guestclock.report.suspend_run import LANES, suspend_run

OUT = Path(__file__).parent.parent / "docs"
COLUMNS = {"stock": "stock", "v3": "injected, v3 as posted", "corrected": "injected, corrected"}
ROWS = {"running": "the TSC runs on", "reset": "the TSC begins anew"}


def main(out: Path = OUT, suffix: str = ".svg") -> None:
    for design in ("v3", "corrected"):
        path = out / f"suspend-sequence-{design}{suffix}"
        title = f"threads/2021-suspend, {design}: what each step of a sleep and of the adjustment after it changes"
        swim_lanes.draw(suspend_run(design).steps, title, path, lanes=LANES)
        print(f"figure: {path}")
    path = out / f"suspend-clocks{suffix}"
    columns = {
        title: {told: suspend_run(design, tsc) for tsc, told in ROWS.items()} for design, title in COLUMNS.items()
    }
    suspend_clocks.draw(columns, path)
    print(f"figure: {path}")


if __name__ == "__main__":
    main()
