"""The replay file: a violation as JSON, with everything that an integer run needs to show it again.

`{"guestclock_replay": 1, "guestclock": version, "spec": {...}, "property": ..., "ask": ..., "value": ..., ...}`. A file
that is damaged, or from a newer program, is refused with one line that says which part of it. A recipe or kernel that
comes with this program is kept as `guestclock:corpus/recipes/x.py`, wherever the program is installed; others by path.
"""

from __future__ import annotations

import builtins
import re
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec

from guestclock import __version__
from guestclock.checks import json_file
from guestclock.checks.asks import QUESTIONS
from guestclock.checks.spec import Spec
from guestclock.checks.verdict import Verdict
from guestclock.errors import UserError
from guestclock.explore.replay import Schedule

REPLAY_VERSION = 1
UNITS = ("ns", "cycles", "ticks", "pages", "stores")
PACKAGE = Path(__file__).resolve().parent.parent
OWN = "guestclock:"
_FILE = re.compile(r"(?P<path>.+?\.py)(?P<overlays>\+.*)?", re.DOTALL)
"""A recipe's or a kernel's file; a kernel's may have overlays after it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayFile:
    """One violation. value: what the integer run showed, in `unit`; bound, tolerance: exact, "numerator/denominator".

    steps, values: the schedule (explore.replay.Schedule). guestclock: the version that wrote the file.
    """

    guestclock_replay: int
    guestclock: str
    spec: Spec
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

    @builtins.property
    def schedule(self) -> Schedule:
        return Schedule(self.steps, dict(self.values))


def of(spec: Spec, verdict: Verdict, *, short: bool = False) -> ReplayFile:
    """The file of a violated verdict: its worst case, or (short, where there is one) its shortest story."""
    shortest = short and verdict.short is not None
    confirmed = verdict.short if shortest else verdict.confirmed
    assert confirmed is not None, verdict.status
    return ReplayFile(
        guestclock_replay=REPLAY_VERSION,
        guestclock=__version__,
        spec=spec,
        property=verdict.property,
        ask=verdict.short_ask if shortest else verdict.ask,
        value=confirmed.value,
        unit=verdict.unit,
        sense=verdict.sense,
        who=verdict.who,
        bound=ratio(verdict.bound),
        tolerance=ratio(verdict.tolerance),
        steps=confirmed.schedule.steps,
        values=confirmed.schedule.values,
    )


def ratio(value: Fraction | None) -> str:
    """Exact: "numerator/denominator"; empty for None."""
    return "" if value is None else f"{value.numerator}/{value.denominator}"


def portable(name: str) -> str:
    """A recipe or a kernel as another machine finds it: `guestclock:PATH` for a file of this program's own."""
    file = _FILE.fullmatch(name)
    if file is None:
        return name
    path = Path(file["path"]).resolve()
    if not path.is_relative_to(PACKAGE):
        return name
    return f"{OWN}{path.relative_to(PACKAGE).as_posix()}{file['overlays'] or ''}"


def _local(name: str, where: str) -> str:
    """What `portable` made, as a path here. Raises UserError for a file that this program does not have."""
    if not name.startswith(OWN):
        return name
    file = _FILE.fullmatch(name.removeprefix(OWN))
    path = None if file is None else (PACKAGE / file["path"]).resolve()
    if file is None or path is None or not path.is_relative_to(PACKAGE) or not path.is_file():
        raise UserError(f"{where}: {name}, which this guestclock does not have")
    return f"{path}{file['overlays'] or ''}"


def save(file: ReplayFile, path: Path) -> None:
    """Raises UserError where the file cannot be written."""
    document = asdict(file)
    for key in ("recipe", "kernel"):
        document["spec"][key] = portable(document["spec"][key])
    json_file.write(document, path)


def load(path: Path) -> ReplayFile:
    """Raises UserError, one line that says what is wrong with the file."""
    return parse(json_file.read(path), str(path))


def parse(found: Any, name: str) -> ReplayFile:
    """What `save` wrote, as a ReplayFile. Raises UserError."""
    version = found.get("guestclock_replay") if isinstance(found, dict) else None
    if type(version) is not int:
        raise UserError(f"{name}: no guestclock replay file ('guestclock_replay' is missing)")
    if version != REPLAY_VERSION:
        raise UserError(f"{name}: replay file version {version}, this program reads {REPLAY_VERSION}")
    try:
        file = msgspec.convert(found, ReplayFile)
    except msgspec.ValidationError as error:
        raise UserError(f"{name}: damaged: {error}") from None
    unknown = set(found) - set(ReplayFile.__dataclass_fields__)
    unknown |= {f"spec.{key}" for key in set(found["spec"]) - set(Spec.__dataclass_fields__)}
    if unknown:
        raise UserError(
            f"{name}: unknown key {sorted(unknown)[0]!r}: written by another guestclock ({file.guestclock})"
        )
    if file.property not in QUESTIONS:
        raise UserError(f"{name}: property {file.property!r}, which this guestclock does not have")
    if file.unit not in UNITS:
        raise UserError(f"{name}: unit {file.unit!r}, expected one of {', '.join(UNITS)}")
    if not file.steps or not file.values:
        raise UserError(f"{name}: damaged: the schedule is empty")
    if bool(file.spec.recipe) == bool(file.spec.program) or not file.spec.sites:
        raise UserError(f"{name}: damaged: spec: expected one of recipe and program, and a site")
    spec = file.spec.but(recipe=_local(file.spec.recipe, name), kernel=_local(file.spec.kernel, name))
    return replace(file, spec=spec)
