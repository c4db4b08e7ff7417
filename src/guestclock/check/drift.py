"""Clock minus true time, at every reading: the table of errors, and the lines of the figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from guestclock.check.lines import Break, breaks
from guestclock.check.span import NEAR_ZERO, WORD, Span
from guestclock.check.story import Instant, Look, Reading, Story
from guestclock.sim.timeline import PS_PER_NS, PS_PER_S
from guestclock.vmm.clocks import CLOCKS

NS_PER_S = 10**9


@dataclass(frozen=True, slots=True)
class Point:
    """One reading's error, ns: clock minus true time since the first reading of that clock in the trace, which is 0.

    at_ps: true time, the middle of the reading. before: the error that the line had until then would have here; None
    for the first reading of a vCPU. A counter counts as time at the rate that the kernel reckons with (a TSC's
    calibrated kHz).
    """

    reading: Reading
    at_ps: int
    error_ns: Span
    before_ns: Span | None


def errors(story: Story, clock: str) -> dict[tuple[int, int], list[Point]]:
    """By (VM, vCPU), in the order in which they were read. Empty where nobody read such a clock."""
    broken = {id(b.after): b for b in breaks(story, clock)}
    zero_ps = zero(story, clock)
    found: dict[tuple[int, int], list[Point]] = {}
    for reading in story.told(clock):
        assert zero_ps is not None
        error = _error_ns(_as_ps(story, reading, clock) - zero_ps, story.true_ps(reading.instant(clock)))
        points = found.setdefault((reading.vm, reading.vcpu), [])
        before = _before(story, broken.get(id(reading)), error, points)
        points.append(Point(reading, reading.instant(clock).at_ps.middle, error, before))
    return found


def _before(story: Story, broken: Break | None, error: Span, points: Sequence[Point]) -> Span | None:
    if broken is None:
        return None
    if broken.before.rate != broken.after.rate:
        # Cycles of two rates are not one kind of time: the old line's error is taken to have stayed.
        return points[-1].error_ns
    return error - _as_ns(story, broken.after, broken.clock, broken.amount)


def zero(story: Story, clock: str) -> int | None:
    """What the first reading of that clock in the trace showed, minus true time: ps. None where there is none."""
    for reading in story.told(clock):
        return _as_ps(story, reading, clock) - story.true_ps(reading.instant(clock)).middle
    return None


def get_clock_error(story: Story, look: Look) -> Span | None:
    """KVM_GET_CLOCK minus true time on the same scale as `errors(story, "kvmclock")`, ns; None where nothing to say."""
    zero_ps = zero(story, "kvmclock")
    if zero_ps is None or look.clock is None:
        return None
    return _error_ns(look.clock.clock_ns * PS_PER_NS - zero_ps, story.true_ps(look.clock.when))


def host_error(story: Story, look: Look, clock: str) -> Span | None:
    """A host clock minus true time since that clock was first read, ns; its counter as time at the nominal rate."""
    first = next((seen.host[clock] for seen in story.looks if clock in seen.host), None)
    if first is None or clock not in look.host:
        return None
    (then, then_ps), (now, now_ps) = first, look.host[clock]
    passed = now - then + (WORD if then - now > WORD // 2 else 0)  # a counter that wrapped
    if clock != story.host_counter:
        return _error_ns(passed * PS_PER_NS, now_ps - then_ps)
    began, ended = (story.true_ps(Instant(ps, Span(value, value))) for value, ps in ((then, then_ps), (now, now_ps)))
    return _error_ns(round(Fraction(passed * PS_PER_S) / story.nominal_hz), ended - began)


def _error_ns(value_ps: int, true_ps: Span) -> Span:
    """value - true time, ns: bounds rounded outwards, or what is known to less than a ns rounded to the nearest."""
    raw = -true_ps + value_ps
    if raw.width < PS_PER_NS:
        half, middle = PS_PER_NS // 2, raw.middle
        return Span.of((middle + half) // PS_PER_NS if middle >= 0 else -((half - middle) // PS_PER_NS))
    return Span(raw.lo // PS_PER_NS, -(-raw.hi // PS_PER_NS))


def signed(value: int) -> int:
    """A u64 clock that stands a little before 0 as the negative number it is."""
    return value - WORD if value > WORD - NEAR_ZERO else value


def _as_ps(story: Story, reading: Reading, clock: str) -> int:
    value = signed(reading.value(clock))
    if not CLOCKS[clock].counts:
        return value * PS_PER_NS
    return round(Fraction(value * PS_PER_S) / reading.rate.of(story.nominal_hz))


def _as_ns(story: Story, reading: Reading, clock: str, amount: Span) -> Span:
    return as_time(story, reading, amount) if CLOCKS[clock].counts else amount


def as_time(story: Story, reading: Reading, amount: Span) -> Span:
    """So many cycles or ticks of a reading's counters as ns, at the nominal rate, rounded to the nearest."""
    hz = reading.rate.of(story.nominal_hz)
    return Span(round(Fraction(amount.lo * NS_PER_S) / hz), round(Fraction(amount.hi * NS_PER_S) / hz))
