"""The explorer on the freeze protocol: orders, steps and linear programs of cases with times, with faults, nested."""

from __future__ import annotations

from benchmarks.measure import seconds
from guestclock.checks.freeze.thread import THREAD
from guestclock.checks.protocol import CaseResult, check_case

CASES = (
    ("as-written", "2400000-2900000"), ("corrected-gate", "2400000-2900000"), ("corrected-gate", "l1-with-l2"),
    ("corrected-gate", "nothing-fails"), ("corrected-gate", "target-dies"), ("corrected-gate", "v0-hangs"),
)  # fmt: skip


def main() -> None:
    for design, case in CASES:
        found: list[CaseResult] = []

        def work(design: str = design, case: str = case, found: list[CaseResult] = found) -> None:
            found.append(check_case(THREAD, design, case))

        taken_s = seconds(work)
        tally, programs = found[0].tally, found[0].programs
        print(
            f"freeze protocol  {design + ', ' + case:<32} {tally.orders:5} orders {tally.blocked:5} blocked "
            f"{tally.steps:7} steps {programs:5} LPs {taken_s:6.2f} s {tally.steps / taken_s / 1000:6.1f} k steps/s"
        )


if __name__ == "__main__":
    main()
