"""L1 moves with an L2 inside (the thread's fourth case), with times: what L2's readers see, and its BOOTTIME.

Two phases. L1's VMM freezes L2 and stops its vCPUs, as any host would; then L1 is frozen itself, by the same protocol,
and moved. Afterwards L1 goes on first, then it writes L2's record and lets L2 go on. L2's downtime is longer than L1's,
and L1's own BOOTTIME knows it. L2's TSC is L1's and an offset: the frequency is handed down.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from guestclock.checks.freeze.clock_states import (
    BEGUN_CYCLES,
    BEGUN_NS,
    MOST_CYCLES,
    NO_TICK,
    SECOND,
    Line,
    Move,
    Outcome,
    Reading,
    Vm,
)
from guestclock.checks.freeze.protocol import Protocol
from guestclock.explore.world import World
from guestclock.guest.freeze import MIGRATED, Record, freeze, reconfigure, unfreeze
from guestclock.linux import Timekeeper, clocksource
from guestclock.sim import State, cp
from guestclock.sim.field import flag, integer

L2_OFFSET = 123_456_789


@dataclass(frozen=True, kw_only=True, slots=True)
class Nesting:
    """inner_first: L2 is frozen before L1 is. by_l1: L2's downtime is what L1's BOOTTIME gained, not what L0 told L1.

    one_look: L1 takes L2's counter and its own BOOTTIME at one value of its TSC, not one after the other.
    """

    inner_first: bool = True
    by_l1: bool = True
    one_look: bool = True


class Guest(State):
    """One of the two guests, as whoever runs it sees it."""

    irq = flag("the freeze interrupt is pending")
    frozen = flag("from the end of freeze() to that of unfreeze()")
    exited = flag("V0 has told that it is frozen")
    told = flag("its record is written")
    thawed = flag("V0 has told that it is not frozen any more")
    runs0 = flag("V0 may be in guest mode", True)
    runs1 = flag("the other vCPU may", True)
    stop_cycles = integer("its counter when the last vCPU had stopped")
    stop_boottime_ns = integer("what the BOOTTIME of whoever runs it said then; L2's only")


def build(nesting: Nesting, move: Move) -> Callable[[World], Outcome]:
    """The world of one order of the two guests and one move."""
    return lambda world: NestedWorld(nesting, move, world).outcome


class NestedWorld:
    """L0, L1, L2 and a reader in L2, who takes two readings of its vDSO. `unaware` has another L2."""

    def __init__(self, nesting: Nesting, move: Move, world: World) -> None:
        self.nesting, self.move, self.world = nesting, move, world
        self.vm, self.l1, self.l2 = Vm(offset0=BEGUN_CYCLES), Guest(), Guest()
        clock = clocksource("tsc", tsc_khz=move.source_khz)
        begun = {"hz": 250, "monotonic_ns": BEGUN_NS, "realtime_ns": 10**18}
        self.tk1 = Timekeeper.start(clock, BEGUN_CYCLES, **begun)
        self.tk2 = Timekeeper.start(clock, BEGUN_CYCLES + L2_OFFSET, **begun)
        self.vdso2, self.record1, self.record2 = Line(), Record(), Record()
        self.vdso2.store(self.tk2, 0)
        self.any_tsc = world.unknown("the other TSC", 0, MOST_CYCLES)
        self.outcome = Outcome(world, Protocol(), move, self.vm, contracts={NO_TICK})
        for name, actor in self.actors().items():
            world.spawn(name, actor)

    def actors(self) -> dict[str, Any]:
        return {
            "L0": self.l0(), "L1's VMM": self.l1_vmm(), "L1": self.handler(1), "L2": self.handler(2),
            "reader": self.reader(),
        }  # fmt: skip

    @property
    def site(self) -> int:
        """Whose counter L2 reads: 0 the old host's, or one that counts as it did; 1 the new one's."""
        return self.vm.site

    def tsc(self, level: int) -> tuple[Any, Any]:
        vm, now = self.vm, self.world.read_ps()
        khz = self.move.target_khz if vm.site else self.move.source_khz
        return now * khz // SECOND + vm.offset0 + (L2_OFFSET if level == 2 else 0), now

    def goes(self, level: int, vcpu: int = 0) -> bool:
        """Whether a vCPU can take a step: an L2's only where L1 runs."""
        guest = self.l1 if level == 1 else self.l2
        runs = guest.runs1 if vcpu else guest.runs0
        return runs and (level == 1 or self.l1.runs1)

    # ---- who freezes whom

    async def l0(self) -> None:
        vm, l1, move, record = self.vm, self.l1, self.move, self.record1
        if self.nesting.inner_first:
            await cp("asks L1 to get ready")
            vm.irq = True
            await cp("2 injects L1's interrupt", until=lambda: vm.exited)
        else:
            await cp("2 injects L1's interrupt")
        l1.irq = True
        await cp("6 stops L1", until=lambda: l1.exited)
        l1.runs1 = False
        l1.stop_cycles, vm.stop_ps = self.tsc(1)
        if move.sleep_ns:
            await cp("6 wakes up", delay_ps=move.sleep_ns * 1000)
        await cp("6 has moved it", delay_ps=move.away)
        self.arrive()
        await cp("7 writes L1's record")
        record.status, record.stop_cycles = MIGRATED, l1.stop_cycles
        record.clock = clocksource("tsc", tsc_khz=move.guest_khz[1])
        record.as_of_cycles, now = self.tsc(1)
        record.downtime_ns = (now - vm.stop_ps) // 1000
        l1.told = True
        await cp("8 lets L1 run")
        l1.runs0 = True
        await cp("11 lets all of L1 run", until=lambda: l1.thawed)
        l1.runs1 = True
        if not self.nesting.inner_first:
            vm.irq = True

    def arrive(self) -> None:
        """L1 is on the other host: its counter goes on from where it stopped, or has any value."""
        vm, move = self.vm, self.move
        vm.site, vm.offset0 = 1, self.any_tsc
        if move.continuous:
            vm.offset0 = self.l1.stop_cycles - self.world.read_ps() * move.target_khz // SECOND

    async def l1_vmm(self) -> None:
        """A task of L1's: prepares, so that L1 can be frozen, and lets L2 go on when L1 does."""
        vm, l1, l2, tk, record = self.vm, self.l1, self.l2, self.tk1, self.record2
        await cp("2 injects L2's interrupt", until=lambda: vm.irq and self.goes(1, 1))
        l2.irq = True
        await cp("6 stops L2", until=lambda: l2.exited and self.goes(1, 1))
        l2.runs1 = False
        cycles, l2.stop_cycles = self._both()
        self.outcome.stop = l2.stop_cycles
        l2.stop_boottime_ns = tk.boottime_ns(cycles)
        vm.exited = True
        await cp("7 writes L2's record", until=lambda: l1.thawed and self.goes(1, 1))
        record.status, record.stop_cycles = MIGRATED, l2.stop_cycles
        record.clock = clocksource("tsc", tsc_khz=self.move.target_khz)
        cycles, record.as_of_cycles = self._both()
        by_l1 = tk.boottime_ns(cycles) - l2.stop_boottime_ns
        record.downtime_ns = by_l1 if self.nesting.by_l1 else self.record1.downtime_ns
        l2.told = True
        await cp("8 lets L2 run", until=lambda: self.goes(1, 1))
        l2.runs0 = True
        await cp("11 lets all of L2 run", until=lambda: l2.thawed and self.goes(1, 1))
        l2.runs1 = True

    def _both(self) -> tuple[Any, Any]:
        """L1's counter and L2's, as L1 takes them."""
        l2_cycles, _ = self.tsc(2)
        return (l2_cycles - L2_OFFSET if self.nesting.one_look else self.tsc(1)[0]), l2_cycles

    # ---- the guests

    async def handler(self, level: int) -> None:
        guest, tk, record = (self.l1, self.tk1, self.record1) if level == 1 else (self.l2, self.tk2, self.record2)
        await cp("4 freezes", until=lambda: guest.irq and self.goes(level))
        cycles, _ = self.tsc(level)
        freeze(tk, cycles)
        guest.frozen = True
        if level == 2:
            self.vdso2.store(tk, 0)
            self.vdso2.seq += 2
        await cp("5 exits", until=lambda: self.goes(level))
        guest.exited, guest.runs0 = True, False
        await cp("9 reconfigures", until=lambda: guest.told and self.goes(level))
        cycles, _ = self.tsc(level)
        reconfigure(tk, record, cycles)
        if level == 2:
            self.outcome.begins = tk.cycle_last
        await cp("10 unfreezes", until=lambda: self.goes(level))
        cycles, _ = self.tsc(level)
        unfreeze(tk, record, cycles)
        if level == 2:
            self.vdso2.store(tk, 1)
            self.vdso2.seq += 2
        guest.frozen, guest.thawed = False, True

    async def reader(self) -> None:
        line, l2 = self.vdso2, self.l2
        for index in range(2):
            while True:
                await cp("vdso reads", until=lambda: self.goes(2, 1))
                seq, number, (cycles, ps) = line.seq, len(self.world.events), self.tsc(2)
                ns, boottime_ns, epoch, site = (
                    line.ns(cycles),
                    line.ns(cycles) + line.offs_boot_ns,
                    line.epoch,
                    self.site,
                )
                frozen = l2.frozen, self.l1.frozen
                await cp("vdso returns", until=lambda: self.goes(2, 1))
                if line.seq == seq:
                    break
            returned = len(self.world.events)
            reading = Reading(index, "vdso", number, ns, boottime_ns, cycles, ps, epoch, site, returned, False, *frozen)
            self.outcome.readings.append(reading)
            self.outcome.reached |= {f"vdso in epoch {reading.epoch}", f"vdso at site {self.vm.site}"}
        self.outcome.finished = True
