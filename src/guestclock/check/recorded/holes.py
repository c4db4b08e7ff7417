"""I6, I8, I22, I23: what a stop takes from MONOTONIC and from the counter, and what a new vCPU's counter shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from guestclock.check.recorded.block import Block, Ints
from guestclock.check.recorded.checking import Check, Finding
from guestclock.check.recorded.columns import COUNTER, FAST, MONOTONIC, Event
from guestclock.check.recorded.header import NS_PER_S, Header
from guestclock.check.recorded.monotone import NeverBack

COUNTER_SLACK_NS = 1_000
ABORTED_SLACK_NS = 1_000
BACK_IN_NS = 100_000_000


@dataclass(slots=True)
class Stop:
    """One stop, up to the first readings after it. low, high: MONOTONIC when the guest left, at least and at most."""

    stopped: Event
    low: int
    high: int
    at: str
    resumed: Event | None = None
    aborted: bool = False
    slept_ns: int = 0


class Stops:
    """Follows stops and measures the hole in MONOTONIC of each: (stop, least, most, where its end was read)."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.current: Stop | None = None
        self.low: tuple[int, int, int, bool, str] | None = None

    def stop(self, event: Event) -> None:
        self.current = None
        if self.low is not None:
            value, c0, c1, has_c, at = self.low
            ran_low, ran_high = self._ran(c0, c1, event.c0, event.c1, has_c)
            self.current = Stop(event, value + ran_low, value + ran_high, at)

    def resume(self, event: Event) -> None:
        if self.current is not None:
            self.current.resumed = event

    def readings(self, block: Block) -> tuple[Stop, int, int, str] | None:
        rows = np.flatnonzero((block.clock == MONOTONIC) & (block.path != FAST))
        if not len(rows):
            return None
        found, stop = None, self.current
        if stop is not None and stop.resumed is not None:
            row = int(rows[np.argmin(block.value[rows])])
            value, has_c = int(block.value[row]), bool(block.has_c[row])
            low, high = self._ran(
                stop.resumed.c0, stop.resumed.c1, int(block.c0[row]) % 2**64, int(block.c1[row]) % 2**64, has_c
            )
            least, most = value - high - stop.high, value - low - stop.low
            found = stop, least, most, block.at(row)
            self.current = None
        row = int(rows[np.argmax(block.value[rows])])
        self.low = (
            int(block.value[row]), int(block.c0[row]) % 2**64, int(block.c1[row]) % 2**64, bool(block.has_c[row]),
            block.at(row),
        )  # fmt: skip
        return found

    def _ran(self, c0: int | None, c1: int | None, d0: int | None, d1: int | None, told: bool) -> tuple[int, int]:
        """Between which amounts MONOTONIC advanced from the first sandwich to the second, ns: by the counter.

        Without one: nothing is known, and it is taken to be nothing at least.
        """
        hz = self.header.hz
        if hz is None or not told or c0 is None or c1 is None or d0 is None or d1 is None:
            return 0, (2**62)
        least, most = max(d0 - c1, 0) * NS_PER_S // hz, max(d1 - c0, 0) * NS_PER_S // hz
        ppm = self.header.rate_ppm
        return least - round(least * ppm * 1e-6) - 1, most + round(most * ppm * 1e-6) + 1


def host_ran(stop: Stop) -> int | None:
    """How long the host ran during a stop, on its CLOCK_MONOTONIC, ns."""
    return _between(stop, "host_monotonic_ns")


def _between(stop: Stop, name: str) -> int | None:
    if stop.resumed is None:
        return None
    before, after = stop.stopped.get(name), stop.resumed.get(name)
    return None if before is None or after is None else after - before


def allowed(stop: Stop, header: Header) -> tuple[int, int] | None:
    """What a stop may take of MONOTONIC by the design, ns: least and most. None where nothing is said about it."""
    ran = host_ran(stop)
    if header.design == "corrected":
        return 0, header.hole_ns
    if header.design == "v3" and ran is not None:
        return max(0, ran - header.rtc_error_ns), ran + header.rtc_error_ns
    if header.design == "running" and ran is not None:
        return 0, ran + header.hole_ns
    if header.design == "stock":
        passed = _between(stop, "host_boottime_ns")
        return None if passed is None else (0, passed + header.hole_ns)
    return None


class Holes(Check):
    number, name = 6, "hole"
    about = "a stop takes of MONOTONIC what the design says: v3 the time the host ran, corrected nothing"
    needs = "design, stop and resume rows, MONOTONIC before and after; sharp only with c0 and c1 in all of them"
    tolerance = "v3: rtc_error_ns; corrected: hole_ns; the guest's running time by the counter, ± rate_ppm"
    blind = "without the counter, all but a step back or less than v3 promises"

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.stops = Stops(header)

    def on_stop(self, event: Event) -> None:
        self.stops.stop(event)

    def on_resume(self, event: Event) -> None:
        self.stops.resume(event)

    def on_abort(self, event: Event) -> None:
        if self.stops.current is not None:
            self.stops.current.aborted = True

    def readings(self, block: Block) -> None:
        found = self.stops.readings(block)
        if found is None or found[0].aborted:
            return
        stop, least, most, at = found
        limits = allowed(stop, self.header)
        if limits is None:
            return
        self.compare()
        off = max(least - limits[1], limits[0] - most)
        if off > 0:
            what = "more" if least > limits[1] else "less"
            said = f"a stop took {what} of MONOTONIC than {self.header.design} may"
            about = {"clock": "MONOTONIC", "least": least, "most": most}
            self.violate(Finding(said, (stop.stopped.at, at), off, "ns", about))


