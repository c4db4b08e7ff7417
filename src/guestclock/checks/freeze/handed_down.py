"""The thread's first case: L2's frequency is L1's, unchanged, and nothing happens to either, but for a host's sleep.

L1 gives L2 no ratio, only an offset; L0 scales L1's TSC. What L2 reads is what KVM composes for it
(`arith.nested_tsc_ratio`, `nested_tsc_offset`), so L1 can make its pages from its own counter and be right to the
cycle: no freeze, no snapshot of a clock is needed. A sleep of the host's is counted by its TSC, by L1's and by L2's.

Limits: the host's TSC counts on through the sleep. What KVM makes of one that does not is `guestclock check
threads/2021-suspend`'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from guestclock.arith import nested_tsc_offset, nested_tsc_ratio, scale_tsc
from guestclock.checks.asks import Ask, Question
from guestclock.checks.freeze.clock_states import (
    BEGUN_NS,
    MOST_CYCLES,
    NO_TICK,
    ONE,
    SECOND,
    Line,
    Move,
    Outcome,
    Reading,
    Vm,
)
from guestclock.checks.freeze.nested_clocks import L2_OFFSET
from guestclock.checks.freeze.protocol import Protocol
from guestclock.explore.world import World
from guestclock.linux import Timekeeper, clocksource
from guestclock.sim import cp


@dataclass
class Handed(Outcome):
    """apart: at each reading, L2's counter less L1's and L2's offset, cycles."""

    apart: list[tuple[int, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Handing:
    """composes: while L2 runs, L0 scales its TSC by L1's ratio as well."""

    composes: bool = True


def build(handing: Handing, move: Move) -> Callable[[World], Handed]:
    """The world of one host and its sleep."""
    return lambda world: _World(handing, move, world).outcome


class _World:
    def __init__(self, handing: Handing, move: Move, world: World) -> None:
        self.move, self.handing, self.world, self.vm = move, handing, world, Vm()
        self.began = world.unknown("the host's TSC", 0, MOST_CYCLES)
        self.vdso = Line()
        self.outcome = Handed(world, Protocol(), move, self.vm, contracts={NO_TICK}, unaware=True)
        world.spawn("host", self.host())
        world.spawn("reader", self.reader())

    def tsc(self) -> tuple[Any, Any, Any]:
        """(L1's counter, L2's, true time in ps), at one look."""
        move, now = self.move, self.world.read_ps()
        host = now * move.source_khz // SECOND + self.began
        l1 = scale_tsc(host, move.source_ratio, 48)
        ratio = nested_tsc_ratio(move.source_ratio if self.handing.composes else ONE, ONE, 48)
        return l1, scale_tsc(host, ratio, 48) + nested_tsc_offset(0, L2_OFFSET, ONE, 48), now

    async def host(self) -> None:
        vm = self.vm
        await cp("falls asleep")
        vm.runs1 = False
        await cp("wakes up", delay_ps=self.move.sleep_ns * 1000)
        vm.runs1, vm.slept_ps = True, self.move.sleep_ns * 1000

    async def reader(self) -> None:
        vm, line = self.vm, self.vdso
        await cp("L2's clock begins", until=lambda: vm.runs1)
        clock, (_, begun, _) = clocksource("tsc", tsc_khz=self.move.guest_khz[0]), self.tsc()
        line.store(Timekeeper.start(clock, begun, hz=250, monotonic_ns=BEGUN_NS, realtime_ns=10**18), 0)
        for index in range(2):
            await cp("vdso reads", until=lambda: vm.runs1)
            number = len(self.world.events)
            l1, cycles, ps = self.tsc()
            ns = line.ns(cycles)
            self.outcome.apart.append((number, cycles - l1 - L2_OFFSET))
            reading = Reading(index, "vdso", number, ns, ns, cycles, ps, 0, 0, number)
            self.outcome.readings.append(reading)
            self.outcome.reached.add(f"reading {index} {'after' if vm.slept_ps else 'before'} the sleep")
        self.outcome.finished = True


def handed_down(outcome: Any) -> Iterator[Ask]:
    """C7, (1): L2's counter is L1's and the offset that L1 gave, to the cycle, whatever scales L1's."""
    for number, apart in getattr(outcome, "apart", ()):
        for sense, value in (("ahead of L1's", apart), ("behind L1's", -apart)):
            yield Ask(sense, "cycles", "L2's counter", f"{sense} {number}", (number,), (), (), partial(_as_made, value))


def _as_made(value: Any, _: Any) -> Any:
    return value


HANDED_QUESTIONS = (
    Question(
        "handed-down", "L2's counter is L1's and an offset, to the cycle",
        source="C7; the mail's first case", breaks="every clock that L1 makes for its L2s", asks=handed_down,
    ),
)  # fmt: skip
