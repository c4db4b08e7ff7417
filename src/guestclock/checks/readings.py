"""A run of a thread's case as a trace of readings: what `guestclock trace check` judges, by code of its own.

A case's clocks are read after the run, as densely as wanted: a reader only looks. A `Recorder` is laid beside an
integer run before it begins and looks after each of its steps; a thread that has one names it (`protocol.Thread`).
"""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from guestclock.check.recorded import COLUMNS
from guestclock.checks.protocol import thread
from guestclock.checks.protocol_replay import ProtocolReplay
from guestclock.errors import UserError
from guestclock.explore.replay import Diverged, IntegerWorld, Schedule
from guestclock.linux import Ntp
from guestclock.linux.ntp import NTP_SCALE_SHIFT

Row = dict[str, Any]
EDGE_US = tuple(4**k for k in range(8))
"""How long after its beginning, and before its end, a stretch is read besides, us: 1 to 16384."""

MOST_INSTANTS = 200
"""However long a stretch is, so often is it read between its ends, about."""


@dataclass(frozen=True, slots=True)
class Readings:
    """A trace: keys of its header, and rows in their order (docs/traces.md)."""

    header: Mapping[str, Any]
    rows: Sequence[Row]


class Recorder(Protocol):
    """Looks at an integer run from its beginning, and tells afterwards."""

    def readings(self) -> Readings: ...


@dataclass(slots=True)
class Timed:
    """Rows by their place. A reading comes after the steps that made what it reads, an event where its step begins."""

    rows: list[tuple[int, float, int, Row]] = field(default_factory=list)

    def event(self, at: int, step: float, kind: str, **columns: Any) -> None:
        """at: units. step: number of the step that it is of; a fraction comes behind it."""
        self.add(at, step, {"event": kind, **columns})

    def add(self, at: int, step: float, row: Row) -> None:
        self.rows.append((at, step, len(self.rows), row))

    def sorted(self) -> list[Row]:
        return [row for *_, row in sorted(self.rows, key=lambda each: each[:3])]


def units_of(world: Any, instant: Any) -> int:
    """An instant of an integer run, in units: a replay names it, a random run has it as it is."""
    return instant if isinstance(instant, int) else int(world.value(instant))


def instants(opened: int, closed: int, per_us: float, every_us: int, apart: int) -> list[int]:
    """Where a stretch is read, units: both its ends, ever denser towards them, and every so often between.

    Two of them are at least `apart` units from each other, and from the end but for the last.
    """
    step = max(int(every_us * per_us), (closed - opened) // MOST_INSTANTS)
    found = set(range(opened, closed, step))
    for us in EDGE_US:
        found |= {opened + int(us * per_us), closed - int(us * per_us)}
    kept = [opened]
    for at in sorted(found):
        if kept[-1] + apart <= at <= closed - apart:
            kept.append(at)
    # A stretch that is too short for two is read where it begins, and where it ends by readings of no length.
    return kept if kept[-1] == closed else [*kept, closed]


def ntp_columns(ntp: Ntp) -> Row:
    """What adjtimex() would say, as the columns of an ntp row."""
    return {
        "status": ntp.time_status, "maxerror_us": ntp.time_maxerror_us,
        "offset_ns": ntp.time_offset * ntp.hz >> NTP_SCALE_SHIFT,
        "ppm": round(ntp.time_freq / (1000 << NTP_SCALE_SHIFT), 6),
    }  # fmt: skip


def of_replay(file: ProtocolReplay, name: str) -> Readings:
    """The trace of a replay file's run. Raises UserError where the thread has none, or the run goes another way."""
    about = thread(file.thread)
    case = about.case(file.design, file.case)
    if case.build is None or case.bounds is None or about.recorder is None:
        raise UserError(f"{name}: {file.thread}, {file.case} has no clocks to read")
    world = IntegerWorld(case.build, case.bounds, Schedule(file.steps, dict(file.values)))
    recorder = about.recorder(world, world.world)
    if recorder is None:
        raise UserError(f"{name}: {file.thread}, {file.case} has no clocks to read")
    try:
        world.run()
    except (Diverged, KeyError, AssertionError) as error:
        told = str(error).strip("'\"") or type(error).__name__
        raise UserError(f"{name}: this run goes another way than the file's: {told} (changed since?)") from None
    readings: Readings = recorder.readings()
    return readings


def save(readings: Readings, path: Path) -> None:
    """As CSV, gzipped where the name ends in .gz. Raises UserError where it cannot be written."""
    used = [column.name for column in COLUMNS if any(column.name in row for row in readings.rows)]
    text = io.StringIO()
    for key, value in readings.header.items():
        text.write(f"# {key}: {value}\n")
    writer = csv.DictWriter(text, used, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(readings.rows)
    data = text.getvalue().encode()
    try:
        # Without a time in it, the same run gives the same file.
        path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None


__all__ = ["Readings", "Recorder", "Row", "Timed", "instants", "ntp_columns", "of_replay", "save", "units_of"]
