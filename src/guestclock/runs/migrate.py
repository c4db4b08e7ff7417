"""A guest moved from one lab to another by a recipe, and how far its clocks are off afterwards, against true time.

In virtual time a lab's counter is exact, and two labs are two hosts of one world: its time is the first one's
CLOCK_REALTIME, and the second one's less the skew that it was given. So the true downtime is known to the nanosecond,
as is every instant that a guest's own counter tells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from guestclock.arith import s64
from guestclock.errors import UserError
from guestclock.lab import Lab
from guestclock.runs.on import On
from guestclock.runs.readings import Reading, Readings, readings, realtime_ns
from guestclock.runs.real import from_lines
from guestclock.scenario.snapshot_file import decode, encode
from guestclock.sim import Trace
from guestclock.vmm import recipe as recipes
from guestclock.vmm.clocks import ARM64, CLOCKS, X86_64
from guestclock.vmm.half import RESTORE, SAVE, as_json, from_json

S = 10**9


@dataclass(frozen=True, slots=True)
class Off:
    """How far one clock of one vCPU is off: first reading there less last reading here, less what it should be.

    meant: run, freeze or advance, by the recipe's policy. off_ns: to the ns or better; within_ns: what the readings
    leave open, to either side.
    """

    vcpu: int
    clock: str
    meant: str
    off_ns: Fraction
    within_ns: Fraction


@dataclass(frozen=True, slots=True)
class Migration:
    """away_ns: true time from the last instruction of vCPU 0 here to its first there. programs: the two halves, as they
    were played.
    """

    recipe: recipes.Recipe
    source: On
    destination: On
    skew_ns: int
    away_ns: Fraction
    off: tuple[Off, ...]
    here: Trace
    there: Trace
    snapshot: Any
    programs: tuple[dict[str, Any], dict[str, Any]]


def migrate(
    name: str,
    source: On,
    destination: On,
    *,
    skew_ns: int = 0,
    away_ns: int = 2 * S,
    life_ns: int = 100 * S,
    vcpus: int = 2,
    progress: Callable[[str], None] = lambda line: None,
) -> Migration:
    """Saves a guest in one lab, restores it in another.

    skew_ns: the second host's wall clock is that much ahead of the first one's. away_ns: about how long the guest is
    away (one host's making of a VM comes on top). Raises UserError for a recipe that cannot be used so, or for what the
    recipe does wrong.
    """
    recipe = recipes.load(name)
    if recipe.save is None:
        raise UserError(f"recipe {name!r}: it pauses and resumes: expected one that saves and restores")
    common: dict[str, Any] = {"program": "half", "recipe": name, "vcpus": vcpus, "options": {"host_ops_allowed": True}}
    if name.endswith(".py"):
        common["source"] = Path(name).read_text(encoding="utf-8")
    progress(f"{source}: {name}, save")
    save = {**common, "half": SAVE, "life_ns": life_ns}
    lines = _lab(source, recipe, progress).run(save)
    here = from_lines(line for line in lines if "snapshot" not in line)
    (told,) = [line["snapshot"] for line in lines if "snapshot" in line]
    restore = {**common, **arrives(recipe, told, realtime_ns(here) + away_ns + skew_ns)}
    progress(f"{destination}: {name}, restore")
    there = from_lines(_lab(destination, recipe, progress).run(restore))
    before, after = readings(here), readings(there)
    off = offs(recipe, before, after, skew_ns)
    passed = _first(after).true_ns - _first(before).true_ns - skew_ns
    snapshot = from_json(recipe.arch, restore["snapshot"])
    return Migration(recipe, source, destination, skew_ns, passed, off, here, there, snapshot, (save, restore))


def arrives(recipe: recipes.Recipe, told: dict[str, Any], realtime_ns: int) -> dict[str, Any]:
    """What the second half is told: the snapshot that the first one gave, and the wall clock that it finds.

    Through the file's own format: what a destination gets is what a file would hold.
    """
    snapshot = decode(encode(from_json(recipe.arch, told)), "snapshot", arch=recipe.arch)
    return {"half": RESTORE, "snapshot": as_json(snapshot), "realtime_ns": realtime_ns}


def _lab(on: On, recipe: recipes.Recipe, progress: Callable[[str], None]) -> Lab:
    if on.kind != "lab":
        raise UserError(f"{on}: expected a lab, as lab:6.12")
    if recipe.arch == ARM64:
        return Lab(on.lab, arch=ARM64, cpu=on.cpu, progress=progress)
    if on.cpu:
        raise UserError(f"{on}: is an arm64 CPU, recipe {recipe.name!r} is for {X86_64}: use lab:{on.lab}")
    return Lab(on.lab, progress=progress)


# ---- what readings say


def offs(recipe: recipes.Recipe, before: Readings, after: Readings, skew_ns: int) -> tuple[Off, ...]:
    """Each clock of each vCPU, from its reading on the one host to that on the other."""
    return tuple(
        _off(recipe, vcpu, clock, reading, after[vcpu][clock], skew_ns)
        for vcpu in before
        for clock, reading in before[vcpu].items()
        if clock in after[vcpu]
    )


def meant(recipe: recipes.Recipe, clock: str) -> str:
    """What the recipe means the clock to do; where it says nothing: advance."""
    return recipe.policy.get(clock, "advance")


def _off(recipe: recipes.Recipe, vcpu: int, clock: str, before: Reading, after: Reading, skew_ns: int) -> Off:
    gained = Fraction(s64(after.value - before.value))
    gained_ns = gained * S / before.hz if CLOCKS[clock].counts else gained
    should_ns = Fraction(0) if meant(recipe, clock) == "freeze" else after.true_ns - before.true_ns - skew_ns
    return Off(vcpu, clock, meant(recipe, clock), gained_ns - should_ns, (before.open_ns + after.open_ns) / 2)


def _first(found: Readings) -> Reading:
    return next(iter(found[0].values()))
