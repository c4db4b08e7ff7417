"""What the suspend thread's asks are made with: pairs of instants, names, events, and what a clock may be off by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guestclock.checks.asks import Ask, Instant, events_of, scaled
from guestclock.checks.suspend.setting import SECTION_NS, Outcome
from guestclock.checks.suspend.views import CpuSpan, View
from guestclock.checks.suspend.views import of as views_of

RATES_NS = 10_000 + 2 * SECTION_NS
"""What the roundings of clocksources' multipliers (0.1 ppm) make over the seconds that the host runs around a stop, and
two clocks that are read one after the other in one section of the kernel, before the stop and after it.
"""

RATE_PPB = 200
"""... and over a sleep that runs through MONOTONIC as well."""

TRUNCATED_NS = 3
"""What kvmclock loses across snapshots: one by the page's shift, one by each snapshot's floor, a lost cycle."""

Value = Callable[[Any], Any]


def ask(
    sense: str,
    unit: str,
    who: str,
    id_: str,
    events: tuple[int, ...],
    instants: tuple[Instant, ...],
    ordered: tuple[tuple[str, str], ...],
    value: Value,
    at_most: tuple[tuple[str, str, int], ...] = (),
    at_least: tuple[tuple[str, str, int], ...] = (),
    tolerance: int = 0,
) -> Ask:
    """Truncation is not forgiven here as such: whole milliseconds are what one of the designs truncates to."""
    return Ask(sense, unit, who, id_, events, instants, ordered, value, at_most, at_least, tolerance, False)


def ns(outcome: Outcome, units: Any) -> Any:
    """Units of time as ns, exact."""
    return scaled(units, 1_000_000, outcome.setting.host_khz)


def counts_in(outcome: Outcome, ns: int) -> int:
    """ns as what the guest's counters count in it."""
    return ns * outcome.setting.guest_khz // 1_000_000


def view_events(*views: View) -> tuple[int, ...]:
    return tuple(dict.fromkeys(n for view in views for n in view.events))


def in_turn(*vcpus: int) -> str:
    """Those vCPUs in words, each once."""
    return ", then ".join(dict.fromkeys(f"vCPU {vcpu}" for vcpu in vcpus))


def pair(sense: str, who: str, one: View, other: View, value: Value, tolerance: int = 0) -> Ask:
    """Of an instant "a" in one view and a later one, "b", in another."""
    return ask(
        sense, "ns", f"{who}, {in_turn(one.vcpu, other.vcpu)}", f"{who} {sense} {one.id} {other.id}",
        view_events(one, other), (one.instant("a"), other.instant("b")), (("a", "b"),), value, tolerance=tolerance,
    )  # fmt: skip


def span_pair(sense: str, who: str, one: CpuSpan, other: CpuSpan, value: Value, unit: str, tolerance: int = 0) -> Ask:
    """The same of counters, which no timekeeper has to do with."""
    return ask(
        sense, unit, f"{who}, {in_turn(one.vcpu, other.vcpu)}",
        f"{who} {sense} {one.vcpu}@{one.step} {other.vcpu}@{other.step}", events_of(one, other),
        (Instant.within("a", one), Instant.within("b", other)), (("a", "b"),), value,
        tolerance=tolerance,
    )  # fmt: skip


def count(outcome: Outcome, sense: str, unit: str, who: str, value: int) -> Ask:
    """Something counted at the end of a case."""
    events = tuple(range(len(outcome.world.events)))
    return ask(sense, unit, who, f"{sense} {who}", events, (), (), lambda t: value)


def rates_ns(outcome: Outcome) -> int:
    """What multipliers' roundings make where a sleep runs through a clock."""
    return RATES_NS + sum(night.most_ns for night in outcome.setting.nights) * RATE_PPB // 10**9


def error_ns(outcome: Outcome) -> int:
    """By how much BOOTTIME and REALTIME may be off: what the host believes wrongly, and multipliers' roundings."""
    return rates_ns(outcome) + outcome.setting.rtc_error_ns


def first_view(outcome: Outcome) -> View | None:
    """A view from before the first sleep, of vCPU 0."""
    views = [v for v in views_of(outcome) if v.slept == 0 and v.kernel == 0 and v.vcpu == 0 and not v.keeper.index]
    return views[-1] if views else None
