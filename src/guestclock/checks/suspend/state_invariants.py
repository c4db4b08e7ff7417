"""Invariants of the suspend thread about what the guest's kernel keeps besides its clocks, and what it makes of them.

I5, I16 and I18 are about its state after each write of the timekeeper (`checks.suspend.states`); I17 about the
scheduler's clock, which no timekeeper has a hand in; I20 about the wall clock at rest. I14, the guest's wall clock read
together with the host's, is I20 and the host's own error, and is asked of traces alone (docs/traces.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from guestclock.checks.architectures import arch_of
from guestclock.checks.asks import Ask, Question, scaled
from guestclock.checks.suspend import invariants as _base
from guestclock.checks.suspend import views as _views
from guestclock.checks.suspend.invariants import TRUNCATED_NS
from guestclock.checks.suspend.setting import Outcome
from guestclock.checks.suspend.views import Reader, View
from guestclock.checks.windows import apart
from guestclock.linux.clocksource import calc_mult_shift
from guestclock.linux.ntp import NTP_PHASE_LIMIT_US, STA_UNSYNC
from guestclock.linux.sched_clock import cyc2ns_scale
from guestclock.vmm.clocks import ARM64

NS_PER_S = 10**9
_ask, _pair, _stops, _count, _first = _base._ask, _base._pair, _base._stops, _base._count, _base._first
_error_ns, _rates_ns = _base._error_ns, _base._rates_ns


# ---- what is kept twice


def twins(outcome: Outcome) -> Iterator[Ask]:
    """E1 to E3 after each write: each clock's offset is the same wherever the kernel keeps it.

    E4 to E8 are sums in the model, and hold by their making (linux.image).
    """
    for state in outcome.states.seen:
        for name, off in (
            ("wall_to_monotonic", state.offs_real_ns + state.wall_to_monotonic_ns),
            ("offs_tai", state.tai_less_real_ns - state.tai_offset * NS_PER_S),
            ("monotonic_to_boot", state.monotonic_to_boot_ns - state.offs_boot_ns),
        ):
            for sense, value in (("ahead of its twin", off), ("behind its twin", -off)):
                yield _ask(
                    sense, "ns", name, f"{name} {sense} {state.step}", (state.number,), (), (),
                    lambda t, value=value: value,  # type: ignore[misc]
                )  # fmt: skip


def at_rest(outcome: Outcome) -> Iterator[Ask]:
    """E9: after a write the tick's copy is the timekeeper. That pages are whole, `guestclock check` asks of recipes."""
    parted = sum(state.parted for state in outcome.states.seen)
    yield _count(outcome, "not in the tick's copy", "writes", "the timekeeper", parted)


def ntp_forgets(outcome: Outcome) -> Iterator[Ask]:
    """After an injection that moves the wall clock NTP says that it knows nothing, and keeps its frequency."""
    wrong = 0
    states = outcome.states.seen
    for before, state in pairwise(states):
        if state.kernel != before.kernel or state.injections == before.injections or state.parted:
            continue
        if state.offs_real_ns is before.offs_real_ns:
            continue
        ntp = state.ntp
        forgot = ntp.status & STA_UNSYNC and ntp.maxerror_us >= NTP_PHASE_LIMIT_US and not ntp.offset
        wrong += not (forgot and ntp.freq == before.ntp.freq)
    # What waits in the tick's copy became visible with a tick, which clears nothing.
    wrong += sum(
        one.parted and not other.parted and not other.ntp.status & STA_UNSYNC for one, other in pairwise(states)
    )
    if outcome.guest.page is not None or wrong:
        yield _count(outcome, "that left NTP in sync", "injections", "the guest", wrong)


# ---- the scheduler's clock


def _scale(outcome: Outcome) -> tuple[int, int]:
    """(mult, shift) by which it counts where it is no kvmclock."""
    khz = outcome.setting.guest_khz
    if arch_of(outcome.setting.kernel) == ARM64:
        return calc_mult_shift(khz * 1000, NS_PER_S, 3600)
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
    for one, other in _stops(outcome):
        if outcome.setting.has_page and not (reader.stable(one.cpu) and reader.stable(other.cpu)):
            continue  # last_value keeps these in order

        def gained(t: Any, one: View = one, other: View = other) -> Any:
            return _gained(outcome, reader, one, other, t)

        def ahead(t: Any, one: View = one, other: View = other, gained: Callable[[Any], Any] = gained) -> Any:
            return gained(t) - (reader.read("monotonic", other, t("b")) - reader.read("monotonic", one, t("a")))

        for sense, value, tolerance in (
            ("back", lambda t, gained=gained: -gained(t), TRUNCATED_NS),
            ("ahead of MONOTONIC", ahead, _rates_ns(outcome)),
            ("behind MONOTONIC", lambda t, ahead=ahead: -ahead(t), _rates_ns(outcome)),
        ):
            yield _pair(sense, "sched_clock over a stop", one, other, value, tolerance)


# ---- the wall clock


def realtime(outcome: Outcome) -> Iterator[Ask]:
    """In the last view of each vCPU REALTIME has gained what passed."""
    first, reader = _first(outcome), Reader(outcome)
    for last in _views.of(outcome):
        if first is None or not last.last or last.slept == 0 or last.kernel:
            continue

        def off(t: Any, last: View = last, first: View = first) -> Any:
            gained = reader.read("realtime", last, t("b")) - reader.read("realtime", first, t("a"))
            return gained - _base._ns(outcome, t("b") - t("a"))

        for sense, value in (("ahead", off), ("behind", lambda t, off=off: -off(t))):
            yield _pair(sense, "REALTIME at last", first, last, value, _error_ns(outcome))


_G = "invariants of a guest's clocks over a sleep of its host"

STATE_INVARIANTS = (
    Question("I5", "what the kernel keeps of a clock's offset twice is the same", _G, "a vDSO of its own", twins),
    Question("I16", "after each write the tick's copy is the timekeeper", _G, "a step is lost", at_rest),
    Question(
        "I17", "over a stop sched_clock does not go back, and gains as MONOTONIC does", _G, "whom time is charged to",
        sched_clock,
    ),
    Question(
        "I18", "after an injection NTP is unsynchronised, and keeps its frequency", _G, "a slew by old news",
        ntp_forgets,
    ),
    Question("I20", "at last REALTIME has gained what passed, give or take the host's error", _G, "stamps", realtime),
)  # fmt: skip
"""The numbers are those of the invariants of recorded traces."""

__all__ = ["STATE_INVARIANTS"]
