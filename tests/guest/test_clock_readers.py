"""Readers beside writers, over all orders and times: never torn with the sequences, torn without, and by how much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import floor
from typing import Any

import pytest

from guestclock.abi.pvclock import PvclockVcpuTimeInfo
from guestclock.explore.leaf import Impossible, Leaf
from guestclock.explore.run import Run
from guestclock.explore.search import Search
from guestclock.explore.world import Bounds, World
from guestclock.guest.clock_readers import (
    Cost,
    Cpu,
    KvmclockSource,
    Lock,
    TscSource,
    fast,
    getter,
    in_irq,
    in_nmi,
    vdso,
    write_section,
)
from guestclock.guest.pvclock import LastValue, PvclockReader
from guestclock.linux import Timekeeper, Timex, clocksource
from guestclock.linux.ntp import ADJ_FREQUENCY
from guestclock.linux.readout import Readout
from guestclock.linux.timekeeper import CLOCKS
from guestclock.sim import Deadlock, Scheduler, Timeline, cp

SECOND = 10**9
SLEPT = 600 * SECOND
GHZ = 1_000_000  # kHz: a cycle is a nanosecond, exactly
BOUNDS = Bounds(horizon=100_000_000, delay=4_000_000, section=1000)


@dataclass
class Guest:
    """A guest of 1 GHz in the explorer's hands; MONOTONIC is `start_ns` and the counter 0 where time begins."""

    world: World
    start_ns: int = 5 * SECOND - 2_000_000  # the second after begins 2 ms into the run
    realtime_ns: int = 1_000 * SECOND - 2_000_000

    def __post_init__(self) -> None:
        clock = clocksource("tsc", tsc_khz=GHZ)
        self.tk = Timekeeper.start(clock, 0, hz=250, monotonic_ns=self.start_ns, realtime_ns=self.realtime_ns)
        self.readout, self.lock = Readout.of(self.tk), Lock()
        self.cpus = Cpu(), Cpu()
        self.seen: dict[str, Any] = {}

    def counter(self) -> Any:
        return self.world.read_ps()

    def writer(self, change: Callable[[Timekeeper, Any], Any], cpu: int = 0, **how: Any) -> Any:
        return write_section(self.lock, self.cpus[cpu], self.tk, self.readout, self.counter, change, **how)

    async def reads(self, name: str, reader: Any, clock: str, **how: Any) -> None:
        """What it shows too much, as of its own reading of the counter: 0, or the sleep that has been injected."""
        at: list[Any] = []

        def rdtsc() -> Any:
            at.append(self.counter())
            return at[-1]

        shown = await reader(self.readout, clock, TscSource(rdtsc), Cost(), **how)
        base = self.realtime_ns if clock in ("realtime", "tai") else self.start_ns
        self.seen[name] = shown - (at[-1] + base)


def ranges(
    actors: Callable[[Guest], list[Any]], ask: str | Callable[[dict[str, Any]], Any] = "read", bounds: Bounds = BOUNDS
) -> set[tuple[int, int]]:
    """(least, most) of what a reading shows too much, for every order of the actors' steps."""
    asked = ask if callable(ask) else lambda seen: seen.get(ask)

    def build(world: World) -> dict[str, Any]:
        guest = Guest(world)
        for i, actor in enumerate(actors(guest)):
            world.spawn(f"{i}", actor)
        return guest.seen

    search = Search(build, bounds)
    found: set[tuple[int, int]] = set()
    cache: dict[Any, Any] = {}

    def leaf(run: Run) -> None:
        assert not run.stuck(), "somebody waits for ever"
        if asked(run.world) is None:
            return
        ends = []
        for sign in (-1, 1):
            try:
                worst = Leaf(run, search.solver, cache).question().worst(lambda s=sign: asked(run.world) * s)
            except Impossible:
                return
            assert worst is not None
            ends.append(sign * floor(worst.upper))  # proved in rationals, of what is a whole number
        found.add((ends[0], ends[1]))

    search.run(leaf)
    return found


def inject(tk: Timekeeper, cycles: Any) -> None:
    tk.inject_sleeptime64(cycles, SLEPT)


@pytest.mark.parametrize("clock", ["monotonic", "boottime", "realtime"])
@pytest.mark.parametrize("reader", [getter, vdso])
def test_with_its_sequence_a_reader_sees_before_or_after_and_nothing_between(reader, clock):
    found = ranges(lambda g: [g.writer(inject), g.reads("read", reader, clock)])
    after = 0 if clock == "monotonic" else SLEPT
    assert found == {(0, 0), (after, after)}


@pytest.mark.parametrize("reader", [getter, vdso])
def test_without_it_a_reader_is_off_by_all_that_was_not_accumulated_and_by_a_second(reader):
    """New xtime with the old cycle_last counts twice what passed since the last update.

    And where nanoseconds are of the second that has begun and the base is not, a second is missing; in the vDSO, which
    loads the nanoseconds first, one is too many.
    """
    found = ranges(lambda g: [g.writer(inject), g.reads("read", reader, "monotonic", retry=False)])
    ends = [end for both in found for end in both]
    torn = min(ends) if reader is getter else -max(ends)
    assert torn == pytest.approx(-SECOND, abs=20_000_000)
    assert any(0 < end < 20_000_000 for end in ends)


@pytest.mark.parametrize("reader", [getter, vdso])
def test_a_writer_that_leaves_the_sequences_alone_is_found_as_well(reader):
    found = ranges(lambda g: [g.writer(inject, sequence=False), g.reads("read", reader, "monotonic")])
    assert any(least != 0 or most != 0 for least, most in found)


