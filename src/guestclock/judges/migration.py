"""A migration between two labs, played by the model at the same instants, and under the checker.

The model is a VMM's whole world of its own: it saves what it read itself, and restores that. The checker is asked of
two such hosts, with a wall clock as wrong as it was here, and calls that may take as long as these took.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise
from math import ceil

from guestclock.checks.architectures import architecture
from guestclock.checks.arm64.architecture import COUNTS
from guestclock.checks.spec import Site, Spec
from guestclock.checks.verdict import HOLDS, VIOLATED, Verdict, check
from guestclock.compare.aligned import Aligned, HostCounter, NotAligned, operations
from guestclock.compare.judge import aligned
from guestclock.compare.session import Session
from guestclock.errors import UserError
from guestclock.kvm.api import Op, Peek, ReadHostClock
from guestclock.runs.migrate import Migration, Off, arrives, meant, offs
from guestclock.runs.on import On
from guestclock.runs.readings import readings
from guestclock.sim import Event, Trace
from guestclock.vmm.clocks import ARM64, CLOCKS, clocks_of
from guestclock.vmm.half import OVER

CHECK_BUDGET_S = 120.0
SLEW_PPM = 1
"""Nobody steers a lab's clocks; what a clocksource's mult rounds is less than this."""

GIVEN_AWAY_NS = 2
"""What whole ns leave open of the time inside a section that KVM_GET_CLOCK gives away."""

ROUNDING_NS = 6
"""Of two snapshots of a masterclock and of a TSC's cycles, there and back."""

ROUNDING_TICKS = 2
"""Of a coarse counter: when the wall clock was read, and what passed by it, are told to a whole tick each."""

BY_VALUE = ("GetMsr", "SetMsr", "GetClock", "SetClock", "GetOneReg", "SetOneReg")
"""Operations that are as late as they are made; of an offset it does not matter when it is read, or written."""

NOT_UP = "not asked: this clock is the host's own, and the destination would not have been up yet"


@dataclass(frozen=True, slots=True)
class MovedRow:
    """One clock of one vCPU. model: None where the model went another way.

    check: the checker's verdict, or why there is none; bound_ns: how far off it proved the clock can be at most.
    why: where they do not agree.
    """

    kernel: Off
    model: Off | None
    check: str
    bound_ns: int | None
    why: str


@dataclass(slots=True)
class JudgedMigration:
    """profiles: the model's, of source and destination. differences: of the traces, in words."""

    migration: Migration
    profiles: tuple[str, str]
    differences: list[str]
    rows: list[MovedRow]

    @property
    def agree(self) -> bool:
        return not self.differences and not any(row.why for row in self.rows)


Halves = tuple[Session, Session]
"""Source and destination."""


def halves_of(arch: str, source: On, destination: On, profiles: tuple[str, str] = ("", "")) -> Halves:
    """What the two labs' kernels are to the model. Raises UserError where it has no such profile."""
    here, there = profiles
    return (
        Session(source.lab, arch, source.cpu, here, shrink_runs=0),
        Session(destination.lab, arch, destination.cpu, there, shrink_runs=0),
    )


def judge_migration(
    done: Migration, *, profiles: tuple[str, str] = ("", ""), skew_ns: int | None = None
) -> JudgedMigration:
    """profiles: the model's, instead of the kernels' own. skew_ns: what the checker is told of the wall clocks, if not
    the truth.
    """
    halves = halves_of(done.recipe.arch, done.source, done.destination, profiles)
    traces = (done.here, done.there)
    differences = [
        f"{on}: {difference}"
        for on, half, program, trace in zip((done.source, done.destination), halves, done.programs, traces, strict=True)
        for difference in half.judged(program, trace).differences
    ]
    try:
        modelled = _modelled(done, halves)
    except NotAligned:  # which is one of the differences
        modelled = {}
    checked = _checked(done, halves, done.skew_ns if skew_ns is None else skew_ns)
    rows = [_row(done, off, modelled.get((off.clock, off.vcpu)), checked) for off in done.off]
    return JudgedMigration(done, (halves[0].profile, halves[1].profile), differences, rows)


# ---- the model


def _modelled(done: Migration, halves: Halves) -> dict[tuple[str, int], Off]:
    """By clock and vCPU: how far off it is on the model, looked at when the real guest looked."""
    left = halves[0].played(done.programs[0], done.here, own_answers=True)
    assert left.snapshot is not None
    first = arrives(done.recipe, left.snapshot, done.programs[1]["realtime_ns"])
    came = halves[1].played({**done.programs[1], **first}, done.there, own_answers=True)
    before, after = readings(left.trace), readings(came.trace)
    real = readings(done.here), readings(done.there)
    found = {}
    for off in offs(done.recipe, before, after, done.skew_ns):
        at = off.clock, off.vcpu
        off_ns, within_ns = off.off_ns, off.within_ns + sum(_open_ns(played, done, *at) for played in (left, came))
        if off.meant == "freeze":  # it matters when the guest looks
            for sign, seen, own in zip((-1, 1), real, (before, after), strict=True):
                later_ns, open_ns = seen[off.vcpu][off.clock].later_ns(own[off.vcpu][off.clock])
                off_ns, within_ns = off_ns + sign * later_ns, within_ns + open_ns
        found[at] = replace(off, off_ns=off_ns, within_ns=within_ns)
    return found


