"""pvclock pages under an update and a migration: every order and every time, against SPIN with a clock of two ticks.

One page per vCPU, rebuilt in four stores each, a masterclock update of the host's, a VMM that pauses, saves, restores
and resumes. Any number of readings on every vCPU: none may be below one that was finished before it began. guestclock
has no ticks: time is continuous, and the answer is how far a reading can fall back. SPIN's model is seqcount.pml (one
reading per vCPU, as more do not fit); it is compiled before the time is taken.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from guestclock.explore.leaf import Impossible, Leaf
from guestclock.explore.run import Run
from guestclock.explore.search import Search
from guestclock.explore.world import Bounds, World
from guestclock.sim import State, cp
from guestclock.sim.field import flag, integer

HORIZON_NS = 10**9
BOUNDS = Bounds(horizon=HORIZON_NS, delay=HORIZON_NS, section=1)
SLEW = 2000  # the slewed host clock is off by at most 1 part in this
START = -1
SPIN_MODEL = Path(__file__).parent / "seqcount.pml"


class Shared(State):
    running = flag("vCPUs run", True)
    rebuild = flag("pages must be rebuilt")
    toff = integer("TSC offset, ns (the TSC counts ns here)")
    koff = integer("kvmclock offset, ns")
    mtsc = integer("masterclock: TSC")
    mns = integer("masterclock: base clock, ns")
    last_tsc = integer("of the slewed clock's previous reading")
    last_ns = integer("of the slewed clock's previous reading")


class Page(State):
    version = integer("odd while it is written")
    tsc = integer("tsc_timestamp")
    ns = integer("system_time, ns")


class Stretch(NamedTuple):
    """Something that vCPUs see, from the end of one event to the start of another (their numbers; None: always)."""

    value: Any
    after: int | None
    before: int | None


@dataclass
class Story:
    """pages: of each, the stretches in which a reading can take it. guest: those in which vCPUs run, with a TSC offset.

    even: the stretches in which a reading can begin, where that is another thing (no seqcount check).
    """

    pages: list[list[Stretch]]
    even: list[list[Stretch]]
    guest: list[Stretch] = field(default_factory=list)


@dataclass(frozen=True)
class Variant:
    pages: int
    slewed: bool = False
    resume_early: bool = False
    unchecked: bool = False

    @property
    def name(self) -> str:
        bug = "slewed base" if self.slewed else "resume before rebuilt" if self.resume_early else "no seqcount check"
        return f"{self.pages} pages" + (f", {bug}" if self.slewed or self.resume_early or self.unchecked else "")

    def build(self, world: World) -> Watch:
        shared, pages = Shared(), [Page() for _ in range(self.pages)]
        world.spawn("pages", self._rebuild(shared, pages), daemon=True)
        world.spawn("host", self._host(world, shared))
        world.spawn("vmm", self._vmm(world, shared))
        return Watch(world, shared, pages, self.unchecked)

    def _base(self, world: World, shared: Shared, now: Any) -> Any:
        if not self.slewed:
            return now
        passed, before = now - shared.last_tsc, shared.last_ns
        ns = world.clock(
            f"base of {world.here}",
            lambda n: [
                SLEW * (n - before) - (SLEW + 1) * passed,
                (SLEW - 1) * passed - SLEW * (n - before),
            ],
            0,
            2 * HORIZON_NS,
        )
        shared.last_tsc, shared.last_ns = now, ns
        return ns

    async def _rebuild(self, shared: Shared, pages: list[Page]) -> None:
        while True:
            await cp("rebuild", lambda: shared.rebuild)
            for i, page in enumerate(pages):
                if i:
                    await cp("next page")
                page.version = page.version + 1
                await cp("odd")
                page.tsc = shared.mtsc + shared.toff
                await cp("tsc_timestamp")
                page.ns = shared.mns + shared.koff
                await cp("system_time")
                page.version = page.version + 1
            shared.rebuild = False

    async def _host(self, world: World, shared: Shared) -> None:
        await cp("masterclock update", lambda: not shared.rebuild)
        now = world.read_ps()
        shared.mtsc, shared.mns, shared.rebuild = now, self._base(world, shared, now), True

    async def _vmm(self, world: World, shared: Shared) -> None:
        shared.running = False
        await cp("save kvmclock")
        saved_ns = shared.mns + world.read_ps() - shared.mtsc + shared.koff
        await cp("save TSC")
        saved_tsc = world.read_ps() + shared.toff
        await cp("restore TSC")
        shared.toff = saved_tsc - world.read_ps()
        await cp("restore kvmclock", lambda: not shared.rebuild)
        now = world.read_ps()
        base = self._base(world, shared, now)
        shared.koff, shared.mtsc, shared.mns = saved_ns - base, now, base
        await cp("ask for new pages", lambda: not shared.rebuild)
        shared.rebuild = True
        await cp("resume", None if self.resume_early else (lambda: not shared.rebuild))
        shared.running = True


class Watch:
    """Notes what vCPUs can see, and from when to when; without a seqcount check, half-written pages too."""

    def __init__(self, world: World, shared: Shared, pages: list[Page], unchecked: bool) -> None:
        self.world, self.shared, self.pages, self.unchecked = world, shared, pages, unchecked
        self.story = Story([[] for _ in pages], [[] for _ in pages])
        self.even: list[int | None] = [START for _ in pages]
        self.seen: list[tuple[Any, int | None] | None] = [((p.tsc, p.ns), None) for p in pages]
        self.guest: tuple[Any, int | None] | None = (shared.toff, None)
        world.after_step(self.see)

    def see(self, number: int) -> None:
        event = self.world.events[number]
        if event.actor == "pages":
            for i, page in enumerate(self.pages):
                self._page(i, page, number)
        elif event.actor == "vmm" and (self.guest is not None) != self.shared.running:
            if self.guest is not None:
                self.story.guest.append(Stretch(*self.guest, number))
            self.guest = (self.shared.toff, number) if self.shared.running else None

    def _page(self, i: int, page: Page, number: int) -> None:
        even, was = page.version % 2 == 0, self.even[i]
        if even and was is None:
            self.even[i] = number
        elif not even and was is not None:
            self.story.even[i].append(Stretch(None, None if was == START else was, number))
            self.even[i] = None
        seen = self.seen[i]
        if seen is not None and (
            not (even or self.unchecked) or seen[0][0] is not page.tsc or seen[0][1] is not page.ns
        ):
            self.story.pages[i].append(Stretch(*seen, number))
            seen = self.seen[i] = None
        if seen is None and (even or self.unchecked):
            self.seen[i] = (page.tsc, page.ns), number

    def finished(self) -> Story:
        """Of a complete order: what is open stays so."""
        for i, (seen, even) in enumerate(zip(self.seen, self.even, strict=True)):
            if seen is not None:
                self.story.pages[i].append(Stretch(*seen, None))
            if even is not None:
                self.story.even[i].append(Stretch(None, None if even == START else even, None))
        if self.guest is not None:
            self.story.guest.append(Stretch(*self.guest, None))
        return self.story


class Reading(NamedTuple):
    """One way to read: a page in a stretch, at a guest TSC in another; `begun` is when a page was last good."""

    page: Stretch
    tsc: Stretch
    begun: Stretch | None


def readings(story: Story, unchecked: bool) -> Iterator[Reading]:
    for stretches, even in zip(story.pages, story.even, strict=True):
        for page in stretches:
            for tsc in story.guest:
                if not unchecked:
                    yield Reading(page, tsc, None)
                else:
                    yield from (Reading(page, tsc, begun) for begun in even)


class Found(Exception):
    """A reading that falls back: enough is known."""


@dataclass
class Answer:
    """worst_ns: proved to be the most by which a reading is below an earlier one. shown_ns: found by the program."""

    worst_ns: Fraction = Fraction(-HORIZON_NS)
    shown_ns: float = -HORIZON_NS
    orders: int = 0
    pairs: int = 0
    programs: int = 0
    seconds: float = 0


def explore(variant: Variant, *, until_ns: float | None = None) -> Answer:
    """until_ns: stop at the first reading that falls back by more than this."""
    began = time.perf_counter()
    search = Search(variant.build, BOUNDS)
    answer, cache = Answer(), dict[Any, Any]()

    def leaf(run: Run) -> None:
        try:
            order = Leaf(run, search.solver, cache)
        except Impossible:
            return
        every = list(readings(run.world.finished(), variant.unchecked))
        for first in every:
            for then in every:
                _ask(order, first, then, variant.unchecked, answer)
                if until_ns is not None and answer.shown_ns > until_ns:
                    raise Found

    with suppress(Found):
        search.run(leaf)
    answer.orders, answer.programs = search.tally.orders, search.solver.count.programs
    answer.seconds = time.perf_counter() - began
    return answer


def _ask(order: Leaf, first: Reading, then: Reading, unchecked: bool, answer: Answer) -> None:
    """Each instant is named, with the stretches it lies in, one after the other."""
    if unchecked:
        assert then.begun is not None
        instants = {
            "first page": (first.page, first.tsc),
            "first": (first.tsc,),
            "begun": (then.begun,),
            "then page": (then.page,),
            "then": (then.tsc,),
        }
    else:
        instants = {"first": (first.page, first.tsc), "then": (then.page, then.tsc)}
    events = order.run.events
    past = 0
    for stretches in instants.values():
        for stretch in stretches:
            if stretch.after is not None:
                past |= events[stretch.after].past | 1 << stretch.after
        if any(s.before is not None and past >> s.before & 1 for s in stretches):
            return  # it would have to be before what caused it: not even at one and the same time
    question = order.question()
    before = ""
    forms = {}
    for name, stretches in instants.items():
        after = [events[s.after].end for s in stretches if s.after is not None]
        forms[name] = question.instant(
            name,
            after=after + [before] * bool(before),
            before=[events[s.before].start for s in stretches if s.before is not None],
        )
        before = name
    if question.contradictory:
        return
    answer.pairs += 1
    worst = question.worst(lambda: value(first, forms["first"]) - value(then, forms["then"]))
    if worst is not None:
        answer.worst_ns, answer.shown_ns = max(answer.worst_ns, worst.upper), max(answer.shown_ns, worst.found)


def value(reading: Reading, t: Any) -> Any:
    tsc, ns = reading.page.value
    return ns + t + reading.tsc.value - tsc


# ---- SPIN


@dataclass
class Spin:
    """verdict: "holds", "violated" or "none". seconds: of the verifier alone; compiling is not counted."""

    verdict: str
    seconds: float
    compile_s: float


def spin(variant: Variant, ticks: int, limit_s: float) -> Spin:
    """Raises FileNotFoundError without spin or a C compiler."""
    flags = [f"-DNV={variant.pages}", f"-DTICKS={ticks}", f"-DSLEWS={int(variant.slewed)}"]
    flags += (
        ["-DSLEWED_BASE"] * variant.slewed
        + ["-DRESUME_EARLY"] * variant.resume_early
        + ["-DUNCHECKED"] * variant.unchecked
    )
    with tempfile.TemporaryDirectory(prefix="guestclock-spin-") as scratch:

        def run(*command: str, timeout: float | None = None) -> str:
            done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=timeout, check=False)
            if done.returncode and command[0] != "./pan":
                raise RuntimeError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
            return done.stdout

        began = time.perf_counter()
        run("spin", "-a", *flags, str(SPIN_MODEL))
        run("cc", "-O2", "-DSAFETY", "-DMEMLIM=12000", "-o", "pan", "pan.c")
        compiled = time.perf_counter()
        try:
            said = run("./pan", "-m100000", timeout=limit_s)
        except subprocess.TimeoutExpired:
            return Spin("none", limit_s, compiled - began)
    took = time.perf_counter() - compiled
    if "assertion violated" in said:
        return Spin("violated", took, compiled - began)
    complete = "errors: 0" in said and "out of memory" not in said and "max search depth too small" not in said
    return Spin("holds" if complete else "none", took, compiled - began)


def main(spin_limit_s: float = 20) -> None:
    correct = [Variant(2), Variant(3), Variant(4)]
    wrong = [Variant(2, resume_early=True), Variant(2, slewed=True), Variant(2, unchecked=True)]
    have_spin = shutil.which("spin") is not None and shutil.which("cc") is not None
    if not have_spin:
        print("pages            no spin here (Debian: apt-get install spin gcc): guestclock alone")
    for variant in (*correct, *wrong):
        answers = [explore(variant) for _ in range(3)]
        ours = sorted(answers, key=lambda a: a.seconds)[1]
        verdict = "holds" if ours.worst_ns <= 0 else "violated"
        expected = "holds" if variant in correct else "violated"
        assert verdict == expected, (variant, ours)
        told = f"{ours.seconds:6.3f} s {verdict:8}"
        ready_s = ours.seconds
        if verdict == "violated":
            ready_s = soonest = explore(variant, until_ns=0).seconds
            told += f" at most {float(ours.worst_ns):,.0f} ns, first found after {soonest:.3f} s"
        else:
            told += f" {ours.orders} orders, {ours.pairs} pairs of readings, {ours.programs} programs"
        if have_spin:
            theirs = spin(variant, 2, spin_limit_s)
            assert theirs.verdict in ("none", expected), (variant, theirs)
            if theirs.verdict == "none":
                told += f"   SPIN, 2 ticks: none in {theirs.seconds:.0f} s"
            else:
                told += (
                    f"   SPIN, 2 ticks: {theirs.seconds:.2f} s {theirs.verdict} (+ {theirs.compile_s:.1f} s to compile)"
                )
                told += f"   {theirs.seconds / ready_s:.1f} times as long"
        print(f"pages            {variant.name:33} {told}")
    rates()


def rates() -> None:
    """Orders and programs per second where orders are many."""
    variant = Variant(4, slewed=True)
    ours = explore(variant)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    search = Search(variant.build, BOUNDS)
    search.run(lambda run: None)
    taken, tally = time.perf_counter() - began, search.tally
    print(f"pages            {tally.orders / taken:,.0f} orders/s, {tally.steps / taken:,.0f} steps/s alone;"
          f" with questions {ours.pairs / ours.seconds:,.0f} pairs/s, {ours.programs / ours.seconds:,.0f} programs/s;"
          f" peak {peak_mb:.0f} MB")  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="pvclock pages: guestclock and SPIN side by side")
    parser.add_argument("--spin-limit", type=float, default=20, metavar="SECONDS", help="for each of SPIN's runs")
    main(parser.parse_args(sys.argv[1:]).spin_limit)
