"""An L2 that takes no part while its L1 is frozen and moved: L1 alone sees to it that L2's clocks stay right.

L1 stops L2's vCPUs, is frozen and moved, and goes on. Before L2 runs again, L1 has it count at the old frequency from
where it would be by now: by a ratio and an offset, m12' = m12 * f_s / f_d, or by answering RDTSC itself. So L2's clocks
run through, MONOTONIC as well: nobody has told L2 of a downtime, and a counter that stood still would make BOOTTIME
short by it.

What L2 reads is not what L1 computes: the hardware has one ratio and one offset for L2, which KVM composes of both
levels' and truncates (`arith.nested_tsc_ratio`). Where L1 is scaled itself they differ by up to the host's TSC over
2^frac_bits cycles, and L1 cannot see by how much: `misplaced`, on numbers. The world has an L1 that is not scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from guestclock.arith import mul_u64_u64_shr, nested_tsc_offset, nested_tsc_ratio, s64, scale_tsc, u64
from guestclock.checks.freeze.clock_states import BEGUN_CYCLES, MOST_CYCLES, ONE, SECOND, Move, Outcome
from guestclock.checks.freeze.nested_clocks import L2_OFFSET, NestedWorld, Nesting
from guestclock.checks.protocol import Shown
from guestclock.explore.world import World
from guestclock.linux import clocksource
from guestclock.sim import State, cp
from guestclock.sim.field import flag, integer

SCALED, TRAPPED, LEFT = "scaled", "trapped", "left"
SOURCE_KHZ = 2_400_000
KHZ_PER_NS = 10**6


@dataclass(frozen=True, kw_only=True, slots=True)
class Unaware:
    """What L1 does for its L2. how: SCALED, TRAPPED (RDTSC is answered by L1), or LEFT: nothing. frac_bits: of the
    ratios, 48 (VMX) or 32 (SVM). placed_first: before L2 runs again, not after.
    """

    how: str = SCALED
    frac_bits: int = 48
    placed_first: bool = True


class Placed(State):
    """L2's counter as L1 has made it."""

    ratio = integer("m12, with frac_bits fraction bits")
    offset = integer("o12, cycles of L2's", L2_OFFSET)
    trapped = flag("L1 answers RDTSC: the old frequency from since_cycles on, where it says value_cycles")
    since_cycles = integer("L1's counter")
    value_cycles = integer("L2's")


def ratio_for(source_khz: int, target_khz: int, frac_bits: int) -> int:
    """With what L1 scales its own TSC of target_khz so that L2's counts at source_khz: rounded down."""
    return (source_khz << frac_bits) // target_khz


def slow_cycles(source_khz: int, target_khz: int, frac_bits: int) -> tuple[int, int]:
    """What L2's counter loses by that rounding: cycles in so many seconds, as a fraction (num, den).

    Always less than target_khz * 1000 / 2^frac_bits a second.
    """
    rest = (source_khz << frac_bits) % target_khz
    return rest * 1000, 1 << frac_bits


def misplaced_cycles(host: int, l1_offset: int, wanted: int, *, l1_khz: int, host_khz: int, bits: int) -> int:
    """How far L2's counter is behind where an L1 that is scaled itself has placed it by its own counter; integers.

    L1 has the host's TSC scaled to l1_khz and l1_offset added, and gives L2 2.4 GHz and an offset that make `wanted`.
    """
    l1_ratio, ratio = ratio_for(l1_khz, host_khz, bits), ratio_for(SOURCE_KHZ, l1_khz, bits)
    l1 = scale_tsc(host, l1_ratio, bits) + l1_offset
    offset = u64(wanted - mul_u64_u64_shr(l1, ratio, bits))
    scaled = scale_tsc(host, nested_tsc_ratio(l1_ratio, ratio, bits), bits)
    return wanted - s64(u64(scaled + nested_tsc_offset(u64(l1_offset), offset, ratio, bits)))


@dataclass(frozen=True, slots=True)
class Placing:
    """An L1 that is scaled itself places its L2's counter by its own. frac_bits: of both ratios."""

    frac_bits: int = 48