def _open_ns(played: Aligned, done: Migration, clock: str, vcpu: int) -> Fraction:
    """What the recipe's own readings and writes of a clock leave open: each happened somewhere in its sandwich."""
    arch, recipes = architecture(done.recipe.arch), _recipes(played.real)
    own = [(op, entry) for op, entry in played.chosen if entry in recipes]
    taken = [_took_ns(entry) for op, entry in own if _takes(op, arch.captures(clock, op, vcpu))]
    given = [_took_ns(entry) for op, entry in own if op.name in BY_VALUE and arch.sets(clock, op, vcpu)]
    wall = [_took_ns(entry) for op, entry in own if isinstance(op, ReadHostClock) and op.clock != "cntfrq"]
    return sum([max(taken, default=Fraction(0)), max(given, default=Fraction(0)), *wall], Fraction(0)) / 2


def _takes(op: Op, captures: bool) -> bool:
    return isinstance(op, Peek) or (captures and op.name in BY_VALUE)


def _recipes(trace: Trace) -> list[Event]:
    """A half's operations after the guest's last reading on a host, or before its first one: not those by which a half
    sets its stage, and ties clocks at its end.
    """
    entries, looked = operations(trace), _looks(trace)
    names = [entry.name for entry in entries]
    if "StepRealtime" in names:
        return entries[names.index("StepRealtime") + 1 : looked[0]]
    return entries[looked[-1] + 1 : names.index(OVER)]


def _looks(trace: Trace) -> list[int]:
    """In which operations the guest reads its clocks, each vCPU for the first time."""
    found: dict[int | None, int] = {}
    for number, event in enumerate(operations(trace)):
        if event.name == "Run" and _reads(event):
            found.setdefault(event.vcpu, number)
    return sorted(found.values())


def _reads(event: Event) -> bool:
    return any(action["action"] in ("ReadClocks", "ReadCounters") for action in event.data["op"]["actions"])


def _took_ns(event: Event) -> Fraction:
    return Fraction(event.end_ps - event.start_ps, 1000)


# ---- the checker


def _checked(done: Migration, halves: Halves, skew_ns: int) -> dict[str, Verdict] | str:
    """Verdicts by property, or why it was not asked."""
    try:
        result = check(spec_of(done, halves, skew_ns), budget_s=CHECK_BUDGET_S, stories=False)
    except UserError as refused:
        return f"not asked: {refused}"
    if not result.complete:
        return f"not finished in {CHECK_BUDGET_S:.0f} s"
    return {verdict.property: verdict for verdict in result.verdicts}


def spec_of(done: Migration, halves: Halves, skew_ns: int) -> Spec:
    """Two hosts like the labs, the second one's wall clock wrong by so much, and calls as long as the labs' were."""
    counters = [HostCounter.of(trace, None) for trace in (done.here, done.there)]
    khz = round(counters[0].hz / 1000)

    def ns(real_ns: Fraction | int) -> int:
        """As many ticks of the site's counter, which has whole kHz."""
        return ceil(Fraction(real_ns) * counters[0].hz / (khz * 1000))

    life_ns, away_ns = done.programs[0]["life_ns"], ceil(done.away_ns)
    uptimes = counters[0].start * 10**9 // (khz * 1000), max(1, _up_before_ns(done))
    sites = [
        Site(khz=khz, uptime_ns=up, slew_ppm=SLEW_PPM, vhe=half.circumstances.vhe)
        for up, half in zip(uptimes, halves, strict=True)
    ]
    policy = tuple((clock, meant(done.recipe, clock)) for clock in clocks_of(done.recipe.arch))
    return Spec(
        recipe=done.programs[0]["recipe"],
        kernel=halves[1].profile,
        sites=(replace(sites[0], kernel=halves[0].profile), replace(sites[1], skew_ns=abs(skew_ns))),
        vcpus=done.programs[0]["vcpus"],
        policy=policy,
        properties=tuple(f"{clock}-policy" for clock, _ in policy),
        delay_ns=ns(_looking_ns(done)),
        calls_ns=tuple([(name, ns(took)) for name, took in _calls_ns(done)]),
        section_ns=ns(_section_ns(done, halves)),
        life_min_ns=ns(life_ns),
        life_ns=ns(life_ns),
        away_ns=ns(away_ns),
        away_min_ns=min(10**6, away_ns),
    )


