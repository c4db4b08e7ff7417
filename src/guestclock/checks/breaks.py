"""The smallest delay between two calls with which a story still goes wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace

from guestclock.checks.asks import Question
from guestclock.checks.checker import Checker, Found
from guestclock.explore.leaf import Unproved
from guestclock.explore.replay import Confirmed

_AGAIN, _WHOLE_S = 4, 5.0
_PRECISION = 24
"""The delay is found to one part in 2^24, or to one unit."""


@dataclass(frozen=True, slots=True)
class Breaks:
    """delay_ns: between two calls, with which an integer run violates it; value: what it shows then.

    safe_ns: with this delay the order is proved not to violate it, or None: it does at any delay. Between the two lies
    what truncation can hide. proved: no order violates it with safe_ns, the whole check was done again.
    """

    delay_ns: int
    value: int
    safe_ns: int | None
    proved: bool = False


def smallest_delay(
    checker: Checker, question: Question, found: Found, whole_s: float
) -> tuple[Breaks | None, Confirmed | None, Found]:
    """The least delay with which any order goes wrong: of the shortest story, then of what is still wrong below that.

    whole_s: how long the search took. Where that is too long to be done again, it is the shortest story's own.
    None where no integer run shows it.
    """
    breaks, confirmed = _in_one_order(checker, question, found, checker.spec.bounds.delay)
    for _ in range(_AGAIN):
        if breaks is None or breaks.safe_ns is None or whole_s > _WHOLE_S:
            break
        below = checker.spec.units(breaks.safe_ns)
        again = Checker(checker.spec, [question], replace(checker.spec.bounds, delay=below))
        again.search.run(lambda run, again=again: again.look(run, again.search.trail()))  # type: ignore[misc]
        still = again.tell.shortest.get(question.name)
        if still is None:
            unsure = question.name in again.tell.unproved
            return replace(breaks, proved=not unsure), confirmed, found
        sooner, shown = _in_one_order(checker, question, still, below)
        if sooner is None:
            break
        breaks, confirmed, found = sooner, shown, still
    return breaks, confirmed, found


def _in_one_order(
    checker: Checker, question: Question, found: Found, most: int
) -> tuple[Breaks | None, Confirmed | None]:
    """By bisection on the delay, from 0 to `most` units."""
    spec = checker.spec
    full = spec.bounds

    def at(delay: int) -> Checker:
        return Checker(spec, checker.wanted, replace(full, delay=delay))

    safe = -1

    def wrong(delay: int) -> bool:
        """Whether an integer run is sure to show it: beyond what truncation can hide."""
        nonlocal safe
        try:
            worst = at(delay).worst_of(question.name, found)
        except Unproved:
            return False  # nor is it safe
        if worst is None or worst.upper <= found.tolerance:
            safe = max(safe, delay)
            return False
        return worst.upper - worst.rounding - 1 > found.tolerance

    enough = float(found.tolerance) + 1
    low, high = 0, most
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
        khz = spec.sites[0].khz
        return Breaks(
            -(-high * 1_000_000 // khz), confirmed.value, safe * 1_000_000 // khz if safe >= 0 else None
        ), confirmed
    return None, None
