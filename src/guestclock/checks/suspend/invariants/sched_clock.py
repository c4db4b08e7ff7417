"""The scheduler's clock over a stop: a clock of its own, which no timekeeper has a hand in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from guestclock.checks.architectures import arch_of
from guestclock.checks.asks import Ask, scaled
from guestclock.checks.suspend.invariants.asking import TRUNCATED_NS, pair, rates_ns
from guestclock.checks.suspend.invariants.stops import stops
from guestclock.checks.suspend.setting import Outcome, S
from guestclock.checks.suspend.views import Reader, View
from guestclock.checks.windows import apart
from guestclock.linux.clocksource import calc_mult_shift
from guestclock.linux.sched_clock import cyc2ns_scale
from guestclock.vmm.clocks import ARM64


def _scale(outcome: Outcome) -> tuple[int, int]:
    """(mult, shift) by which it counts where it is no kvmclock."""
    khz = outcome.setting.guest_khz
    if arch_of(outcome.setting.kernel) == ARM64:
        return calc_mult_shift(khz * 1000, S, 3600)
    return cyc2ns_scale(khz)


def _asleep(outcome: Outcome, one: View, other: View) -> Any:
    """What the counter counted between them while the guest was itself suspended: sched_clock stands still then."""
    total: Any = 0
    for before, after in pairwise(outcome.tracker.keepers()):
        if before.asleep and not after.asleep and one.keeper.index < after.index <= other.keeper.index:
            total = total + apart(after.tk.cycle_last, before.tk.cycle_last)
    return total


def _gained(outcome: Outcome, reader: Reader, one: View, other: View, t: Any) -> Any:
    """What sched_clock gains from "a" in one view to "b" in the other, ns."""
    if outcome.setting.has_page:
        return apart(reader.kvmclock(other.cpu, t("b")), reader.kvmclock(one.cpu, t("a")))
    mult, shift = _scale(outcome)
    counted = apart(reader.clock_counter(other.cpu, t("b")), reader.clock_counter(one.cpu, t("a")))
    return scaled(counted - _asleep(outcome, one, other), mult, 1 << shift)


def sched_clock(outcome: Outcome) -> Iterator[Ask]:
    """Over a stop it does not go back, and gains what MONOTONIC gains."""
    reader = Reader(outcome)
    if reader.mono_is_boot:
        return
    for one, other in stops(outcome):
        if outcome.setting.has_page and not (reader.stable(one.cpu) and reader.stable(other.cpu)):
            continue  # last_value keeps these in order

        def gained(t: Any, one: View = one, other: View = other) -> Any:
            return _gained(outcome, reader, one, other, t)

        def ahead(t: Any, one: View = one, other: View = other, gained: Callable[[Any], Any] = gained) -> Any:
            return gained(t) - (reader.read("monotonic", other, t("b")) - reader.read("monotonic", one, t("a")))

        for sense, value, tolerance in (
            ("back", lambda t, gained=gained: -gained(t), TRUNCATED_NS),
            ("ahead of MONOTONIC", ahead, rates_ns(outcome)),
            ("behind MONOTONIC", lambda t, ahead=ahead: -ahead(t), rates_ns(outcome)),
        ):
            yield pair(sense, "sched_clock over a stop", one, other, value, tolerance)
