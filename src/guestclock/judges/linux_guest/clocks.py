"""A guest kernel's clocks over an operation: what they gained, and what they are to gain by what its counters do.

A clock of the guest's is its counter (kvmclock, or the TSC), converted by its timekeeper, and a number that nothing
changes meanwhile: a stop, a save, a load do not tell the guest. Every reading lies between two values of the guest's
TSC and so leaves that number open within its sandwich; what all readings before the operation leave open, and what all
those after it do, must be one number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

from guestclock.check import Span
from guestclock.lab.guest_init import Reading
from guestclock.linux import Timekeeper, clocksource

HZ = 250
"""CONFIG_HZ of Debian's kernels."""

SETTLED_S = 10

Counter = Callable[[int], Span]
"""The guest's counter where the lab's TSC is so much: all that it can be."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A timekeeper's: counts times mult, shifted, are ns."""

    mult: int
    shift: int

    def ns(self, counted: int) -> Fraction:
        """What so many counts are, ns, exact."""
        return Fraction(counted * self.mult, 1 << self.shift)


@dataclass(frozen=True, slots=True)
class Reached:
    """A reading, as the lab's TSC before and after it."""

    before: int
    value_ns: int
    after: int

    @classmethod
    def of(cls, reading: Reading, host: Callable[[int], int]) -> Reached:
        return cls(host(reading.before), reading.value_ns, host(reading.after))


def rate(name: str, tsc_khz: int) -> Rate:
    """Of MONOTONIC, of all that is made of it, and of MONOTONIC_RAW, in a kernel that keeps time by that clocksource.

    They have one rate, as NTP steers nothing and a tick at 250 Hz is a whole number of ns, so that no tick changes it.
    """
    clock = clocksource(name, tsc_khz=tsc_khz)
    timekeeper = Timekeeper.start(clock, 0, hz=HZ, monotonic_ns=0, realtime_ns=0)
    timekeeper.tick_until(SETTLED_S * clock.freq * clock.scale)
    assert timekeeper.steady, name
    assert timekeeper.mono_mult == timekeeper.raw_mult, name
    return Rate(timekeeper.mono_mult, clock.shift)


def left_open(readings: Iterable[Reached], counter: Counter, rate: Rate, origin: int) -> Span | None:
    """The number by which a clock is ahead of what its counter has counted since `origin`, ns: all that it can be.

    None: there is no such number; these readings are not of one line.
    """
    found: Span | None = None
    for reading in readings:
        first, last = (counter(at) for at in (reading.before, reading.after))
        least, most = rate.ns(first.lo - origin), rate.ns(last.hi - origin)
        span = Span(floor(reading.value_ns - most), ceil(reading.value_ns + 1 - least))  # the clock is rounded down
        found = span if found is None else found.common(span)
        if found is None:
            return None
    return found
