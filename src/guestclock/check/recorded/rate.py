"""I3: clocks run at their rate: every pair of readings of one epoch, in one pass.

A reading's clock less what the counter says it should show is known to an interval, by the sandwich. All pairs are held
to the allowed rate at once: what counts of all earlier readings is the one that leaves the least room.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from guestclock.check.recorded.block import Block, Ints
from guestclock.check.recorded.checking import Check, Finding
from guestclock.check.recorded.columns import (
    BOOTTIME,
    CLOCKS,
    KVMCLOCK,
    MONOTONIC,
    MONOTONIC_RAW,
    REALTIME,
    SCHED_CLOCK,
    TAI,
    Event,
)
from guestclock.check.recorded.header import NS_PER_S, Header
from guestclock.check.recorded.monotone import NeverBack

SLEWED = (MONOTONIC, BOOTTIME, REALTIME, TAI)
TRUNCATION_NS = 2
MULT_STEP_PPM = 0.25
TOO_SHORT_NS = 10 * NS_PER_S
"""Of less than this nothing is said about drift."""

NS_PER_DAY = 86_400 * NS_PER_S


@dataclass(slots=True)
class Bound:
    """Of earlier readings the one that leaves the least room: least for "too fast", greatest for "too slow"."""

    value: int
    at: str
    read: int


@dataclass(slots=True)
class Line:
    """A clock on a vCPU since something last moved it. Expected ns and readings are counted from the first one.

    pause_ns: the longest time from one of its readings to the next.
    """

    c_base: int
    v_base: int
    epoch: int
    least: Bound | None = None
    greatest: Bound | None = None
    since_ns: int = 0
    pause_ns: int = 0
    narrowest_ns: int = 2**62


@dataclass(frozen=True, slots=True)
class Allowed:
    """ppm: about the expected rate, which NTP's frequency moves by freq_ppm. slack_ns: besides the sandwiches.

    step_ppm: a step of the multiplier, by which the clock may be off while nobody runs and no tick is taken.
    """

    ppm: float
    slack_ns: int
    freq_ppm: float = 0.0
    step_ppm: float = 0.0


class Rates:
    """The lines of some clocks; `check` is whose they are."""

    def __init__(self, check: Check, clocks: frozenset[int]) -> None:
        self.check, self.header, self.clocks = check, check.header, clocks
        self.freq_ppm = self.header.freq_ppm
        self.exact = self.header.exact_line
        self.lines: dict[tuple[int, int], Line] = {}
        self.seen: dict[int, float] = {}
        """By clock: the least steady drift that would have been found so far, ns a day, with the narrowest sandwiches
        at both ends."""

    def readings(self, block: Block) -> None:
        if self.header.hz is None:
            return
        told = block.has_c.all()
        for vcpu, clock, rows in block.groups:
            if clock not in self.clocks:
                continue
            if not told:
                rows = rows[block.has_c[rows]]
            epochs = block.epoch[rows]
            for part in np.split(rows, np.flatnonzero(np.diff(epochs)) + 1) if len(rows) else ():
                self._line(block, vcpu, clock, part)

    def _line(self, block: Block, vcpu: int, clock: int, rows: Ints) -> None:
        epoch = int(block.epoch[rows[0]])
        line = self.lines.get((vcpu, clock))
        if line is None or line.epoch != epoch:
            line = Line(int(block.c0[rows[0]]), int(block.value[rows[0]]), epoch)
            self.lines[vcpu, clock] = line
        allowed = self.allowed(clock)
        before, after = self.expected(block.c0[rows] - line.c_base), self.expected(block.c1[rows] - line.c_base)
        moved = block.value[rows] - line.v_base
        # What the clock gained over its expected rate, at most and at least; then less what the tolerance lets it.
        most, least = moved - slewed(before, allowed.freq_ppm), moved - slewed(after, allowed.freq_ppm)
        wide_before, wide_after = part_of(before, allowed.ppm), part_of(after, allowed.ppm)
        pauses = np.maximum.accumulate(np.maximum(np.diff(before, prepend=line.since_ns), line.pause_ns))
        slack = allowed.slack_ns + part_of(pauses, allowed.step_ppm)
        line.pause_ns = int(pauses[-1])
        self._hold(block, rows, line, clock, least - wide_after, most - wide_before, slack, "fast")
        self._hold(block, rows, line, clock, -(most + wide_before), -(least + wide_after), slack, "slow")
        self.check.compare(len(rows))
        line.narrowest_ns = min(line.narrowest_ns, int((most - least).min()))
        line.since_ns = int(before[-1])
        if line.since_ns > TOO_SHORT_NS:
            found_ns = (int(slack[-1]) + line.narrowest_ns) / line.since_ns + allowed.ppm * 1e-6
            self.seen[clock] = min(self.seen.get(clock, np.inf), found_ns * NS_PER_DAY)

    def _hold(
        self, block: Block, rows: Ints, line: Line, clock: int, gained: Ints, room: Ints, slack: Ints, way: str
    ) -> None:
        """For all i < j: gained[j] - room[i] <= slack[j]."""
        bound = line.least if way == "fast" else line.greatest
        low = np.empty(len(rows), np.int64)
        low[0] = room[0] if bound is None else bound.value
        if len(rows) > 1:
            low[1:] = np.minimum(np.minimum.accumulate(room)[:-1], low[0])
        over = gained - low - slack
        worst = int(np.argmax(over))
        place = int(np.argmin(room))
        if over[worst] > 0:
            earlier = int(np.argmin(room[:worst])) if worst else 0
            in_block = worst > 0 and room[earlier] <= low[0]
            first = self._bound(block, rows, room, earlier) if in_block or bound is None else bound
            self._found(block, int(rows[worst]), clock, first, int(over[worst]), int((over > 0).sum()), way)
            # What goes on from here is judged anew: one change of rate or one step is one finding.
            self.lines.pop((int(block.vcpu[rows[0]]), clock), None)
        elif bound is None or room[place] < bound.value:
            bound = self._bound(block, rows, room, place)
        if way == "fast":
            line.least = bound
        else:
            line.greatest = bound

    def _bound(self, block: Block, rows: Ints, room: Ints, place: int) -> Bound:
        row = int(rows[place])
        return Bound(int(room[place]), block.at(row), int(block.value[row]))

    def _found(self, block: Block, row: int, clock: int, first: Bound, over: int, count: int, way: str) -> None:
        vcpu, value = int(block.vcpu[row]), int(block.value[row])
        said = f"vcpu{vcpu} {CLOCKS[clock]} runs too {way} against its counter"
        about = {"vcpu": vcpu, "clock": CLOCKS[clock], "before": first.read, "after": value, "way": way}
        self.check.violate(Finding(said, (first.at, block.at(row)), over, "ns", about), count)

    # ---- what is expected

    def expected(self, cycles: Ints) -> Ints:
        """Nanoseconds of so many cycles, truncated: exactly as the kernel counts them where its line is known."""
        if self.exact is not None:
            mult, shift = self.exact
            low = (cycles & ((1 << shift) - 1)).astype(np.uint64) * np.uint64(mult) >> np.uint64(shift)
            return (cycles >> shift) * mult + low.astype(np.int64)
        hz = self.header.hz
        assert hz is not None
        return cycles // hz * NS_PER_S + cycles % hz * NS_PER_S // hz

    def allowed(self, clock: int) -> Allowed:
        """What is tolerated of a clock, given what the header says."""
        header, hz = self.header, self.header.hz
        assert hz is not None
        exact = self.exact is not None
        if clock == SCHED_CLOCK:
            return Allowed(10_000, TRUNCATION_NS)
        if clock == KVMCLOCK:
            # Its page is made for whole kHz, and made anew from the host's raw clock, whose mult is rounded.
            return Allowed(1e9 / hz + MULT_STEP_PPM / 2, TRUNCATION_NS)
        if clock == MONOTONIC_RAW:
            return Allowed(0.0 if exact else header.raw_ppm, TRUNCATION_NS)
        if self.freq_ppm is None:
            return Allowed(header.rate_ppm + MULT_STEP_PPM, TRUNCATION_NS)
        # adjtimex's frequency is per HZ ticks of a whole number of cycles each: half a cycle of a tick of 1 ms at most.
        rounding = abs(self.freq_ppm) * 500 / hz
        rate = rounding if exact else header.raw_ppm
        # Off zero the multiplier is one of two that are a step apart, and each is kept for as long as no tick comes:
        # under NO_HZ as long as the machine sleeps between readings. What that makes is made good later.
        step = 0.0 if self.freq_ppm == 0 else MULT_STEP_PPM if self.exact is None else 1e6 / self.exact[0]
        return Allowed(rate, TRUNCATION_NS + header.dither_ns, self.freq_ppm, step)

    # ---- what moves a line

    def forget(self, *clocks: int) -> None:
        for key in [key for key in self.lines if not clocks or key[1] in clocks]:
            del self.lines[key]


def part_of(ns: Ints, ppm: float) -> Ints:
    """So many ppm of a duration, to the nearest ns (a double has 53 bits: exact to the ns for 100 days of 500 ppm)."""
    found: NDArray[np.float64] = np.rint(ns * (ppm * 1e-6))
    return found.astype(np.int64)


def slewed(ns: Ints, ppm: float) -> Ints:
    return ns + part_of(ns, ppm) if ppm else ns


class Rate(Check):
    number, name = 3, "rate"
    about = "within an epoch a clock advances as its counter does"
    needs = "c0 and c1, and counter_hz or tsc_khz"
    tolerance = (
        "2 ns and the two sandwiches; MONOTONIC, BOOTTIME, REALTIME, TAI: rate_ppm, or dither_ns if NTP's frequency is "
        "known, and if it is not 0 a step of the multiplier (0.1 to 0.25 ppm) for the longest pause between readings; "
        "MONOTONIC_RAW: raw_ppm, or nothing if the clocksource is known; kvmclock: 1 kHz of the TSC's rate"
    )
    blind = "a drift that is slower than that over the whole epoch; a counter that is itself wrong"

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.rates = Rates(self, frozenset((*SLEWED, MONOTONIC_RAW, KVMCLOCK)))

    def readings(self, block: Block) -> None:
        self.rates.readings(block)

    def end(self) -> None:
        by_drift: dict[str, list[str]] = {}
        for clock, drift_ns in sorted(self.rates.seen.items()):
            by_drift.setdefault(told(drift_ns), []).append(CLOCKS[clock])
        if self.violations and self.rates.freq_ppm is None:
            held = f"MONOTONIC and what follows it were held to {self.header.rate_ppm:g} ppm (rate_ppm)"
            self.remarks.append(f"{held}; an NTP client that slews by adjtime, ADJ_TICK or a PLL's phase goes beyond")
        for drift, clocks in by_drift.items():
            self.remarks.append(f"{', '.join(clocks)}: a drift of about {drift} a day or more would have been seen")

    def on_stop(self, event: Event) -> None:
        self.rates.forget()

    def on_resume(self, event: Event) -> None:
        self.rates.forget()

    def on_move(self, event: Event) -> None:
        self.rates.forget()

    def on_inject(self, event: Event) -> None:
        self.rates.forget(BOOTTIME, REALTIME, TAI)

    def on_set(self, event: Event) -> None:
        self.rates.forget(REALTIME, TAI)

    def on_freq(self, event: Event) -> None:
        self.rates.freq_ppm = float(event.data["ppm"])
        self.rates.forget(*SLEWED)


class SchedClock(NeverBack):
    number, name = 17, "sched-clock"
    about = "sched_clock never steps back on a vCPU, and keeps within 1 % of its counter"
    needs = "two readings of SCHED_CLOCK on one vCPU; for the rate c0, c1 and counter_hz"
    tolerance = "none; the rate 1 %"
    blind = "what the scheduler charged to the task that was running"
    clocks = frozenset((SCHED_CLOCK,))

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.rates = Rates(self, frozenset((SCHED_CLOCK,)))

    def readings(self, block: Block) -> None:
        super().readings(block)
        self.rates.readings(block)

    def on_stop(self, event: Event) -> None:
        self.rates.forget()

    def on_move(self, event: Event) -> None:
        self.rates.forget()


def told(ns: float) -> str:
    """An amount that is only a size: 1.2 µs, 35 ms."""
    for unit, name in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if ns >= unit:
            return f"{ns / unit:.2g} {name}" if ns < 100 * unit else f"{ns / unit:.0f} {name}"
    return f"{ns:.0f} ns"
