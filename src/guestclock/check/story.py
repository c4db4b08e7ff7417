"""A trace told step by step: what was read after which step, of which VM, at which rate, at which instant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from guestclock.abi.pvclock import PvclockVcpuTimeInfo
from guestclock.arith import scale_tsc
from guestclock.check.span import Span
from guestclock.sim.timeline import PS_PER_S
from guestclock.sim.trace import Trace

CLOCK_TSC_STABLE = 2
CLOCK_HOST_TSC = 8

Frequency = int | Fraction


@dataclass(frozen=True, slots=True)
class Rate:
    """A guest TSC's rate against the host's: ratio with frac_bits fraction bits; 1 and 0 where nothing scales."""

    ratio: int = 1
    frac_bits: int = 0

    def scale(self, host_tsc: int) -> int:
        return scale_tsc(host_tsc, self.ratio, self.frac_bits) if self.frac_bits else host_tsc

    def of(self, host_hz: Frequency) -> Fraction:
        """Guest cycles a second where the host counts host_hz."""
        return Fraction(host_hz) * Fraction(self.ratio, 1 << self.frac_bits)


@dataclass(frozen=True, slots=True)
class Instant:
    """When something was read: true time, ps, and the host's TSC where it was read along.

    line: which continuous line of the host's counter host_tsc lies on (a sleep that resets the counter begins another).
    """

    at_ps: Span
    host_tsc: Span | None = None
    line: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """What one vCPU's clocks showed at one instant: guest TSC (cycles, u64), its page, kvmclock (ns, None without).

    source: "peek" (from outside) or "guest" (read by the guest itself). How often until then: pauses, the host slept or
    the TSCs were stopped, times in which no guest looks at a clock; moves, something was done that moves this vCPU's
    TSC; pages, its page was registered, perhaps elsewhere. in_run: its thread is in KVM_RUN meanwhile, and its page
    may be half written.
    """

    step: int
    vm: int
    vcpu: int
    source: str
    tsc: int
    page: PvclockVcpuTimeInfo | None
    kvmclock_ns: int | None
    when: Instant
    rate: Rate
    pauses: int = 0
    moves: int = 0
    pages: int = 0
    in_run: bool = False

    @property
    def stable(self) -> bool:
        return self.page is not None and self.page.stable and self.kvmclock_ns is not None


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
    troubles: what the kernel refused, and what could not be done for it.
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


@dataclass(slots=True)
class Story:
    """A trace's looks and all its readings, in the order in which they were taken."""

    trace: Trace
    tsc_khz: int
    tsc_hz: Frequency
    looks: list[Look]
    readings: list[Reading]

    def pairs(self) -> Iterator[tuple[Reading, Reading]]:
        """Each reading with the one before it of the same vCPU of the same VM."""
        before: dict[tuple[int, int], Reading] = {}
        for reading in self.readings:
            key = reading.vm, reading.vcpu
            if key in before:
                yield before[key], reading
            before[key] = reading

    def elapsed_cycles(self, rate: Rate, since: Instant, until: Instant) -> Span:
        """How many cycles a guest TSC of that rate counts from one instant to another.

        Exact bounds: through the host's TSC where it was read at both ends and ran through, else through true time,
        one cycle wider at either side for the two counters' own truncations.
        """
        a, b = since.host_tsc, until.host_tsc
        if a is not None and b is not None and since.line == until.line:
            return Span(rate.scale(b.lo) - rate.scale(a.hi), rate.scale(b.hi) - rate.scale(a.lo))
        hz, passed_ps = rate.of(self.tsc_hz), until.at_ps - since.at_ps
        return Span(floor(hz * passed_ps.lo / PS_PER_S) - 1, ceil(hz * passed_ps.hi / PS_PER_S) + 1)


def floor(x: Fraction | int) -> int:
    return x.__floor__()


def ceil(x: Fraction | int) -> int:
    return x.__ceil__()
