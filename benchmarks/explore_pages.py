"""pvclock pages under an update and a migration: every order and every time, against SPIN with a clock of two ticks.

One page per vCPU, rebuilt in four stores each, a masterclock update of the host's, a VMM that pauses, saves, restores and
resumes. Any number of readings on every vCPU: none may be below one that was finished before it began. guestclock has
no ticks: time is continuous, and the answer is how far a reading can fall back. SPIN's model is seqcount.pml (one
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
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from guestclock.explore.leaf import Impossible, Leaf
from guestclock.explore.run import Bounds, Run, World
from guestclock.explore.search import Search
from guestclock.sim import State, cp
from guestclock.sim.field import flag, integer

HORIZON_NS = 10**9
BOUNDS = Bounds(horizon=HORIZON_NS, delay=HORIZON_NS, section=1)
SLEW = 2000  # the slewed host clock is off by at most 1 part in this
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
    """Something that vCPUs see, from the end of one event to the start of another ("": always)."""

    value: Any
    after: str
    before: str


@dataclass
class Story:
    """pages: of each, the stretches in which it can be read. guest: those in which vCPUs run, with their TSC offset."""

    pages: list[list[Stretch]] = field(default_factory=list)
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

    def build(self, world: World) -> Story:
        shared, pages = Shared(), [Page() for _ in range(self.pages)]
        story = Story([[] for _ in pages])
        world.spawn("pages", self._rebuild(shared, pages), daemon=True)
        world.spawn("host", self._host(world, shared))
        world.spawn("vmm", self._vmm(world, shared))
        _watch(world, shared, pages, story, self.unchecked)
        return story

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


def _watch(world: World, shared: Shared, pages: list[Page], story: Story, unchecked: bool) -> None:
    """Notes what vCPUs can see, and from when to when: without a seqcount check, half-written pages too."""
    opened: list[tuple[Any, str]] = [((p.tsc, p.ns), "") for p in pages]
    guest: list[tuple[Any, str] | None] = [(shared.toff, "")]
    versions = [0] * len(pages)

    def see(number: int) -> None:
        event = world.events[number]
        if event.actor == "pages":
            for i, page in enumerate(pages):
                value, since = opened[i]
                readable = value is not None
                good = unchecked or page.version % 2 == 0
                if readable and (page.version != versions[i] or value[0] is not page.tsc or value[1] is not page.ns):
                    story.pages[i].append(Stretch(value, since, event.start))
                    opened[i] = (None, "")
                    readable = False
                if good and not readable:
                    opened[i] = ((page.tsc, page.ns), event.end)
                versions[i] = page.version
        elif event.actor == "vmm":
            if guest[0] is not None and not shared.running:
                story.guest.append(Stretch(*guest[0], event.start))
                guest[0] = None
            elif guest[0] is None and shared.running:
                guest[0] = (shared.toff, event.end)

    def finish() -> None:
        for i, (value, since) in enumerate(opened):
            if value is not None:
                story.pages[i].append(Stretch(value, since, ""))
        if guest[0] is not None:
            story.guest.append(Stretch(*guest[0], ""))

    world.after_step(see)
    story.finish = finish  # type: ignore[attr-defined]
