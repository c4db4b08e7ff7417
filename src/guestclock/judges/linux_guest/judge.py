"""What a guest's clocks gained over each operation, beside what the model says, and what other policies would have
made of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

from guestclock.arith import s64
from guestclock.check import Span
from guestclock.compare.aligned import NotAligned
from guestclock.judges.linux_guest.calls import Line, Segment, Watched, watched
from guestclock.judges.linux_guest.clocks import Counter, Reached, left_open, rate
from guestclock.judges.linux_guest.played import BEFORE, ROUNDING_NS, Played, hull, played
from guestclock.lab import LabError
from guestclock.lab.guest_init import CLOCKS, Record
from guestclock.lab.linux_guest import CLOCKSOURCES, Ran, run
from guestclock.lab.process import end_all

DEFAULT_AWAY_NS = 2 * 10**9

TSC, KVMCLOCK = "TSC", "kvmclock"
COUNTERS = {"kvm-clock": KVMCLOCK, "tsc": TSC}
"""By clocksource, what it counts."""

SEGMENTS = (("stop, cont", 0, 1, 0), ("savevm", 1, 2, 1), ("loadvm", 1, 3, 1))
ASLEEP = (("the host sleeps", 0, 1, 0),)
"""An operation, the segment the guest was in before, the one it came into, and the one at whose end it was stopped for
it: loadvm's guest goes on where savevm stopped it.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One clock over one operation: what it gained from its last reading before to its first one after.

    predicted: all that the model and the readings' sandwiches leave open. run, freeze: the same, had the clock run on,
    or stood still, while the guest was not there. None: then the readings after would not be of one line.
    """

    clock: str
    unit: str
    gained: int
    predicted: Span | None
    run: Span | None
    freeze: Span | None

    @property
    def agrees(self) -> bool:
        return self.predicted is not None and self.gained in self.predicted

    def fits(self, other: Span | None) -> bool:
        return other is not None and self.gained in other


@dataclass(frozen=True, slots=True)
class Operation:
    """missed_ns, apart_ns: by the lab's clock, from when the guest was stopped to when it went on from there, and from
    its last reading before to its first one after. before, after: how many records were told there.
    """

    name: str
    missed_ns: int
    apart_ns: int
    before: int
    after: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """One guest. where: its host; profile: the model's. differences: in what QEMU did another thing than the recipes.

    left_out: calls of QEMU's about time that its recipes do not make.
    """

    where: str
    profile: str
    guest: str
    clocksource: str
    differences: list[str] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def agrees(self) -> bool:
        rows = [row for operation in self.operations for row in operation.rows]
        return not self.differences and bool(rows) and all(row.agrees for row in rows)


def judge_linux_guests(
    kernel: str,
    guest_kernel: str = "",
    clocksources: Sequence[str] = CLOCKSOURCES,
    *,
    away_ns: int = DEFAULT_AWAY_NS,
    sleeps: bool = False,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Judged]:
    """Runs a guest in the lab for each clocksource, side by side, and judges it. guest_kernel: "" is the lab's own.
    sleeps: QEMU does nothing, and the lab sleeps for away_ns in S3.

    Raises UserError where something is not set up, LabError where the lab did not do its work.
    """
    guest_kernel = guest_kernel or kernel

    def one(clocksource: str) -> Judged:
        ran = run(kernel, guest_kernel, clocksource, away_ns=away_ns, sleeps=sleeps, progress=progress)
        return judge(ran, kernel, guest_kernel)

    with ThreadPoolExecutor(len(clocksources)) as pool:
        futures = [pool.submit(one, clocksource) for clocksource in clocksources]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            end_all()
            raise


def judge(ran: Ran, kernel: str, guest_kernel: str) -> Judged:
    """What became of it, against the model of the lab's kernel."""
    judged = Judged(f"lab:{kernel}", f"linux-{kernel}", guest_kernel, ran.clocksource)
    seen = watched(ran.trace)
    judged.left_out.extend(sorted(set(seen.left_out)))
    try:
        model = played(seen, ran.host["tsc_khz"], judged.profile)
    except NotAligned as other_way:
        step = other_way.index - BEFORE
        judged.differences.append(f"operation {step}: QEMU's is {other_way.real}, the recipe's {other_way.model}")
        return judged
    told = by_segment(ran.records, seen)
    for name, before, after, stopped in ASLEEP if seen.slept else SEGMENTS:
        view = _View(ran, seen, told, model, before, after, stopped)
        judged.operations.append(view.operation(name))
    return judged


