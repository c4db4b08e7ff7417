"""A trace told step by step: what was read after which step, of which VM, at which rate, at which instant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from guestclock.abi.pvclock import PvclockVcpuTimeInfo
from guestclock.arith import scale_tsc
from guestclock.check.span import Span
from guestclock.sim.timeline import PS_PER_S
from guestclock.sim.trace import Trace
from guestclock.vmm.clocks import ARM64, CLOCKS, clocks_of

CLOCK_TSC_STABLE = 2
CLOCK_HOST_TSC = 8

COARSE_HZ = 10**9
"""A counter below this rate is coarse: its tick is longer than the nanosecond that errors are told in."""

Frequency = int | Fraction


@dataclass(frozen=True, slots=True)
class Rate:
    """A guest counter's rate against the host's: ratio with frac_bits fraction bits; 1 and 0 where nothing scales."""

    ratio: int = 1
    frac_bits: int = 0

    def scale(self, host: int) -> int:
        return scale_tsc(host, self.ratio, self.frac_bits) if self.frac_bits else host

    def of(self, host_hz: Frequency) -> Fraction:
        """Guest cycles a second where the host counts host_hz."""
        return Fraction(host_hz) * Fraction(self.ratio, 1 << self.frac_bits)


@dataclass(frozen=True, slots=True)
class Instant:
    """When something was read: true time, ps, and the host's counter where it was read along.

    line: which continuous line of the host's counter that is (a sleep that resets the counter begins another).
    """

    at_ps: Span
    counter: Span | None = None
    line: int = 0


@dataclass(frozen=True, slots=True)
class Count:
    """What one of a vCPU's counters showed (u64), and when."""

    value: int
    when: Instant


@dataclass(frozen=True, slots=True)
class Reading:
    """What one vCPU's clocks showed: its counters by name, and on x86 its page and kvmclock (ns, None without).

    source: "peek" (from outside) or "guest" (read by the guest itself). How often until then: pauses, the host slept or
    the TSCs were stopped, times in which no guest looks at a clock; moves, something was done that moves this vCPU's
    counters; pages, its page was registered, perhaps elsewhere. in_run: its thread is in KVM_RUN meanwhile, and its
    page may be half written. apart: on arm64 CNTPCT minus CNTVCT at one instant, ticks; None where one is unknown.
    On arm64, where nothing but the VMM moves a counter: fresh, no vCPU of its VM has run yet, so that no guest has seen
    its counters; away, from when one was last in the guest until its counters had been moved, the last time they were.
    """

    step: int
    vm: int
    vcpu: int
    source: str
    counts: Mapping[str, Count]
    rate: Rate
    page: PvclockVcpuTimeInfo | None = None
    kvmclock_ns: int | None = None
    apart: Span | None = None
    pauses: int = 0
    moves: int = 0
    pages: int = 0
    in_run: bool = False
    fresh: bool = False
    away: tuple[Instant, Instant] | None = None

    @property
    def when(self) -> Instant:
        """The instant of its first counter, which the page, too, is read with."""
        return next(iter(self.counts.values())).when

    @property
    def tsc(self) -> int:
        return self.counts["tsc"].value

    @property
    def stable(self) -> bool:
        return self.page is not None and self.page.stable and self.kvmclock_ns is not None

    def shows(self, clock: str) -> bool:
        """Whether that clock was read."""
        return clock in self.counts if CLOCKS[clock].counts else self.kvmclock_ns is not None

    def value(self, clock: str) -> int:
        """What it showed, in the clock's unit."""
        if CLOCKS[clock].counts:
            return self.counts[clock].value
        assert self.kvmclock_ns is not None
        return self.kvmclock_ns

    def instant(self, clock: str) -> Instant:
        return self.counts[clock].when if CLOCKS[clock].counts else self.when


@dataclass(frozen=True, slots=True)
class VmClock:
    """An answer of KVM_GET_CLOCK: ns, flags (2 TSC_STABLE, 4 REALTIME, 8 HOST_TSC), and when."""

    clock_ns: int
    flags: int
    realtime_ns: int
    when: Instant