class CounterKept(NeverBack):
    number, name = 8, "counter"
    about = "the counter never steps back, has one offset on all vCPUs, and over a stop moves as the design says"
    needs = "c0 and c1 (or readings of COUNTER); for the offsets h0 and h1 of the same rate; for stops their c0 and c1"
    tolerance = "none; over a stop v3 rtc_error_ns, corrected 1 µs"
    blind = (
        "offsets apart by less than the sandwiches; without h0 and h1, offsets at all (I2 sees what follows of them)"
    )
    clocks = frozenset((COUNTER,))

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.ends: dict[tuple[int, int], tuple[int, str]] = {}
        self.offsets: dict[int, tuple[int, int, str]] = {}
        self.stopped: Event | None = None

    def readings(self, block: Block) -> None:
        super().readings(block)
        if not block.has_c.any():
            return
        for vcpu, rows in block.by_vcpu:
            for context in (0, 1, 2):
                own = rows[block.has_c[rows] & (block.context[rows] == context)]
                if len(own):
                    self._sandwiches(block, vcpu, context, own)
        if block.has_h.any() and self.header.host_hz in (None, self.header.hz):
            self._offsets(block)

    def _sandwiches(self, block: Block, vcpu: int, context: int, rows: Ints) -> None:
        before = self.ends.get((vcpu, context))
        steps = np.empty(len(rows), np.int64)
        steps[1:] = block.c0[rows[1:]] - block.c1[rows[:-1]]
        steps[0] = 0 if before is None else int(block.c0[rows[0]]) - before[0]
        self.compare(len(rows) - (before is None))
        if steps.min() < 0:
            worst = int(np.argmin(steps))
            row = int(rows[worst])
            at = before[1] if worst == 0 and before is not None else block.at(int(rows[worst - 1]))
            about = {"vcpu": vcpu, "after": int(block.c0[row]) % 2**64}
            said = f"vcpu{vcpu}'s counter steps back"
            found = Finding(said, (at, block.at(row)), -int(steps[worst]), "cycles", about)
            self.violate(found, int((steps < 0).sum()))
        self.ends[vcpu, context] = int(block.c1[rows[-1]]), block.at(int(rows[-1]))

    def _offsets(self, block: Block) -> None:
        for vcpu, rows in block.by_vcpu:
            rows = rows[block.has_c[rows] & block.has_h[rows]]
            if not len(rows):
                continue
            self.compare(len(rows))
            # What was read within the host's sandwich: host counter + offset.
            low, high = block.c1[rows] - block.h1[rows], block.c0[rows] - block.h0[rows]
            least, most = int(low.max()), int(high.min())
            at = block.at(int(rows[np.argmax(low)]))
            old = self.offsets.get(vcpu)
            if old is not None:
                least, most = max(least, old[0]), min(most, old[1])
            self.offsets[vcpu] = least, most, at
            for other, (low_other, high_other, where) in self.offsets.items():
                off = max(least - high_other, low_other - most)
                if off > 0:
                    apart = "moves" if other == vcpu else f"is not vcpu{other}'s"
                    found = Finding(f"vcpu{vcpu}'s counter offset {apart}", (where, at), off, "cycles", {"vcpu": vcpu})
                    self.violate(found)
                    self.offsets = {}
                    break

    def on_stop(self, event: Event) -> None:
        self.stopped, self.offsets = event, {}

    def on_abort(self, event: Event) -> None:
        self.stopped = None  # I23 has it

    def on_resume(self, event: Event) -> None:
        stop, hz = self.stopped, self.header.hz
        self.stopped, self.offsets = None, {}
        if stop is None or hz is None or None in (stop.c0, stop.c1, event.c0, event.c1):
            return
        assert stop.c0 is not None
        assert stop.c1 is not None
        assert event.c0 is not None
        assert event.c1 is not None
        limits = allowed(Stop(stop, 0, 0, stop.at, event), self.header)
        if limits is None:
            return
        if self.header.design == "corrected":
            limits = (-COUNTER_SLACK_NS, COUNTER_SLACK_NS)
        self.compare()
        moved = (_signed(event.c0 - stop.c1), _signed(event.c1 - stop.c0))
        least, most = ((c * NS_PER_S) // hz for c in moved)
        off = max(least - limits[1], limits[0] - most)
        if off > 0:
            said = f"over a stop the counter moved {'more' if least > limits[1] else 'less'} than it may"
            self.violate(Finding(said, (stop.at, event.at), off, "ns", {"least": least, "most": most}))

    def on_move(self, event: Event) -> None:
        self.forget()
        self.ends, self.offsets, self.stopped = {}, {}, None


def _signed(cycles: int) -> int:
    """A difference of two u64 counters: one that was set back far enough has wrapped."""
    return (cycles + 2**63) % 2**64 - 2**63


class Hotplug(Check):
    number, name = 22, "hotplug"
    about = "a new vCPU's counter begins where the others' are"
    needs = "online rows, c0 and c1 on the new vCPU and on others before and after, in the order of their times"
    tolerance = "none: the others' sandwiches before and after"
    blind = "an error smaller than what passes between the others' readings around its first one"

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.greatest: tuple[int, str] | None = None
        self.waiting: dict[int, Event] = {}
        self.began: dict[int, tuple[int, str]] = {}
        self.seen: set[int] = set()

    def readings(self, block: Block) -> None:
        told = np.flatnonzero(block.has_c & (block.context == 0))
        if not len(told):
            return
        if self.waiting or self.began:
            self._judge(block, told)
        row = int(told[np.argmax(block.c1[told])])
        if self.greatest is None or block.c1[row] > self.greatest[0]:
            self.greatest = int(block.c1[row]), block.at(row)
        self.seen.update(vcpu for vcpu, _ in block.by_vcpu)

    def _judge(self, block: Block, told: Ints) -> None:
        for vcpu, event in list(self.waiting.items()):
            own = told[block.vcpu[told] == vcpu]
            if not len(own) or self.greatest is None:
                continue
            del self.waiting[vcpu]
            row, (most, at) = int(own[0]), self.greatest
            self.compare()
            if block.c1[row] < most:
                said = f"vcpu{vcpu} is new, and its counter behind what others had read before it came"
                self.violate(Finding(said, (at, event.at, block.at(row)), most - int(block.c1[row]), "cycles"))
            self.began[vcpu] = int(block.c0[row]), block.at(row)
            told = told[told > row]
        for vcpu, (first, at) in list(self.began.items()):
            others = told[(block.vcpu[told] != vcpu)]
            if len(others):
                del self.began[vcpu]
                row = int(others[0])
                if block.c1[row] < first:
                    said = f"vcpu{vcpu} is new, and its counter ahead of what vcpu{block.vcpu[row]} reads later"
                    self.violate(Finding(said, (at, block.at(row)), first - int(block.c1[row]), "cycles"))

    def on_online(self, event: Event) -> None:
        self.waiting[event.vcpu] = event

    def on_move(self, event: Event) -> None:
        self.greatest = None
        self.began.clear()


class Aborted(Check):
    number, name = 23, "abort"
    about = "a sleep that is given up leaves all clocks running, and every vCPU enters the guest again"
    needs = "abort rows between stop and resume, with host_monotonic_ns in both; entry rows for the vCPUs"
    tolerance = "the time the host ran, and 1 µs; 100 ms for the entries"
    blind = "request bits inside the kernel"

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.stops = Stops(header)
        self.entered: set[int] = set()
        self.missing: set[int] = set()
        self.since: tuple[int, str] | None = None

    def on_stop(self, event: Event) -> None:
        self._late()
        self.stops.stop(event)

    def on_resume(self, event: Event) -> None:
        self.stops.resume(event)

    def on_abort(self, event: Event) -> None:
        if self.stops.current is not None:
            self.stops.current.aborted = True
            self.missing = set(self.entered)

    def on_entry(self, event: Event) -> None:
        self.entered.add(event.vcpu)
        self.missing.discard(event.vcpu)

    def readings(self, block: Block) -> None:
        if found := self.stops.readings(block):
            self._judge(*found)
        if self.missing and self.since is not None and self.stops.low is not None:
            self._late()

    def _judge(self, stop: Stop, least: int, most: int, at: str) -> None:
        ran = host_ran(stop)
        if not stop.aborted:
            return
        assert stop.resumed is not None
        assert self.stops.low is not None
        self.since = self.stops.low[0], stop.resumed.at
        if ran is None:
            return
        self.compare()
        off = max(least - ran - ABORTED_SLACK_NS, -most)
        if off > 0:
            what = "jumped" if least > 0 else "went back"
            said = f"nothing slept, and MONOTONIC {what}"
            self.violate(Finding(said, (stop.stopped.at, at), off, "ns", {"clock": "MONOTONIC", "least": least}))

    def _late(self) -> None:
        if self.since is None or self.stops.low is None or not self.missing:
            return
        passed = self.stops.low[0] - self.since[0]
        if passed > BACK_IN_NS:
            who = ", ".join(f"vcpu{v}" for v in sorted(self.missing))
            said = f"{who} did not enter the guest again after a sleep that was given up"
            self.violate(Finding(said, (self.since[1], self.stops.low[4]), passed, "ns"))
            self.missing = set()

    def end(self) -> None:
        self._late()