def by_segment(records: Sequence[Record], seen: Watched) -> list[list[Record]]:
    """The records that were read whole in each of the times in which the guest ran.

    Raises LabError where the guest did not go back once (over a sleep: never), or told nothing in one of them.
    """
    back = [i for i, (one, other) in enumerate(pairwise(records)) if other.number <= one.number]
    expected = (0, 2) if seen.slept else (1, 4)
    if (len(back), len(seen.segments)) != expected:
        raise LabError(
            f"lab: the guest went back {len(back)} times and ran {len(seen.segments)} times: "
            f"expected {expected[0]} and {expected[1]}"
        )
    loaded = back[0] if back else len(records)
    found: list[list[Record]] = [[] for _ in seen.segments]
    for index, record in enumerate(records):
        for number, segment in enumerate(seen.segments):
            if (number == 3) == (index > loaded) and _within(record, segment):
                found[number].append(record)
    if not all(found):
        raise LabError(f"lab: the guest told {', '.join(str(len(told)) for told in found)} records: too few")
    return found


def _within(record: Record, segment: Segment) -> bool:
    first = min(segment.host(reading.before) for reading in record.readings.values())
    last = max(segment.host(reading.after) for reading in record.readings.values())
    return segment.first < first and (segment.last is None or last < segment.last)


class _View:
    """One operation: the guest before it and after it."""

    def __init__(
        self,
        ran: Ran,
        seen: Watched,
        told: list[list[Record]],
        model: tuple[Played, Played],
        before: int,
        after: int,
        stopped: int,
    ) -> None:
        self.ran = ran
        self.khz: int = ran.host["tsc_khz"]
        self.before, self.after = seen.segments[before], seen.segments[after]
        self.told_before, self.told_after = told[before], told[after]
        self.lines = [(play.lines[before], play.lines[after]) for play in model]
        end = seen.segments[stopped].last
        assert end is not None
        self.stop, self.start = end, self.after.first

    def operation(self, name: str) -> Operation:
        rows = (self.tsc(), self.kvmclock(), *(self.clock(clock) for clock in CLOCKS))
        stopped, apart = self.start - self.stop, self.first - self.last
        told = len(self.told_before), len(self.told_after)
        return Operation(name, self._ns(stopped), self._ns(apart), *told, rows)

    def _ns(self, cycles: int) -> int:
        return cycles * 10**6 // self.khz

    # ---- the two counters, at the last instant that is known before, and the first one after

    @property
    def last(self) -> int:
        return max(self.before.host(reading.after) for reading in self.told_before[-1].readings.values())

    @property
    def first(self) -> int:
        return min(self.after.host(reading.before) for reading in self.told_after[0].readings.values())

    def tsc(self) -> Row:
        return self._counter(TSC, "cycles", Line.tsc, 0)

    def kvmclock(self) -> Row:
        return self._counter(KVMCLOCK, "ns", Line.kvmclock_ns, ROUNDING_NS)

    def _counter(self, clock: str, unit: str, read: Callable[[Line, int], int], slack: int) -> Row:
        """By KVM's own page and offset, beside the model's."""

        def gained(before: Line, after: Line, first: int) -> int:
            amount: int = s64(read(after, first) - read(before, self.last))
            return amount

        least, most = (gained(*lines, self.first) for lines in self.lines)
        line = self.before.line
        stood = self.first - (self.start - self.stop)
        return Row(
            clock,
            unit,
            gained(line, self.after.line, self.first),
            hull((least, most), slack=slack),
            hull((gained(line, line, self.first),) * 2, slack=slack),
            hull((gained(line, line, stood),) * 2, slack=slack),
        )

    # ---- the guest's own clocks

    def clock(self, name: str) -> Row:
        """By the guest's readings."""
        before = [Reached.of(record.readings[name], self.before.host) for record in self.told_before]
        after = [Reached.of(record.readings[name], self.after.host) for record in self.told_after]
        gained = after[0].value_ns - before[-1].value_ns
        stopped = self.start - self.stop
        predicted, run, freeze = (
            self._gained(gained, before, after, course)
            for course in (
                lambda line, other: (self._counts(line), self._counts(other)),
                lambda line, other: (self._counts(line), self._counts(line)),
                lambda line, other: (self._counts(line), lambda host: self._counts(line)(host - stopped)),
            )
        )
        return Row(name, "ns", gained, predicted, run, freeze)

    def _counts(self, line: Line) -> Counter:
        if COUNTERS[self.ran.clocksource] == TSC:
            return lambda host: hull((line.tsc(host),) * 2)
        return lambda host: hull((line.kvmclock_ns(host),) * 2, slack=ROUNDING_NS)

    def _gained(
        self,
        gained: int,
        before: list[Reached],
        after: list[Reached],
        course: Callable[[Line, Line], tuple[Counter, Counter]],
    ) -> Span | None:
        """What the clock can gain from its last reading before to its first one after, where its counter does that."""
        found: list[Span] = []
        by = rate(self.ran.clocksource, self.ran.tsc_khz)
        for lines in self.lines:
            counted, counts = course(*lines)
            origin = counted(before[-1].after).lo
            ahead, later = left_open(before, counted, by, origin), left_open(after, counts, by, origin)
            if ahead is None or later is None:
                return None
            found.append(ahead - later + gained)
        return Span(min(span.lo for span in found), max(span.hi for span in found))
