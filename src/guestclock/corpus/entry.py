"""Entries of the bug corpus: files, their schema, and what is wrong with one in a line."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from guestclock.errors import UserError
from guestclock.scenario.quantity import Duration, did_you_mean

HERE = Path(__file__).parent
ENTRIES = HERE / "entries"
OWN = "corpus/"
"""What a recipe or a kernel of the corpus's own is called by: corpus/hotplug is recipes/hotplug.py."""


class Host(msgspec.Struct, forbid_unknown_fields=True):
    """[[host]]: what differs from the ordinary server. skew: how far REALTIME may be off; slew_ppm: NTP's freedom."""

    tsc_khz: int | None = None
    scaling: str | None = None
    clocksource: str | None = None
    uptime: str | None = None
    skew: str | None = None
    slew_ppm: int | None = None


class Bounds(msgspec.Struct, forbid_unknown_fields=True):
    """[bounds]: durations as text. delay: between two calls; section: inside a kernel section; others as in Spec."""

    vcpus: int = 2
    delay: str = "1 ms"
    section: str = "10 us"
    life_min: str = "1 s"
    life: str = "100 s"
    away_min: str = "1 ms"
    away: str = "100 ms"
    after: str = "10 s"
    khz: int = 0
    deadline: str = ""
    works: bool = False


class Case(msgspec.Struct, forbid_unknown_fields=True):
    """[before] or [after]: a recipe on a kernel, and what is known of it.

    recipe: a built-in one, or corpus/NAME. kernel: a profile, or corpus/NAME. policy: instead of the recipe's own.
    host, bounds: instead of the entry's. worst: [least, most] of the value that an integer run shows, as a number in
    the property's unit or as a duration. remains: the fix does not bring it to nothing: the proved bound is below this.
    why: for `remains`, what is left over.
    """

    recipe: str = ""
    kernel: str = "linux-6.12"
    policy: dict[str, str] | None = None
    host: list[Host] | None = None
    bounds: dict[str, Any] | None = None
    worst: tuple[int | str, int | str] | None = None
    remains: int | str | None = None
    why: str = ""
    about: str = ""


class Open(msgspec.Struct, forbid_unknown_fields=True):
    """What is asked for and cannot be checked yet. why: what is missing."""

    why: str


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """One bug. thread: where it was reported or mended. known: what its thread or the reference says of the amount.

    before is violated; after, where there is a fix, holds or says what remains. open instead of both: not checked.
    """

    about: str
    thread: str
    property: str = ""
    known: str = ""
    host: list[Host] = []
    bounds: Bounds = msgspec.field(default_factory=Bounds)
    before: Case | None = None
    after: Case | None = None
    open: Open | None = None
    name: str = ""


def load(path: Path) -> Entry:
    """Raises UserError, one line: the file, what is wrong with it."""
    try:
        entry = msgspec.toml.decode(path.read_bytes(), type=Entry)
    except (msgspec.DecodeError, OSError) as error:
        raise UserError(f"{path.name}: {error}") from None
    entry.name = path.stem
    mistake = _mistake(entry)
    if mistake:
        raise UserError(f"{path.name}: {mistake}")
    return entry


@cache
def entries() -> dict[str, Entry]:
    """All of them by name."""
    return {path.stem: load(path) for path in sorted(ENTRIES.glob("*.toml"))}


def chosen(names: tuple[str, ...] | None) -> list[Entry]:
    """Those of these names, or all. Raises UserError for a name that there is not."""
    known = entries()
    for name in names or ():
        if name not in known:
            raise UserError(
                f"corpus: {name!r} is unknown{did_you_mean(name, known) or ', see guestclock corpus --list'}"
            )
    return [known[name] for name in names] if names else list(known.values())


def bounds_of(entry: Entry, case: Case) -> Bounds:
    """The entry's, with the case's own instead."""
    given = {**msgspec.structs.asdict(entry.bounds), **(case.bounds or {})}
    try:
        return msgspec.convert(given, Bounds)
    except msgspec.ValidationError as error:
        raise UserError(f"{entry.name}.toml: bounds: {error}") from None


def duration_ns(text: str) -> int:
    """ "4.9 s" as 4 900 000 000. Raises UserError."""
    try:
        return Duration.parse(text, {}).literal
    except ValueError as error:
        raise UserError(str(error)) from None


def _mistake(entry: Entry) -> str:
    if entry.open is not None:
        return "open, and yet there is [before] or [after]" if entry.before or entry.after else ""
    if entry.before is None:
        return "expected [before], or [open]"
    if not entry.property:
        return "expected property"
    if entry.after is not None and entry.after.remains is not None and not entry.after.why:
        return "[after] remains: expected why"
    return ""