@dataclass(slots=True)
class Look:
    """One step of the scenario and what every clock showed after it.

    step: -1 is the start. readings: the last one of each vCPU. host: value and true time (ps) of each host clock.
    answers: what was read of registers by themselves, (vCPU, register, value). troubles: what the kernel refused, and
    what could not be done for it.
    """

    step: int
    say: str
    do: str
    start_ps: int
    vm: int = -1
    end_ps: int = 0
    vcpus: int = 0
    readings: dict[int, Reading] = field(default_factory=dict)
    clock: VmClock | None = None
    host: dict[str, tuple[int, Span]] = field(default_factory=dict)
    answers: list[tuple[int, str, int]] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    @property
    def looked(self) -> bool:
        return bool(self.readings)

    @property
    def at_ps(self) -> int:
        """True time of the look (middle of its first reading), or of the step's end where nothing was read."""
        for reading in self.readings.values():
            return reading.when.at_ps.middle
        return self.end_ps

    def showing(self, clock: str) -> dict[int, Reading]:
        """The vCPUs whose clock of that name was read, in order."""
        return {vcpu: reading for vcpu, reading in sorted(self.readings.items()) if reading.shows(clock)}


@dataclass(slots=True)
class Story:
    """A trace's looks and all its readings, in the order in which they were taken.

    hz: the host counter's true rate. nominal_hz: the one that the kernel reckons with. start: what it showed at true
    time 0, where that is known.
    """

    trace: Trace
    arch: str
    hz: Frequency
    nominal_hz: int
    start: int | None
    looks: list[Look]
    readings: list[Reading]

    @property
    def clocks(self) -> tuple[str, ...]:
        """The clocks that its guests have."""
        return clocks_of(self.arch)

    @property
    def host_counter(self) -> str:
        """Under which name a look has the host's counter."""
        return "counter" if self.arch == ARM64 else "tsc"

    def pairs(self, clock: str) -> Iterator[tuple[Reading, Reading]]:
        """Each reading with the one before it of the same vCPU of the same VM; of a counter, those that have it.

        What a guest has never seen is before nothing.
        """
        before: dict[tuple[int, int], Reading] = {}
        for reading in self.readings:
            if reading.fresh or (CLOCKS[clock].counts and not reading.shows(clock)):
                continue
            key = reading.vm, reading.vcpu
            if key in before:
                yield before[key], reading
            before[key] = reading

    def told(self, clock: str) -> list[Reading]:
        """The readings of a clock that a guest may have seen; where none ever ran, all."""
        shown = [reading for reading in self.readings if reading.shows(clock)]
        return [reading for reading in shown if not reading.fresh] or shown

    def elapsed(self, rate: Rate, since: Instant, until: Instant) -> Span:
        """How many cycles or ticks a guest's counter of that rate counts from one instant to another.

        Exact bounds: through the host's counter where it was read at both ends and ran through, else through true time,
        one wider at either side for the two counters' own truncations.
        """
        a, b = since.counter, until.counter
        if a is not None and b is not None and since.line == until.line:
            return Span(rate.scale(b.lo) - rate.scale(a.hi), rate.scale(b.hi) - rate.scale(a.lo))
        hz, passed_ps = rate.of(self.hz), until.at_ps - since.at_ps
        return Span(floor(hz * passed_ps.lo / PS_PER_S) - 1, ceil(hz * passed_ps.hi / PS_PER_S) + 1)

    def true_ps(self, when: Instant) -> Span:
        """The true time with which what was read then is compared, ps.

        A coarse counter has shown its value since its tick began, and so has every clock that is made of it: that is
        the instant meant, not the one within the tick at which it was read.
        """
        if when.counter is None or self.start is None or when.line or self.hz >= COARSE_HZ:
            return when.at_ps
        first, last = (
            (count - self.start) * PS_PER_S / Fraction(self.hz) for count in (when.counter.lo, when.counter.hi)
        )
        return Span(floor(first), ceil(last))


def floor(x: Fraction | int) -> int:
    return x.__floor__()


def ceil(x: Fraction | int) -> int:
    return x.__ceil__()
