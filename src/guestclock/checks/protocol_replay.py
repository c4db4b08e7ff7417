"""The replay file of a thread's violation: the design, the case, and every time of the integer run that showed it.

`{"guestclock_protocol_replay": 1, "thread": ..., "design": ..., "case": ..., "property": ..., "value": ..., ...}`. A
file that is damaged, or from a newer program, is refused with one line that says which part of it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from guestclock import __version__
from guestclock.checks import json_file
from guestclock.checks.asks import Ask
from guestclock.checks.protocol import CaseResult, Outcome, Thread, thread
from guestclock.checks.replay_file import ratio
from guestclock.checks.verdict import Verdict
from guestclock.errors import UserError
from guestclock.explore.replay import Diverged, IntegerWorld, Schedule

KEY = "guestclock_protocol_replay"
VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolReplay:
    """One violation. value: what the integer run showed, in `unit`; bound, tolerance: "numerator/denominator".

    steps, values: the schedule (explore.replay.Schedule). guestclock: the version that wrote the file.
    """

    guestclock_protocol_replay: int
    guestclock: str
    thread: str
    design: str
    case: str
    property: str
    ask: str
    value: int
    unit: str
    sense: str
    who: str
    bound: str
    tolerance: str
    steps: tuple[tuple[str, str], ...]
    values: dict[str, int]


@dataclass(frozen=True, slots=True)
class Retold:
    """A replay carried out. value: what it shows now. steps: (ps, actor, label), in order of time."""

    file: ProtocolReplay
    about: str
    value: int
    steps: tuple[tuple[int, str, str], ...]
    readings: tuple[tuple[int, str], ...]
    outcome: Outcome
    ask: Ask


def of(thread_name: str, result: CaseResult, verdict: Verdict) -> ProtocolReplay | None:
    """The file of a violated verdict's worst case; None where no schedule shows it (a listed run)."""
    if verdict.confirmed is None:
        return None
    return ProtocolReplay(
        guestclock_protocol_replay=VERSION,
        guestclock=__version__,
        thread=thread_name,
        design=result.design,
        case=result.case,
        property=verdict.property,
        ask=verdict.ask,
        value=verdict.confirmed.value,
        unit=verdict.unit,
        sense=verdict.sense,
        who=verdict.who,
        bound=ratio(verdict.bound),
        tolerance=ratio(verdict.tolerance),
        steps=verdict.confirmed.schedule.steps,
        values=verdict.confirmed.schedule.values,
    )


def save(file: ProtocolReplay, path: Path) -> None:
    """Raises UserError where the file cannot be written."""
    json_file.write(asdict(file), path)


def is_one(path: Path) -> bool:
    """Whether a file says of itself that it is a thread's replay; what is no such file is for others to refuse."""
    try:
        found = json_file.read(path)
    except UserError:
        return False
    return isinstance(found, dict) and KEY in found


def load(path: Path) -> ProtocolReplay:
    """Raises UserError, one line that says what is wrong with the file."""
    found = json_file.read(path)
    version = found.get(KEY) if isinstance(found, dict) else None
    if version != VERSION:
        raise UserError(f"{path}: {KEY} is {version!r}, this program reads {VERSION}")
    try:
        file = msgspec.convert(found, ProtocolReplay, strict=True)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: damaged: {error}") from None
    if not file.steps:
        raise UserError(f"{path}: damaged: the schedule is empty")
    return file


def retold(file: ProtocolReplay, name: str) -> Retold:
    """Carries the schedule out. Raises UserError where the run does not go that way (the model was changed since)."""
    about: Thread = thread(file.thread)
    case = about.case(file.design, file.case)
    question = next((q for q in about.asked(case) if q.name == file.property), None)
    if question is None:
        raise UserError(f"{name}: damaged: property: {file.design}, {file.case} is not asked {file.property!r}")
    if case.build is None or case.bounds is None:
        raise UserError(f"{name}: damaged: case: {file.case} is a list of runs, it has no schedule")
    schedule = Schedule(file.steps, dict(file.values))
    world = IntegerWorld(case.build, case.bounds, schedule)
    try:
        outcome: Any = world.run()
        ask = next((a for a in question.asks(outcome) if a.id == file.ask), None)
        if ask is None:
            raise UserError(f"{name}: {file.property} does not ask {file.ask!r} of this run (changed since?)")
        value = int(ask.value(schedule.values.__getitem__))
    except (Diverged, KeyError, AssertionError) as error:
        told = str(error).strip("'\"") or type(error).__name__
        raise UserError(f"{name}: this run goes another way than the file's: {told} (changed since?)") from None
    steps = tuple((world.ps(event.start), event.actor, event.label) for event in world.events)
    readings = tuple(
        sorted((world.ps_of(schedule.values[i.name]), i.name) for i in ask.instants if i.name in schedule.values)
    )
    return Retold(file, f"{about.name}, {file.design}, {file.case}: {case.about}", value, steps, readings, outcome, ask)
