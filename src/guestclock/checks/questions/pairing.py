"""TSC and kvmclock are two hands of one watch: across the operation neither moves against the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from guestclock.checks.asks import Ask, both_ways, events_of, name_of, question, scaled
from guestclock.checks.outcome import Outcome
from guestclock.checks.questions.policy import across
from guestclock.checks.windows import apart


@question(
    "pairing",
    "per vCPU, kvmclock less TSC is the same after the operation as before it",
    source="RFC v6 (Woodhouse): an API that gets a single time value in isolation is unsuitable for migration",
    breaks="a guest that changes its clocksource, or compares RDTSC with clock_gettime, sees time step by that much",
)
def pairing(outcome: Outcome) -> Iterator[Ask]:
    world = outcome.world
    for before, after in across(outcome):
        page = before.page
        if page is None or not (before.has_page and after.has_page):
            continue

        def ahead(
            t: Callable[[str], Any], before: Any = before, after: Any = after, page: Any = page
        ) -> Any:  # fmt: skip
            left, entered = t(before.closed), t(after.opened)
            clock = apart(after.kvmclock(world, entered), before.kvmclock(world, left))
            tsc = apart(after.tsc(world, entered), before.tsc(world, left))
            # By the page's own scale, so that one line is a pair with itself.
            return clock - scaled(tsc, page.tsc_to_system_mul, 1 << 32 - page.tsc_shift)

        for sense, value in both_ways(ahead, "kvmclock ahead", "kvmclock behind"):
            yield Ask(
                sense=sense,
                unit="ns",
                who=name_of(before),
                id=f"pair {sense} {before.id} {after.id}",
                events=events_of(before, after),
                instants=(),
                ordered=(),
                value=value,
            )