@pytest.mark.parametrize("clock", ["monotonic", "boottime", "realtime"])
def test_a_fast_reader_never_sees_a_torn_base_but_boottimes_offset_is_read_without_protection(clock):
    found = ranges(lambda g: [g.writer(inject), g.reads("read", fast, clock)])
    # A counter read before the writer's, shown by the new base: clamped, so ahead by what lies between them.
    ahead = {(least, most) for least, most in found if (least, most) not in ((0, 0), (SLEPT, SLEPT))}
    assert all(least % SLEPT >= 0 and most % SLEPT <= 20_000_000 for least, most in ahead)
    assert (0, 0) in found
    if clock != "monotonic":
        assert (SLEPT, SLEPT) in found


def lower(tk: Timekeeper, cycles: Any) -> None:
    tk.adjtimex(cycles, Timex(modes=ADJ_FREQUENCY, freq=-500 << 16))


def test_an_nmi_in_the_middle_of_an_update_reads_a_whole_clock_and_an_irq_waits_for_the_writer():
    """On the writer's own CPU: the NMI by the latch, at any store; the interrupt by the sequence, after all of them."""

    def nmi(guest: Guest) -> list[Any]:
        return [guest.writer(inject), in_nmi(guest.cpus[0], lambda: guest.reads("read", fast, "monotonic"))]

    assert {(least, most) for least, most in ranges(nmi) if most <= 0} == {(0, 0)}

    def irq(guest: Guest) -> list[Any]:
        return [guest.writer(inject), in_irq(guest.cpus[0], lambda: guest.reads("read", getter, "boottime"))]

    assert ranges(irq) == {(0, 0), (SLEPT, SLEPT)}


def run_concretely(actors: Callable[[Guest], list[Any]], seed_steps: Any = 1000) -> dict[str, Any]:
    """One run in numbers; a picosecond is a cycle."""
    timeline = Timeline()
    scheduler = Scheduler(timeline, seed_steps)
    guest = Guest(timeline)  # type: ignore[arg-type]
    for i, actor in enumerate(actors(guest)):
        scheduler.spawn(f"{i}", actor)
    scheduler.run()
    return guest.seen


def test_an_nmi_that_reads_by_the_sequence_waits_for_ever():
    """What the latches are for."""

    def actors(guest: Guest) -> list[Any]:
        async def late_nmi() -> None:
            await cp("later", until=lambda: guest.readout.seq & 1 == 1)
            await in_nmi(guest.cpus[0], lambda: guest.reads("read", getter, "monotonic"))

        return [guest.writer(inject), late_nmi()]

    with pytest.raises(Deadlock):
        run_concretely(actors)


def test_a_frozen_timekeeper_stops_getters_and_does_not_stop_the_vdso():
    """The 2017 text's premise, and its hole: only tk_core.seq is left odd."""

    def frozen(reader: Any) -> Callable[[Guest], list[Any]]:
        def actors(guest: Guest) -> list[Any]:
            guest.readout.seq += 1
            return [guest.reads("read", reader, "monotonic")]

        return actors

    assert run_concretely(frozen(vdso))["read"] == 0
    assert run_concretely(frozen(fast))["read"] == 0
    with pytest.raises(Deadlock):
        run_concretely(frozen(getter))


# ---- what a reading costs


def cost_of(reader: Any, source: Any, clock: str = "monotonic") -> tuple[int, int]:
    """(sequences, conversions) of one reading that nobody disturbs."""
    tk = Timekeeper.start(clocksource("tsc", tsc_khz=2_596_122), 0, hz=250, monotonic_ns=0, realtime_ns=0)
    if isinstance(source, KvmclockSource):
        tk = Timekeeper.start(clocksource("kvm-clock", tsc_khz=1), 0, hz=250, monotonic_ns=0, realtime_ns=0)
    readout, cost = Readout.of(tk), Cost()
    scheduler = Scheduler(Timeline())
    scheduler.spawn("reader", reader(readout, clock, source, cost))
    scheduler.run()
    assert cost.retries == 0
    return cost.sequences, cost.conversions


def kvmclock() -> KvmclockSource:
    page = PvclockVcpuTimeInfo(2, 1_000, 5_000, 0xC5379CA5, -1, 1)
    return KvmclockSource(PvclockReader(), page, page, lambda: 10**9, LastValue())


@pytest.mark.parametrize("reader", [getter, vdso, fast])
@pytest.mark.parametrize("clock", CLOCKS)
def test_a_reading_costs_one_sequence_and_one_conversion_on_the_tsc_and_two_of_each_on_kvm_clock(reader, clock):
    assert cost_of(reader, TscSource(lambda: 10**9), clock) == (1, 1)
    assert cost_of(reader, kvmclock(), clock) == (2, 2)


# ---- the latch's step back


def test_a_latch_may_show_a_step_back_across_an_update_by_what_the_rate_was_lowered():
    """Documented in the kernel: who is sent to the copy that is not yet written goes on at the old, steeper rate.

    At 500 ppm less, and with an update that takes up to 2 ms here (a CPU below can be taken away), up to 1 us; and by
    the sequence never.
    """
    bounds = Bounds(horizon=2_000_000, delay=2_000_000, section=1000)

    def two_readings(reader: Any) -> Callable[[Guest], list[Any]]:
        def actors(guest: Guest) -> list[Any]:
            async def reads() -> None:
                for name in ("first", "second"):
                    guest.seen[name] = await reader(guest.readout, "monotonic", TscSource(guest.counter), Cost())

            return [guest.writer(lower), reads()]

        return actors

    def back(seen: dict[str, Any]) -> Any:
        return seen["first"] - seen["second"] if "second" in seen else None

    worst = {reader: max(most for _, most in ranges(two_readings(reader), back, bounds)) for reader in (fast, getter)}
    assert worst[getter] <= 0
    assert 900 <= worst[fast] <= 1001
