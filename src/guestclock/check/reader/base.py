"""Reads a trace as a story: what was asked of KVM tells which VM, rate and line of the counter a reading belongs to."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

from guestclock.check.span import Span
from guestclock.check.story import Count, Instant, Look, Reading, Story, ceil, floor
from guestclock.check.unbroken import UnbrokenLines
from guestclock.sim.timeline import PS_PER_S
from guestclock.sim.trace import Event, Trace


class Reader:
    """What every architecture's trace has; a subclass reads the rest. hz: the host counter's true rate."""

    arch: str
    counter: str
    """Under which name the host's counter is read."""

    def __init__(self, trace: Trace, hz: Fraction, nominal_hz: int, start: int | None) -> None:
        self.trace, self.hz, self.nominal_hz, self.start = trace, hz, nominal_hz, start
        self.looks: list[Look] = []
        self.readings: list[Reading] = []
        self.vm = -1
        self.vcpus: set[tuple[int, int]] = set()
        self.in_l2: set[tuple[int, int]] = set()
        self.in_run: set[tuple[int, int]] = set()
        self.line = self.pauses = 0
        self.unbroken = UnbrokenLines()
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
            look.vcpus = sum(vm == look.vm for vm, _ in self.vcpus)
        if self.trusted():
            self.narrow()
        return Story(self.trace, self.arch, self.hz, self.nominal_hz, self.start, self.looks, self.readings)

    # ---- what an architecture says

    def trusted(self) -> bool:
        """Whether the host's kernel takes its counter for its clock."""
        return True

    def moves(self, event: Event, asked: dict[str, Any]) -> None:
        """Tells `unbroken` of an operation after which counters may be on another line, also if it was refused."""
        raise NotImplementedError

    def done(self, event: Event, asked: dict[str, Any], result: Any) -> None:
        """An operation that was carried out, besides what is the same everywhere."""

    def seen(self, event: Event) -> Reading:
        """The reading that a peek's or a guest's event tells of."""
        raise NotImplementedError

    # ---- events

    def on_op(self, event: Event) -> None:
        look, asked = self.looks[-1], event.data.get("op", {})
        self.moves(event, asked)
        if "error" in event.data:
            return
        result: Any = event.data.get("result")
        match event.name:
            case "CreateVm":
                self.vm = look.vm = result
            case "CreateVcpu":
                self.vcpus.add((asked["vm"], result))
            case "HostSleep":
                self.pauses += 1
            case "Run":
                for action in asked["actions"]:
                    if action["action"] == "EnterL2":
                        self.in_l2.add((asked["vm"], asked["vcpu"]))
                    elif action["action"] == "ExitL2":
                        self.in_l2.discard((asked["vm"], asked["vcpu"]))
            case "Start":
                self.in_run.add((asked["vm"], asked["vcpu"]))
            case "Kick":
                self.in_run.discard((asked["vm"], asked["vcpu"]))
        self.done(event, asked, result)

    def on_note(self, event: Event) -> None:
        if event.name == "refused":
            self.looks[-1].troubles.append(f"{event.data['op']} refused: {event.data['errno']}")
        elif event.name == "left out":
            why = event.data.get("why")
            missing = f"'{event.data['missing']}' was never saved" if why is None else f"{event.data['missing']} {why}"
            self.looks[-1].troubles.append(f"left out: {missing}")

    def on_host(self, event: Event) -> None:
        value = event.data.get("value")
        if not isinstance(value, int) or event.name == "cntfrq":  # a rate is no clock
            return
        is_counter = event.name == self.counter
        when = self.instant(event, (value, value) if is_counter else None)
        self.looks[-1].host[event.name] = value, when.at_ps
        if is_counter:
            self.anchor = value, Span(event.start_ps, event.end_ps)

    def on_peek(self, event: Event) -> None:
        self.reading(event)

    def on_guest(self, event: Event) -> None:
        # In L2 the guest's counter shows L2's: not a point of the line that the others lie on.
        if (event.data.get("vm", self.vm), event.vcpu) not in self.in_l2:
            self.reading(event)

    def reading(self, event: Event) -> None:
        assert event.vcpu is not None, "a reading of a vCPU says which"
        reading, look = self.seen(event), self.looks[-1]
        if reading.vm == look.vm:
            look.readings[reading.vcpu] = reading
        self.readings.append(reading)
        self.unbroken.add(reading)

    # ---- instants

    def narrow(self) -> None:
        """Readings of one unbroken line share the narrowest bounds."""
        place: dict[int, Reading] = {}
        for reading, clock, host in self.unbroken.narrowed():
            count = reading.counts[clock]
            followed = self.followed(host) if count.when.line == self.line else None
            at_ps = count.when.at_ps if followed is None else count.when.at_ps.common(followed)
            when = Instant(at_ps or count.when.at_ps, host, count.when.line)
            now = place.get(id(reading), reading)
            place[id(reading)] = replace(now, counts={**now.counts, clock: Count(count.value, when)})
        for reading, apart in self.unbroken.apart():
            place[id(reading)] = replace(place.get(id(reading), reading), apart=apart)
        self.readings = [place.get(id(reading), reading) for reading in self.readings]
        for look in self.looks:
            look.readings = {v: place.get(id(reading), reading) for v, reading in look.readings.items()}

    def instant(self, event: Event, counter: Any) -> Instant:
        """An event's instant, as narrow as its own bounds and the counter make it."""
        at_ps = Span(event.start_ps, event.end_ps)
        if counter is None:
            return Instant(at_ps)
        host = Span(*counter)
        followed = self.followed(host)
        if followed is None:
            return Instant(at_ps, host, self.line)
        both = at_ps.common(followed)
        if both is None:  # this CPU's counter is on a line of its own: true time is what is left
            return Instant(at_ps)
        return Instant(both, host, self.line)

    def followed(self, host: Span) -> Span | None:
        """True time at a value of the host's counter: from where it began, or after a reset from where it was seen."""
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
