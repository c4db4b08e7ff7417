"""Reads a trace as a story: what was asked of KVM tells which VM, rate and line of the counter a reading belongs to."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from typing import Any

from guestclock.abi.msr import SYSTEM_TIME_MSRS
from guestclock.abi.pvclock import PvclockVcpuTimeInfo
from guestclock.arith import tsc_khz_tolerance, tsc_ratio
from guestclock.check.span import Span
from guestclock.check.story import (
    CLOCK_HOST_TSC,
    Instant,
    Look,
    Rate,
    Reading,
    Story,
    VmClock,
    ceil,
    floor,
)
from guestclock.check.unbroken import UnbrokenLines
from guestclock.errors import UserError
from guestclock.sim.timeline import PS_PER_S
from guestclock.sim.trace import Event, Trace


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
        self.in_run: set[tuple[int, int]] = set()
        self.pages: Counter[tuple[int, int]] = Counter()
        self.line = self.pauses = 0
        self.stopped = False
        self.unbroken = UnbrokenLines()
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
        self.narrow()
        return Story(self.trace, self.khz, self.hz, self.looks, self.readings)

    def narrow(self) -> None:
        """Readings of one unbroken line share the narrowest bounds, where the host's kernel trusts its TSC."""
        if self.trace.meta.get("clocksource", "tsc") != "tsc":
            return
        place = {}
        for reading, host in self.unbroken.narrowed():
            followed = self.followed(host) if reading.when.line == self.line else None
            at_ps = reading.when.at_ps if followed is None else reading.when.at_ps.common(followed)
            when = Instant(at_ps or reading.when.at_ps, host, reading.when.line)
            place[id(reading)] = replace(reading, when=when)
        self.readings = [place.get(id(reading), reading) for reading in self.readings]
        for look in self.looks:
            look.readings = {v: place.get(id(reading), reading) for v, reading in look.readings.items()}

    def on_op(self, event: Event) -> None:
        look, asked = self.looks[-1], event.data.get("op", {})
        vcpu: Any = asked.get("vcpu")
        self.unbroken.on_op(event.name, asked)
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
            case "HostSleep":
                self.pauses += 1
                if asked.get("tsc", "running") != "running":
                    self.line, self.anchor = self.line + 1, None
            case "StopAllTscs" | "StartAllTscs":
                self.stopped = event.name == "StopAllTscs"
                self.pauses += 1
            case "Run":
                self.on_run((asked["vm"], vcpu), asked["actions"])
            case "Start":
                self.in_run.add((asked["vm"], vcpu))
            case "Kick":
                self.in_run.discard((asked["vm"], vcpu))
            case "EnableKvmclock":
                self.pages[asked["vm"], vcpu] += 1
            case "SetMsr" if asked["index"] in SYSTEM_TIME_MSRS:
                self.pages[asked["vm"], vcpu] += 1
            case "GetClock":
                host_tsc = result["host_tsc"] if result["flags"] & CLOCK_HOST_TSC else None
                when = self.instant(event, None if host_tsc is None else (host_tsc, host_tsc))
                look.clock = VmClock(result["clock_ns"], result["flags"], result["realtime_ns"], when)

    def on_run(self, which: tuple[int, int], actions: list[dict[str, Any]]) -> None:
        for action in actions:
            match action["action"]:
                case "EnterL2":
                    self.in_l2.add(which)
                case "ExitL2":
                    self.in_l2.discard(which)
                case "Wrmsr" if action["index"] in SYSTEM_TIME_MSRS:
                    self.pages[which] += 1

    def on_note(self, event: Event) -> None:
        if event.name == "refused":
            self.looks[-1].troubles.append(f"{event.data['op']} refused: {event.data['errno']}")
        elif event.name == "left out":
            self.looks[-1].troubles.append(f"left out: '{event.data['missing']}' was never saved")

    def on_host(self, event: Event) -> None:
        value = event.data.get("value")
        if isinstance(value, int):
            when = self.instant(event, (value, value) if event.name == "tsc" else None)
            self.looks[-1].host[event.name] = value, when.at_ps
            if event.name == "tsc":
                self.anchor = value, Span(event.start_ps, event.end_ps)

    def on_peek(self, event: Event) -> None:
        self.reading(event)

    def on_guest(self, event: Event) -> None:
        # In L2 the guest's RDTSC shows L2's TSC: not a point of the line that the others lie on.
        if (event.data.get("vm", self.vm), event.vcpu) not in self.in_l2:
            self.reading(event)

    def reading(self, event: Event) -> None:
        data, vcpu = event.data, event.vcpu
        assert vcpu is not None, "a reading of a vCPU says which"
        page = PvclockVcpuTimeInfo(**data["page"]) if data["page"] else None
        which = vm, vcpu = data.get("vm", self.vm), vcpu
        self.pauses += self.stopped
        look = self.looks[-1]
        reading = Reading(
            look.step, vm, vcpu, event.kind, data["tsc"], page, data["kvmclock_ns"],
            self.instant(event, data["host_tsc"]), self.rates.get(which, Rate()), self.pauses,
            moves=self.unbroken.moves(vm, vcpu), pages=self.pages[which], in_run=which in self.in_run,
        )  # fmt: skip
        if vm == look.vm:
            look.readings[vcpu] = reading
        self.readings.append(reading)
        self.unbroken.add(reading)

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
            return Span(ceil(first), max(ceil(first), ceil(last) - 1))
        return then_ps + Span(floor(first - PS_PER_S / self.hz), ceil(last))


def _nothing(_: Event) -> None:
    pass
