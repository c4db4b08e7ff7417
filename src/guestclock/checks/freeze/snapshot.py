"""What the thread was about to do instead: L2's kvmclock from a snapshot of L1's clock.

L1 runs on kvm-clock, a linear transformation of the TSC; its KVM makes L2's page from a snapshot of it (value and TSC),
and L2 reads the TSC itself. When L1 moves to another frequency, its own page is made anew before it runs. L2's is made
by L1, which learns of it at its next tick at the earliest, while L2 runs. Nothing is frozen.

Limits: the page is a line with a sequence like any other here (`clocks.Line`); pvclock's own rounding is not in it.
L1's clock itself is taken as right: it stands still over the downtime, to the ns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guestclock.checks.freeze.clocks import (
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
from guestclock.sim import cp

TICK_NS = 4 * MILLISECOND
ASKED = ("never-back", "one-epoch", "counts-what-ran")


def cases() -> list[Case]:
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
                    build=build(move), bounds=move.bounds, invariants=ASKED,
                    must=("page in epoch 0", "page in epoch 1"),
                )
            )  # fmt: skip
    return found


def build(move: Move) -> Callable[[World], Outcome]:
    """The world of one move of L1."""

    def made(world: World) -> Outcome:
        return _World(move, world).outcome

    return made


class _World:
    def __init__(self, move: Move, world: World) -> None:
        self.move, self.world, self.vm = move, world, Vm()
        clock = clocksource("tsc", tsc_khz=move.source_khz)
        begun = {"cycle_last": BEGUN_CYCLES, "snsec": BEGUN_NS << clock.shift, "mult": clock.mult, "shift": clock.shift}
        self.own, self.page = Line(**begun), Line(**begun)
        self.outcome = Outcome(world, Protocol(), move, self.vm, contracts=set())
        if not move.continuous:
            self.vm.offset0 = world.unknown("the target's TSC", 0, MOST_CYCLES)
        world.spawn("VMM", self.vmm())
        world.spawn("L1's KVM", self.refresh())
        world.spawn("reader", self.reader())

    def tsc(self) -> tuple[Any, Any]:
        vm, now = self.vm, self.world.read_ps()
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
        stopped_ns = own.ns(vm.stop_cycles)
        clock = clocksource("tsc", tsc_khz=move.target_khz)
        own.cycle_last, _ = self.tsc()
        self.outcome.begins = own.cycle_last
        own.mult, own.shift, own.snsec, own.epoch = clock.mult, clock.shift, stopped_ns << clock.shift, 1
        vm.runs1 = vm.thawed = True

    async def refresh(self) -> None:
        """L1's next tick sees that its clock has changed, and its KVM makes L2's page anew."""
        vm, own, page = self.vm, self.own, self.page
        await cp("a tick in L1", until=lambda: vm.thawed)
        await cp("makes L2's page", delay_ps=Between.of(0, TICK_NS * 1000))
        cycles, _ = self.tsc()
        page.snsec, page.cycle_last, page.mult, page.shift = own.ns(cycles) << own.shift, cycles, own.mult, own.shift
        page.epoch = 1
        page.seq += 2

    async def reader(self) -> None:
        vm, page = self.vm, self.page
        for index in range(2):
            while True:
                await cp("page reads", until=lambda: vm.runs1)
                seq, number, (cycles, ps) = page.seq, len(self.world.events), self.tsc()
                ns, epoch, site = page.ns(cycles), page.epoch, vm.site
                await cp("page returns", until=lambda: vm.runs1)
                if page.seq == seq:
                    break
            returned = len(self.world.events)
            reading = Reading(index, "page", number, ns, ns, cycles, ps, epoch, site, False, False, False, returned)
            self.outcome.readings.append(reading)
            self.outcome.reached.add(f"page in epoch {reading.epoch}")
        self.outcome.finished = True
