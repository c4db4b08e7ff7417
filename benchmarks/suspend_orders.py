"""The explorer on the suspend thread: orders a second, and against every interleaving of the same model's steps.

Both are the same search, the second without sleep sets and races (`Search(reduce=False)`): what it counts grows with
every actor that could go first, so it ends after so long, and the ratio says "more than". Times are of this machine,
ratios within one run.
"""

from __future__ import annotations

from time import monotonic

from guestclock.checks.protocol import Case, check_case
from guestclock.checks.suspend.thread import THREAD
from guestclock.explore.search import Search, Tally

CASES = (
    ("stock", "sleep"), ("corrected", "sleep"), ("corrected", "two"), ("v3", "sleep"), ("v3", "two"), ("gate", "sleep"),
    ("inhibitor", "sleep"),
)  # fmt: skip
ENOUGH_S = 10.0


def searched(case: Case, *, reduce: bool) -> tuple[Tally, float, bool]:
    """What a search of all orders, without any question, counted; how long it took, s; whether it came to its end."""
    assert case.build is not None
    assert case.bounds is not None
    search = Search(case.build, case.bounds, reduce=reduce)
    began = monotonic()
    complete = search.run(lambda run: None, lambda: monotonic() - began > ENOUGH_S)
    return search.tally, monotonic() - began, complete


def main() -> None:
    for design, name in CASES:
        case = THREAD.case(design, name)
        tally, taken_s, complete = searched(case, reduce=True)
        plain, plain_s, all_of_it = searched(case, reduce=False)
        began = monotonic()
        asked = check_case(THREAD, design, name, budget_s=2 * ENOUGH_S)
        asked_s = monotonic() - began
        more = "" if all_of_it else ">"
        print(
            f"suspend  {design + ', ' + name:<18} {tally.orders:4}{'' if complete else '+'} orders {taken_s:6.2f} s "
            f"{tally.orders / taken_s:6.0f}/s   every interleaving {more}{plain.orders} in {plain_s:.2f} s, "
            f"{more}{plain.orders / max(tally.orders, 1):.0f} times as many   with "
            f"{sum(v.asked for v in asked.verdicts)} questions {asked_s:6.2f} s {asked.programs} LPs"
        )


if __name__ == "__main__":
    main()
