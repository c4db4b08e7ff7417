"""The smallest delay between two calls with which a story still goes wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace

from guestclock.checks.asks import Question
from guestclock.checks.checker import Checker, Found
from guestclock.explore.replay import Confirmed


@dataclass(frozen=True, slots=True)
class Breaks:
    """delay_ns: between two calls, the least that an integer run needs; value: what it shows then.

    safe_ns: with this delay the order is proved not to violate the property any more, or None: it does at any delay.
    """

    delay_ns: int
    value: int
    safe_ns: int | None


def smallest_delay(checker: Checker, question: Question, found: Found) -> tuple[Breaks | None, Confirmed | None]:
    """By bisection on the delay, in units, in the one order that has the shortest story.

    None where the property is violated with no delay at all, or where no integer run shows it.
    """
    spec = checker.spec
    full = spec.bounds

    def at(delay: int) -> Checker:
        return Checker(spec, checker.wanted, replace(full, delay=delay))

    def wrong(delay: int) -> bool:
        worst = at(delay).worst_of(question.name, found)
        return worst is not None and worst.upper > found.tolerance

    low, high = 0, full.delay
    if wrong(low):
        confirmed = at(low).confirm(question.name, found)
        if confirmed is None or confirmed.value <= found.tolerance:
            return None, None
        return Breaks(0, confirmed.value, None), confirmed
    while high - low > 1:
        middle = (low + high) // 2
        if wrong(middle):
            high = middle
        else:
            low = middle
    # The proof may need a few units less than an integer run does.
    for more in (0, 1, 2, 4, 8, 16, 64, 256, 1024):
        confirmed = at(high + more).confirm(question.name, found)
        if confirmed is not None and confirmed.value > found.tolerance:
            khz = spec.sites[0].tsc_khz
            needs_ns, safe_ns = -(-(high + more) * 1_000_000 // khz), low * 1_000_000 // khz
            return Breaks(needs_ns, confirmed.value, safe_ns), confirmed
    return None, None
