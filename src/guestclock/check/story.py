"""A trace told step by step: what was read after which step, of which VM, at which rate, at which instant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from guestclock.abi.pvclock import PvclockVcpuTimeInfo
from guestclock.arith import scale_tsc, tsc_khz_tolerance, tsc_ratio
from guestclock.check.span import Span
from guestclock.errors import UserError
from guestclock.sim.timeline import PS_PER_S
from guestclock.sim.trace import Event, Trace

CLOCK_TSC_STABLE = 2
CLOCK_REALTIME = 4
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

    source: "peek" (from outside) or "guest" (read by the guest itself).
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
        return Span(_floor(hz * passed_ps.lo / PS_PER_S) - 1, _ceil(hz * passed_ps.hi / PS_PER_S) + 1)


def story(trace: Trace) -> Story:
    """Reads a trace. Raises UserError where its first line does not say the host's TSC rate."""
    khz = trace.meta.get("tsc_khz")
    if not isinstance(khz, int) or khz <= 0:
        raise UserError(f"trace: tsc_khz: expected the host's TSC rate in kHz, got {khz!r}")
    hz = Fraction(trace.meta.get("tsc_hz") or khz * 1000)
    return _Reader(trace, khz, hz).read()


class _Reader:
    def __init__(self, trace: Trace, khz: int, hz: Fraction) -> None:
        self.trace, self.khz, self.hz = trace, khz, hz
        self.frac_bits = trace.meta.get("tsc_frac_bits") or 0
        self.ppm = trace.meta.get("tsc_tolerance_ppm", 250)
        self.looks: list[Look] = []
        self.readings: list[Reading] = []
        self.vm = -1
        self.default_rate = Rate()
        self.rates: dict[tuple[int, int], Rate] = {}
        self.in_l2: set[tuple[int, int]] = set()
        self.line = 0
        self.start: int | None = trace.meta.get("tsc_start")
        self.anchor: tuple[int, Span] | None = None

    def read(self) -> Story:
        for event in self.trace.events:
            if event.kind == "step":
                say, do = event.name, event.data.get("do", "")
                self.looks.append(Look(event.data["index"], say, do, event.start_ps, self.vm, event.start_ps))
                continue
            if not self.looks:
                self.looks.append(Look(-1, "start", "", event.start_ps))
            self.looks[-1].end_ps = event.end_ps
            getattr(self, f"on_{event.kind}", _nothing)(event)
        for look in self.looks:
            look.vcpus = sum(vm == look.vm for vm, _ in self.rates)
        return Story(self.trace, self.khz, self.hz, self.looks, self.readings)

    def on_op(self, event: Event) -> None:
        look, asked = self.looks[-1], event.data.get("op", {})
        vcpu: Any = asked.get("vcpu")
        if "error" in event.data:
            return
        result: Any = event.data.get("result")
        match event.name:
            case "CreateVm":
                self.vm = look.vm = result
                look.readings.clear()
                self.default_rate = Rate()
            case "CreateVcpu":
                self.rates[asked["vm"], result] = self.default_rate
            case "SetTscKhz" if vcpu is None:
                self.default_rate = self.rate(asked["khz"])
            case "SetTscKhz":
                self.rates[asked["vm"], vcpu] = self.rate(asked["khz"])
            case "HostSleep" if asked.get("tsc", "running") != "running":
                self.line, self.anchor = self.line + 1, None
            case "Run":
                self.on_run(asked["vm"], vcpu, [a["action"] for a in asked["actions"]])
            case "GetClock":
                host_tsc = result["host_tsc"] if result["flags"] & CLOCK_HOST_TSC else None
                when = self.instant(event, None if host_tsc is None else (host_tsc, host_tsc))
                look.clock = VmClock(result["clock_ns"], result["flags"], result["realtime_ns"], when)

    def on_run(self, vm: int, vcpu: int, actions: list[str]) -> None:
        if "EnterL2" in actions:
            self.in_l2.add((vm, vcpu))
        if "ExitL2" in actions:
            self.in_l2.discard((vm, vcpu))

    def on_note(self, event: Event) -> None:
        if event.name == "refused":
            self.looks[-1].troubles.append(f"{event.data['op']} refused: {event.data['errno']}")
        elif event.name == "left out":
            self.looks[-1].troubles.append(f"left out: '{event.data['missing']}' was never saved")

    def on_host(self, event: Event) -> None:
        value = event.data.get("value")
        if isinstance(value, int):
            self.looks[-1].host[event.name] = value, Span(event.start_ps, event.end_ps)
            if event.name == "tsc":
                self.anchor = value, Span(event.start_ps, event.end_ps)

    def on_peek(self, event: Event) -> None:
        self.reading(event)

    def on_guest(self, event: Event) -> None:
        # In L2 the guest's RDTSC shows L2's TSC: not a point of the line that the others lie on.
        if (self.vm, event.vcpu) not in self.in_l2:
            self.reading(event)

    def reading(self, event: Event) -> None:
        data, vcpu = event.data, event.vcpu
        assert vcpu is not None, "a reading of a vCPU says which"
        page = PvclockVcpuTimeInfo(**data["page"]) if data["page"] else None
        rate = self.rates.get((self.vm, vcpu), Rate())
        look = self.looks[-1]
        reading = Reading(
            look.step, self.vm, vcpu, event.kind, data["tsc"], page, data["kvmclock_ns"],
            self.instant(event, data["host_tsc"]), rate,
        )  # fmt: skip
        look.readings[vcpu] = reading
        self.readings.append(reading)

    def rate(self, khz: int) -> Rate:
        """What a successful KVM_SET_TSC_KHZ makes of a guest's rate: nothing within tolerance, or without scaling."""
        lo, hi = tsc_khz_tolerance(self.khz, self.ppm)
        if khz == 0 or lo <= khz <= hi or not self.frac_bits:
            return Rate()
        return Rate(tsc_ratio(khz, self.khz, self.frac_bits), self.frac_bits)

    def instant(self, event: Event, host_tsc: Any) -> Instant:
        """An event's instant, as narrow as its own bounds and the counter make it."""
        at_ps = Span(event.start_ps, event.end_ps)
        if host_tsc is None:
            return Instant(at_ps)
        host = Span(*host_tsc)
        followed = self.followed(host)
        if followed is None:
            return Instant(at_ps, host, self.line)
        both = at_ps.common(followed)
        if both is None:  # this CPU's counter is on a line of its own: true time is what is left
            return Instant(at_ps)
        return Instant(both, host, self.line)

    def followed(self, host: Span) -> Span | None:
        """True time at a value of the host's TSC: from where it began, or after a reset from where it was last seen."""
        if self.line == 0 and self.start is not None:
            value, then_ps = self.start, Span(0, 0)
        elif self.anchor is not None:
            value, then_ps = self.anchor
        else:
            return None
        # A counter shows h from the instant it reaches h until just before it reaches h + 1.
        first, last = (host.lo - value) * PS_PER_S / self.hz, (host.hi + 1 - value) * PS_PER_S / self.hz
        if then_ps.width == 0 and self.start is not None and self.line == 0:
            return Span(_ceil(first), max(_ceil(first), _ceil(last) - 1))
        return then_ps + Span(_floor(first - PS_PER_S / self.hz), _ceil(last))


def _nothing(_: Event) -> None:
    pass


def _floor(x: Fraction | int) -> int:
    return x.__floor__()


def _ceil(x: Fraction | int) -> int:
    return x.__ceil__()
