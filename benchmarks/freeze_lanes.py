"""The picture of docs/freeze.md: the corrected protocol's swim lanes, from the trace of a run where nothing fails."""

from __future__ import annotations

from pathlib import Path

from guestclock.checks.freeze.thread import THREAD
from guestclock.report.swim_lanes import draw, lane_steps, usual

OUT = Path(__file__).parent.parent / "docs" / "freeze-lanes.svg"
LANES = ("source", "V0", "V1", "target", "V0 there", "timer")
TITLE = "threads/2017-freeze, corrected: the guest is frozen (4), moved (6), reconfigured (9) and goes on (10)"


def main(out: Path = OUT) -> None:
    case = THREAD.case("corrected-gate", "nothing-fails")
    draw(lane_steps(case, usual(case, "moved", "a timer fires there")), TITLE, out, lanes=LANES)
    print(f"figure: {out}")


if __name__ == "__main__":
    main()
