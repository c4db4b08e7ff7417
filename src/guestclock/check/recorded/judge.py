"""A recorded trace held to all invariants, in one pass and in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from guestclock.check.recorded.block import Block
from guestclock.check.recorded.checking import BOUNDARIES, HOLDS, NOT_JUDGED, VIOLATED, Check, shown
from guestclock.check.recorded.columns import Event
from guestclock.check.recorded.guest import Complaints, NtpState, Pages, Vmclock
from guestclock.check.recorded.header import Header, parse
from guestclock.check.recorded.holes import Aborted, CounterKept, Holes, Hotplug
from guestclock.check.recorded.host import Causality, KvmclockDrift, WallClock
from guestclock.check.recorded.merge import merged
from guestclock.check.recorded.monotone import Monotone
from guestclock.check.recorded.offsets import Offsets, Staleness, TaiOffset
from guestclock.check.recorded.order import Order
from guestclock.check.recorded.protocol import Counts, Entries, Frozen, Idempotence, Owner, Totals
from guestclock.check.recorded.rate import Rate, SchedClock
from guestclock.check.recorded.run import header_of, rows_of
from guestclock.check.recorded.source import File, Given, Source
from guestclock.check.recorded.timers import Timers
from guestclock.errors import UserError
from guestclock.sim.trace import Trace

INVARIANTS: tuple[type[Check], ...] = (
    Monotone, Order, Rate, Offsets, TaiOffset, Holes, KvmclockDrift, CounterKept, Timers, Complaints, Totals,
    Idempotence, Staleness, Causality, Frozen, Pages, SchedClock, NtpState, Vmclock, WallClock, Counts, Hotplug,
    Aborted, Entries, Owner,
)  # fmt: skip
"""By their numbers, 1 to 25."""


@dataclass
class Judgement:
    """What came of it. readings, events: how many rows there were."""

    names: tuple[str, ...]
    header: Header
    checks: list[Check]
    readings: int
    events: int
    vcpus: int

    @property
    def status(self) -> str:
        """holds, violated, or not judged where the trace gave nothing to judge anything by."""
        for status in (VIOLATED, HOLDS):
            if any(check.status == status for check in self.checks):
                return status
        return NOT_JUDGED

    def of(self, status: str) -> list[Check]:
        return [check for check in self.checks if check.status == status]


def checks_of(header: Header) -> list[Check]:
    made: list[Check] = []
    for invariant in INVARIANTS:
        if invariant is Staleness:
            offsets = next(check for check in made if isinstance(check, Offsets))
            made.append(Staleness(header, offsets))
        else:
            made.append(invariant(header))
    return made


def judge_files(paths: Sequence[str], progress: Callable[[int], None] = lambda readings: None) -> Judgement:
    """Files by path, "-" for stdin, as one trace. progress is told, now and then, how many readings there were.

    Raises UserError for what is no trace, with its file and line.
    """
    if paths.count("-") > 1:
        raise UserError("-: stdin can be read once")
    return judge([_opened(path, number) for number, path in enumerate(paths)], progress)


def judge_run(trace: Trace, name: str = "trace") -> Judgement:
    """What a model's or a lab's run looked at, and the rows that it noted (see run.py)."""
    return judge([Given(rows_of(trace), header_of(trace), name)])


def judge_rows(rows: Iterable[Mapping[str, Any]], header: Mapping[str, Any], name: str = "rows") -> Judgement:
    """Rows made in Python: mappings of column to value. Places are told by their number, from 1."""
    return judge([Given(enumerate(rows, 1), header, name)])


def _opened(path: str, number: int) -> Source:
    file = File(path, number)
    if not file.is_run:
        return file
    trace = file.run()
    return Given(rows_of(trace), header_of(trace), file.name, number)


def judge(sources: Sequence[Source], progress: Callable[[int], None] = lambda readings: None) -> Judgement:
    names = [source.name for source in sources]
    for source in sources:
        source.names = names
    header = parse(pair for source in sources for pair in source.header)
    checks = checks_of(header)
    wanted = shown(checks)
    world = _World(header)
    by_host = all(isinstance(source, File) and "h0" in source.columns for source in sources)
    if len(sources) > 1 and not by_host and header.counters != "common":
        raise UserError(
            f"{names[0]}: no header key counters: common and not h0 in all files, but several files need one timeline"
        )
    for block in merged(sources, by_host):
        for piece in block.pieces(BOUNDARIES):
            if isinstance(piece, Event):
                world.event(piece)
                for show in wanted[piece.kind]:
                    show(piece)
                continue
            for _, event in piece.events:
                world.event(event)
                for show in wanted[event.kind]:
                    show(event)
            world.readings(piece)
            for check in checks:
                check.readings(piece)
        progress(world.count)
    for check in checks:
        check.end()
    if not world.count and not world.events:
        raise UserError(f"{names[0]}: no rows, expected readings")
    return Judgement(tuple(names), header, checks, world.count, world.events, len(world.vcpus))


class _World:
    """What cannot be, whatever the clocks do: refused as no trace of a VM."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.vcpus: set[int] = set()
        self.stopped: Event | None = None
        self.count = self.events = 0

    def readings(self, block: Block) -> None:
        self.count += len(block)
        if not len(block):
            return
        if self.stopped is not None:
            raise UserError(f"{block.at(0)}: a reading, but the VM is stopped since {self.stopped.at}")
        if self.header.vcpus is not None and block.vcpu.max() >= self.header.vcpus:
            row = int((block.vcpu >= self.header.vcpus).argmax())
            raise UserError(
                f"{block.at(row)}: vcpu: {block.vcpu[row]}, expected less than {self.header.vcpus}, as vcpus says"
            )
        self.vcpus.update(vcpu for vcpu, _ in block.by_vcpu)

    def event(self, event: Event) -> None:
        self.events += 1
        if self.header.vcpus is not None and event.vcpu >= self.header.vcpus:
            raise UserError(f"{event.at}: vcpu: {event.vcpu}, expected less than {self.header.vcpus}, as vcpus says")
        match event.kind:
            case "stop":
                if self.stopped is not None:
                    raise UserError(f"{event.at}: stop, but the VM is stopped since {self.stopped.at}")
                self.stopped = event
            case "resume":
                if self.stopped is None:
                    raise UserError(f"{event.at}: resume, but the VM was not stopped")
                self.stopped = None
            case "online":
                if event.vcpu in self.vcpus:
                    raise UserError(f"{event.at}: vcpu{event.vcpu} is plugged in, but was there before")
                self.vcpus.add(event.vcpu)
