"""A guest moved from one lab to another by a recipe, and how far its clocks are off afterwards, against true time.

In virtual time a lab's counter is exact, and two labs are two hosts of one world: its time is the first one's
CLOCK_REALTIME, and the second one's less the skew that it was given. So the true downtime is known to the nanosecond,
as is every instant that a guest's own counter tells, where its offset can be read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from guestclock.arith import s64, u64
from guestclock.errors import UserError
from guestclock.lab import Lab
from guestclock.runs.on import On
from guestclock.runs.real import from_lines
from guestclock.scenario.snapshot_file import decode, encode
from guestclock.sim import Trace
from guestclock.vmm import recipe as recipes
from guestclock.vmm.clocks import ARM64, CLOCKS, X86_64
from guestclock.vmm.half import RESTORE, SAVE, as_json, from_json

S = 10**9
EXACT = 12
"""Flags of KVM_GET_CLOCK: REALTIME and the host's TSC at the very same instant."""


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
    """away_ns: true time from the last instruction of vCPU 0 here to its first there."""

    recipe: recipes.Recipe
    source: str
    destination: str
    skew_ns: int
    away_ns: Fraction
    off: tuple[Off, ...]
    here: Trace
    there: Trace
    snapshot: Any


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
    common: dict[str, Any] = {"program": "half", "recipe": name, "vcpus": vcpus, "options": {"host_ops_allowed": True}}
    if name.endswith(".py"):
        common["source"] = Path(name).read_text(encoding="utf-8")
    progress(f"{source}: {name}, save")
    lines = _lab(source, recipe, progress).run({**common, "half": SAVE, "life_ns": life_ns})
    here = from_lines(line for line in lines if "snapshot" not in line)
    (told,) = [line["snapshot"] for line in lines if "snapshot" in line]
    # Through the file's own format: what a destination gets is what a file would hold.
    snapshot = decode(encode(from_json(recipe.arch, told)), "snapshot", arch=recipe.arch)
    began = _Tie.of(here)
    realtime_ns = began.realtime_ns + away_ns + skew_ns
    progress(f"{destination}: {name}, restore")
    restore = {**common, "half": RESTORE, "snapshot": as_json(snapshot), "realtime_ns": realtime_ns}
    there = from_lines(_lab(destination, recipe, progress).run(restore))
    before, after = _readings(here), _readings(there)
    offs = [off for vcpu in before for off in _off(recipe, vcpu, before[vcpu], after[vcpu], skew_ns)]
    passed = after[0].true_ns - before[0].true_ns - skew_ns
    return Migration(recipe, str(source), str(destination), skew_ns, passed, tuple(offs), here, there, snapshot)


def _lab(on: On, recipe: recipes.Recipe, progress: Callable[[str], None]) -> Lab:
    if on.kind != "lab":
        raise UserError(f"{on}: expected a lab, as lab:6.12")
    if recipe.arch == ARM64:
        return Lab(on.lab, arch=ARM64, cpu=on.cpu, progress=progress)
    if on.cpu:
        raise UserError(f"{on}: is an arm64 CPU, recipe {recipe.name!r} is for {X86_64}: use lab:{on.lab}")
    return Lab(on.lab, progress=progress)


# ---- what readings say


@dataclass(frozen=True, slots=True)
class _Tie:
    """CLOCK_REALTIME at a value of the host's counter; open_ns: how long that reading took."""

    realtime_ns: int
    counter: int
    open_ns: Fraction
    hz: int

    @classmethod
    def of(cls, trace: Trace) -> _Tie:
        """The last one of a trace: by KVM_GET_CLOCK, if it told both at one instant; else read as a VMM can."""
        meta = trace.meta
        hz = meta["counter_hz"] if "counter_hz" in meta else meta["tsc_khz"] * 1000
        clocks = [e.data["result"] for e in trace.of("op") if e.name == "GetClock" and "result" in e.data]
        if clocks and clocks[-1]["flags"] & EXACT == EXACT:
            return cls(clocks[-1]["realtime_ns"], clocks[-1]["host_tsc"], Fraction(0), hz)
        event = [e for e in trace.of("host") if e.name == "realtime"][-1]
        start = meta["counter_start"] if "counter_start" in meta else meta["tsc_start"]
        middle = start + (event.start_ps + event.end_ps) // 2 * hz // 10**12
        return cls(event.data["value"], middle, Fraction(event.end_ps - event.start_ps, 1000), hz)

    def at(self, counter: Fraction) -> Fraction:
        """CLOCK_REALTIME when the counter was there, ns: it keeps the counter's time, as near as a tick of NTP's."""
        return self.realtime_ns + (counter - self.counter) * S / self.hz


@dataclass(frozen=True, slots=True)
class _Reading:
    """A vCPU's clocks, each value, and when by the host's wall clock; open_ns: what is open of that."""

    values: dict[str, int]
    true_ns: Fraction
    open_ns: Fraction
    hz: int


def _readings(trace: Trace) -> dict[int, _Reading]:
    """Each vCPU's one reading of its clocks in that half."""
    tie = _Tie.of(trace)
    found: dict[int, _Reading] = {}
    offsets = {e.vcpu: e.data["result"] for e in trace.of("op") if e.name == "GetTscOffset" and "result" in e.data}
    for event in trace.of("guest"):
        assert event.vcpu is not None
        if event.vcpu not in found:  # the model tells of it twice
            found[event.vcpu] = _reading(event.data, offsets.get(event.vcpu), tie)
    return found


def _reading(data: dict[str, Any], offset: int | None, tie: _Tie) -> _Reading:
    if "cntvct" in data:
        values = {name: data[name] for name in ("cntvct", "cntpct") if data[name] is not None}
        first, final = data["host_counter"]
    else:
        values = {"tsc": data["tsc"], "kvmclock": data["kvmclock_ns"]}
        first, final = data["host_tsc"]
        if offset is not None:
            first = final = u64(data["tsc"] - offset)
    at, width = Fraction(first + final, 2), Fraction((final - first) * S, tie.hz)
    return _Reading(values, tie.at(at), width + tie.open_ns, tie.hz)


def _off(recipe: recipes.Recipe, vcpu: int, before: _Reading, after: _Reading, skew_ns: int) -> list[Off]:
    passed_ns = after.true_ns - before.true_ns - skew_ns
    found = []
    for clock, value in before.values.items():
        if clock not in after.values:
            continue
        meant = recipe.policy.get(clock, "advance")
        gained = Fraction(s64(after.values[clock] - value))
        gained_ns = gained * S / before.hz if CLOCKS[clock].counts else gained
        should_ns = Fraction(0) if meant == "freeze" else passed_ns
        found.append(Off(vcpu, clock, meant, gained_ns - should_ns, (before.open_ns + after.open_ns) / 2))
    return found