def _up_before_ns(done: Migration) -> int:
    """For how long the destination would have been up when the guest's life began, by its counter: below 0 for a lab
    that was started for the restore alone.
    """
    counter, life_ns = HostCounter.of(done.there, None), int(done.programs[0]["life_ns"])
    return counter.start * 10**9 // counter.hz - life_ns - ceil(done.away_ns)


def _calls_ns(done: Migration) -> list[tuple[str, Fraction]]:
    """Each of the recipe's calls and how long it took, from the end of the one before it."""
    told = []
    for trace in (done.here, done.there):
        entries, own = operations(trace), _recipes(trace)
        ends = [entry.end_ps for entry in (entries[entries.index(own[0]) - 1], *own)] if own else []
        names = ["ReadHostClock" if entry.kind == "host" else entry.name for entry in own]
        told += [
            (name, Fraction(end - before, 1000))
            for name, (before, end) in zip(names, pairwise(ends), strict=True)
            if name != "Kick"
        ]
    return told


def _looking_ns(done: Migration) -> Fraction:
    """How long it took a guest to look at its clocks.

    Here it does so in a KVM_RUN of its own; there it runs, is kicked out, and let in again. So a kick is what a vCPU
    spent until all had looked, and a start what it spent until its own look, each vCPU one after the other.
    """
    left, came = operations(done.here), operations(done.there)
    here, there = _looks(done.here), _looks(done.there)
    kicks = [Fraction(left[here[-1]].end_ps - left[n].start_ps, len(here) - k) for k, n in enumerate(here)]
    since = came[there[0] - 1].end_ps
    return max(*kicks, *(Fraction(came[n].end_ps - since, k + 1) for k, n in enumerate(there))) / 1000


def _section_ns(done: Migration, halves: Halves) -> Fraction:
    """What passed between two clock reads in one section of a kernel: as given away, or no more than a call took."""
    told, took = [], []
    for half, program, trace in zip(halves, done.programs, (done.here, done.there), strict=True):
        played = aligned(trace, program, half.profile, half.circumstances)
        for entry in _recipes(trace):
            if entry.name in BY_VALUE:
                took.append(_took_ns(entry))
                told += [Fraction(ps * played.counter.true_hz, played.counter.hz * 1000) for ps in played.gaps(entry)]
    return max(told) + GIVEN_AWAY_NS if told else max(took, default=Fraction(0))


# ---- all three


def _row(done: Migration, kernel: Off, model: Off | None, checked: dict[str, Verdict] | str) -> MovedRow:
    status, bound_ns, against = _against(done, kernel, checked)
    why = ""
    if model is not None:
        hz = HostCounter.of(done.there, None).hz
        slack_ns = kernel.within_ns + model.within_ns + max(Fraction(ROUNDING_NS), Fraction(ROUNDING_TICKS * 10**9, hz))
        if abs(kernel.off_ns - model.off_ns) > slack_ns:
            why = f"{_told(kernel)} on the kernel and {_told(model)} on the model cannot be one"
    return MovedRow(kernel, model, status, bound_ns, why or against)


def _told(off: Off) -> str:
    return f"{round(off.off_ns)} ns" + (f" ± {ceil(off.within_ns)}" if off.within_ns else "")


def _against(done: Migration, off: Off, checked: dict[str, Verdict] | str) -> tuple[str, int | None, str]:
    """The verdict, its bound in ns, and in what the kernel contradicts it: it was not kept."""
    if isinstance(checked, str):
        return checked, None, ""
    if _up_before_ns(done) < 0 and not _is_set(done, off.clock):
        return NOT_UP, None, ""
    verdict = checked[f"{off.clock}-policy"]
    if verdict.status not in (HOLDS, VIOLATED):
        return verdict.status, None, ""
    bound: Fraction = verdict.bound or Fraction(0)
    bound += verdict.tolerance if verdict.status == HOLDS else 0
    hz = HostCounter.of(done.here, None).hz
    bound_ns = ceil(bound * 10**9 / (round(hz / 1000) * 1000)) if CLOCKS[off.clock].counts else ceil(bound)
    least_ns = abs(off.off_ns) - off.within_ns
    if least_ns > bound_ns:
        return verdict.status, bound_ns, f"{_told(off)} on the kernel, check proved at most {bound_ns} ns"
    return verdict.status, bound_ns, ""


def _is_set(done: Migration, clock: str) -> bool:
    """Whether the recipe carries this clock over; one that it does not is what the host makes of it."""
    if done.recipe.arch != ARM64:
        return True
    return any(
        e.name == "SetCounterOffset" or (e.name == "SetOneReg" and e.data["op"]["id"] == COUNTS[clock])
        for e in _recipes(done.there)
    )
