"""The smallest delay between two calls with which a story still goes wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace

from guestclock.checks.asks import Question
from guestclock.checks.checker import Checker, Found
from guestclock.explore.replay import Confirmed


_PRECISION = 24
"""The delay is found to one part in 2^24, or to one unit."""


@dataclass(frozen=True, slots=True)
class Breaks:
    """delay_ns: between two calls, with which an integer run violates it; value: what it shows then.

    safe_ns: with this delay the order is proved not to violate it, or None: it does at any delay. Between the two lies
    what truncation can hide.
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

    safe = -1

    def wrong(delay: int) -> bool:
        """Whether an integer run is sure to show it: beyond what truncation can hide."""
        nonlocal safe
        worst = at(delay).worst_of(question.name, found)
        if worst is None or worst.upper <= found.tolerance:
            safe = max(safe, delay)
            return False
        return worst.upper - worst.rounding - 1 > found.tolerance

    enough = float(found.tolerance) + 1
    low, high = 0, full.delay
    if wrong(low):
        confirmed = at(low).confirm(question.name, found, enough)
        if confirmed is None or confirmed.value <= found.tolerance:
            return None, None
        return Breaks(0, confirmed.value, None), confirmed
    if not wrong(high):
        return None, None
    while high - low > 1 + (high >> _PRECISION):
        middle = (low + high) // 2
        if wrong(middle):
            high = middle
        else:
            low = middle
    confirmed = at(high).confirm(question.name, found, enough)
    if confirmed is not None and confirmed.value > found.tolerance:
        khz = spec.sites[0].tsc_khz
        return Breaks(-(-high * 1_000_000 // khz), confirmed.value, safe * 1_000_000 // khz if safe >= 0 else None), confirmed
    return None, None