def misplaced(placing: Placing) -> Iterator[Shown]:
    """Integer runs: L1 is scaled to 3.0 GHz by a 2.9 GHz host that has been up for no time, two hours and 87 days.

    L2 was away for a microsecond. 66 cycles are what 48 bits make of 87 days, and the floors.
    """
    mult_shift = clocksource("tsc", tsc_khz=SOURCE_KHZ)
    stopped = BEGUN_CYCLES
    wanted = stopped + SOURCE_KHZ // 1000
    for host in (0, 1 << 44, MOST_CYCLES):
        for l1_offset in (0, 1 << 43, -(host >> 1)):
            behind = misplaced_cycles(
                host, l1_offset, wanted, l1_khz=3_000_000, host_khz=2_900_000, bits=placing.frac_bits
            )
            back_ns, lost_ns = (n * mult_shift.mult >> mult_shift.shift for n in (stopped - wanted + behind, behind))
            who = f"L2 on a host whose TSC is {host}"
            yield Shown("never-back", back_ns, "ns", "back", who)
            yield Shown(
                "counts-downtime", abs(lost_ns), "ns", "lost by BOOTTIME", who, 66 * 1000 * 1000 // SOURCE_KHZ + 1
            )


def build(unaware: Unaware, move: Move) -> Callable[[World], Outcome]:
    """The world of what L1 does for an L2 that takes no part, and one move."""
    return lambda world: _World(unaware, move, world).outcome


class _World(NestedWorld):
    def __init__(self, unaware: Unaware, move: Move, world: World) -> None:
        self.unaware = unaware
        self.bits = unaware.frac_bits
        self.one = 1 << self.bits
        self.began = world.unknown("the other host's TSC", 0, MOST_CYCLES)
        self.placed = Placed(ratio=self.one)
        super().__init__(Nesting(), move, world)
        self.outcome.unaware = True
        if unaware.how == SCALED:
            self.outcome.parts = ONE // self._l2_ratio() + 1

    def actors(self) -> dict[str, Any]:
        return {"L0": self.l0(), "L1's VMM": self.l1_vmm(), "L1": self.handler(1), "reader": self.reader()}

    @property
    def site(self) -> int:
        return 0 if self.placed.trapped or self.placed.ratio != self.one else self.vm.site

    # ---- counters

    def tsc(self, level: int) -> tuple[Any, Any]:
        vm, now = self.vm, self.world.read_ps()
        if vm.site == 0:
            return now * self.move.source_khz // SECOND + BEGUN_CYCLES + (L2_OFFSET if level == 2 else 0), now
        host = now * self.move.target_khz // SECOND + self.began
        l1 = host + vm.offset0
        if level == 1:
            return l1, now
        placed = self.placed
        if placed.trapped:
            source, target = self.move.guest_khz
            return placed.value_cycles + (l1 - placed.since_cycles) * source // target, now
        composed = nested_tsc_offset(vm.offset0, placed.offset, placed.ratio, self.bits)
        return scale_tsc(host, placed.ratio, self.bits) + composed, now

    def arrive(self) -> None:
        vm, move = self.vm, self.move
        vm.site, vm.offset0 = 1, self.any_tsc
        if move.continuous:
            vm.offset0 = 0
            vm.offset0 = self.l1.stop_cycles - self.tsc(1)[0]

    def _l2_ratio(self) -> int:
        source, target = self.move.guest_khz
        return ratio_for(source, target, self.bits)

    # ---- L1's VMM

    async def l1_vmm(self) -> None:
        vm, l1, l2, tk = self.vm, self.l1, self.l2, self.tk1
        await cp("stops L2", until=lambda: vm.irq and self.goes(1, 1))
        l2.runs1 = False
        cycles, l2.stop_cycles = self._both()
        self.outcome.stop = l2.stop_cycles
        l2.stop_boottime_ns = tk.boottime_ns(cycles)
        vm.exited = True
        steps = [("gives L2 its old frequency", self._place), ("lets L2 run", self._let_run)]
        for label, step in steps if self.unaware.placed_first else steps[::-1]:
            await cp(label, until=lambda: l1.thawed and self.goes(1, 1))
            step()

    def _let_run(self) -> None:
        self.l2.runs1 = True

    def _place(self) -> None:
        """By L1's own clock and counter, at one look: L2's counter shall be where it would be had nothing happened."""
        if self.unaware.how == LEFT:
            return
        cycles, _ = self.tsc(1)
        gone_ns = self.tk1.boottime_ns(cycles) - self.l2.stop_boottime_ns
        wanted = self.l2.stop_cycles + gone_ns * self.move.guest_khz[0] // KHZ_PER_NS
        placed = self.placed
        if self.unaware.how == TRAPPED:
            placed.trapped, placed.since_cycles, placed.value_cycles = True, cycles, wanted
        else:
            placed.ratio = self._l2_ratio()
            placed.offset = wanted - mul_u64_u64_shr(cycles, placed.ratio, self.bits)
