"""What the thread was about to do instead: L2's kvmclock from a snapshot of L1's clock.

L1 runs on kvm-clock, a linear transformation of the TSC; its KVM makes L2's page from a snapshot of it (value and TSC),
and L2 reads the TSC itself. When L1 moves to another frequency, its own page is made anew before it runs. L2's is made
by L1, which learns of it at its next tick at the earliest, while L2 runs. Nothing is frozen.

And what Hyper-V does (its re-enlightenment): the target answers RDTSC at the old frequency until L1 has acknowledged,
and L1 takes its time: it stops its L2s, ends the emulation, makes their pages anew and lets them run. The price is an
exit for every RDTSC until then, which no clock shows.

Limits: the page is a line with a sequence like any other here (`clock_states.Line`); pvclock's own rounding is not in
it. L1's clock itself is taken as right: it stands still over the downtime, to the ns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from guestclock.checks.freeze.clock_states import (
    BEGUN_CYCLES,
    BEGUN_NS,
    MILLISECOND,
    MOST_CYCLES,
    SECOND,
    Line,
    Move,
    Outcome,
    Reading,
    Vm,
)
from guestclock.checks.freeze.protocol import Protocol
from guestclock.checks.protocol import Case
from guestclock.explore.world import Between, World
from guestclock.linux import clocksource
from guestclock.sim import State, cp
from guestclock.sim.field import flag, integer

TICK_NS = 4 * MILLISECOND
ASKED = ("never-back", "one-epoch", "counts-what-ran")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """emulates: the old frequency, until L1 acknowledges. stops_l2: L1 does before the emulation ends."""

    emulates: bool = False
    stops_l2: bool = True


HYPERV = Snapshot(emulates=True)


def cases(snapshot: Snapshot) -> list[Case]:
    """The counter goes on where it stopped, or has any value; faster and slower."""
    found = []
    for target in (2_900_000, 2_100_000):
        for continuous in (True, False):
            move = Move(target_khz=target, continuous=continuous)
            told = "goes on" if continuous else "has any value"
            found.append(
                Case(
                    name=f"2400000-{target}-{'going-on' if continuous else 'any-tsc'}",
                    about=f"L1 moves from 2400000 to {target} kHz, its TSC {told}; two readings of L2's",
                    build=build(snapshot, move), bounds=move.bounds, invariants=ASKED,
                    must=("page in epoch 0", "page in epoch 1"),
                )
            )  # fmt: skip
    return found


def build(snapshot: Snapshot, move: Move) -> Callable[[World], Outcome]:
    """The world of one move of L1."""
    return lambda world: _World(snapshot, move, world).outcome


class L2(State):
    """What L1 and the hypervisor below do to it."""

    stopped = flag("L1 lets none of its vCPUs run")
    emulated = flag("RDTSC is answered at the old frequency")
    emulated_cycles = integer("what that is ahead of the old host's rate by")


class _World:
    def __init__(self, snapshot: Snapshot, move: Move, world: World) -> None:
        self.snapshot, self.move, self.world, self.vm, self.l2 = snapshot, move, world, Vm(), L2()
        clock = clocksource("tsc", tsc_khz=move.source_khz)
        begun = {"cycle_last": BEGUN_CYCLES, "snsec": BEGUN_NS << clock.shift, "mult": clock.mult, "shift": clock.shift}
        self.own, self.page = Line(**begun), Line(**begun)
        self.outcome = Outcome(world, Protocol(), move, self.vm, contracts=set())
        if not move.continuous:
            self.vm.offset0 = world.unknown("the target's TSC", 0, MOST_CYCLES)
        world.spawn("VMM", self.vmm())
        world.spawn("L1's KVM", self.acknowledge() if snapshot.emulates else self.refresh())
        world.spawn("reader", self.reader())

    def tsc(self) -> tuple[Any, Any]:
        vm, now = self.vm, self.world.read_ps()
        if self.l2.emulated:
            return self.l2.emulated_cycles + now * self.move.source_khz // SECOND, now
        if vm.site == 0:
            return now * self.move.source_khz // SECOND + BEGUN_CYCLES, now
        return now * self.move.target_khz // SECOND + vm.offset0, now

    async def vmm(self) -> None:
        """L0 moves L1. Its page is made anew before any vCPU runs: L1's own clock goes on where it stopped."""
        vm, own, move = self.vm, self.own, self.move
        await cp("stops L1")
        vm.runs1 = False
        self.outcome.stop, _ = self.tsc()
        vm.stop_cycles = self.outcome.stop
        await cp("has moved it", delay_ps=move.away)
        vm.site = 1
        if move.continuous:
            vm.offset0 = vm.stop_cycles - self.world.read_ps() * move.target_khz // SECOND
        await cp("lets L1 run")
        if self.snapshot.emulates:
            self.l2.emulated_cycles = vm.stop_cycles - self.world.read_ps() * move.source_khz // SECOND
            self.l2.emulated = vm.runs1 = vm.thawed = True
            return
        stopped_ns = own.ns(vm.stop_cycles)
        clock = clocksource("tsc", tsc_khz=move.target_khz)
        own.cycle_last, _ = self.tsc()
        self.outcome.begins = own.cycle_last
        own.mult, own.shift, own.snsec, own.epoch = clock.mult, clock.shift, stopped_ns << clock.shift, 1
        vm.runs1 = vm.thawed = True

    async def acknowledge(self) -> None:
        """L1 has been told by an interrupt, and does this in a task, when it likes."""
        vm, l2, own = self.vm, self.l2, self.own
        await cp("takes the interrupt", until=lambda: vm.thawed)
        if self.snapshot.stops_l2:
            await cp("stops L2")
            l2.stopped = True
        await cp("ends the emulation")
        cycles, _ = self.tsc()
        ns, self.outcome.stop = own.ns(cycles), cycles
        l2.emulated = False
        clock = clocksource("tsc", tsc_khz=self.move.target_khz)
        own.cycle_last, _ = self.tsc()
        self.outcome.begins = own.cycle_last
        own.mult, own.shift, own.snsec, own.epoch = clock.mult, clock.shift, ns << clock.shift, 1
        await cp("makes L2's page")
        self._make_page()
        await cp("lets L2 run")
        l2.stopped = False

    async def refresh(self) -> None:
        """L1's next tick sees that its clock has changed, and its KVM makes L2's page anew."""
        vm = self.vm
        await cp("a tick in L1", until=lambda: vm.thawed)
        await cp("makes L2's page", delay_ps=Between.of(0, TICK_NS * 1000))
        self._make_page()

    def _make_page(self) -> None:
        own, page = self.own, self.page
        cycles, _ = self.tsc()
        page.snsec, page.cycle_last, page.mult, page.shift = own.ns(cycles) << own.shift, cycles, own.mult, own.shift
        page.epoch = 1
        page.seq += 2

    async def reader(self) -> None:
        vm, page, l2 = self.vm, self.page, self.l2

        def goes() -> bool:
            return vm.runs1 and not l2.stopped

        for index in range(2):
            while True:
                await cp("page reads", until=goes)
                seq, number, (cycles, ps) = page.seq, len(self.world.events), self.tsc()
                ns, epoch, site = page.ns(cycles), page.epoch, 0 if l2.emulated else vm.site
                await cp("page returns", until=goes)
                if page.seq == seq:
                    break
            returned = len(self.world.events)
            reading = Reading(index, "page", number, ns, ns, cycles, ps, epoch, site, returned)
            self.outcome.readings.append(reading)
            self.outcome.reached.add(f"page in epoch {reading.epoch}")
        self.outcome.finished = True
