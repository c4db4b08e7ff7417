"""The contract for clocks that NTP steers, held against the integer timekeeper: its readings satisfy every row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from guestclock.arith.affine import Form
from guestclock.checks.host import CONTRACT
from guestclock.checks.spec import Site
from guestclock.checks.x86.host import ExploredX86Machine
from guestclock.linux.ntp import MAX_FREQ_PPB
from guestclock.machine import HostSpec, X86Machine
from guestclock.sim import PS_PER_NS, Timeline

KHZ = st.sampled_from([999_999, 2_100_000, 2_596_122, 2_900_000, 3_400_001])
PPB = st.integers(-MAX_FREQ_PPB, MAX_FREQ_PPB)
STEPS = st.lists(st.tuples(PPB, st.integers(1, 2 * 10**11)), min_size=1, max_size=6)


class Told:
    """Stands in for the explorer: a real timekeeper says what a steered clock reads, and the rows are put to that."""

    symbolic = False
    horizon_ns = 10**13

    def __init__(self, khz: int, slew_ppm: int) -> None:
        self.values: dict[str, int] = {}
        self.latest = ""
        self.broken = 0
        self.rows = 0
        self.timeline = Timeline()
        site = Site(khz=khz, slew_ppm=slew_ppm)
        self.real = X86Machine(self.timeline, HostSpec(tsc_khz=khz, uptime_ns=site.uptime_ns))
        self.explored = ExploredX86Machine(self, site)  # type: ignore[arg-type]
        self.before = site.uptime_ns

    @property
    def now_ps(self) -> int:
        return self.timeline.now_ps

    def read_ps(self) -> int:
        self.latest = f"t{len(self.values)}"
        self.values[self.latest] = self.now_ps
        return self.now_ps

    def value(self, symbol: str) -> int:
        return self.values[symbol]

    def ps_of(self, units: Any) -> Any:
        return units

    def clock(self, name: str, rows: Callable[[Form], Iterable[Form]], lo: int, hi: int) -> int:
        reading = self.real.ktime_get_ns()
        advance, self.before = reading - self.before, reading
        assert lo <= advance <= hi
        for row in rows(Form.of(name)):
            self.rows += 1
            self.broken += row.at({**self.values, name: advance}) > 0
        return advance

    def run(self, steps: list[tuple[int, int]]) -> Told:
        """After each adjtimex() so many ns pass, and the clock is read."""
        for ppb, ns in steps:
            self.real.adjust_frequency(ppb)
            self.timeline.now_ps += ns * PS_PER_NS
            self.explored.ktime_get_ns()
        return self


@settings(max_examples=80, deadline=None)
@given(KHZ, STEPS)
@example(999_999, [(-954, 2)])  # 2 ns, of which a cycle, a ns of the clock and one of true time go
@example(2_100_000, [(-MAX_FREQ_PPB, 2 * 10**11)])  # mult is rounded down: 500.06 ppm slow
@example(3_400_001, [(MAX_FREQ_PPB, 2 * 10**11)] * 3)  # and up: 500.03 ppm fast
def test_whatever_ntp_asks_for_the_readings_satisfy_the_contract(khz: int, steps: list[tuple[int, int]]) -> None:
    told = Told(khz, 500).run(steps)
    assert told.rows == 2 * len(steps)
    assert told.broken == 0
    assert told.explored.contracts == {CONTRACT}


@pytest.mark.parametrize("ppb", [MAX_FREQ_PPB, -MAX_FREQ_PPB])
def test_a_clock_that_is_slewed_beyond_the_bound_breaks_it(ppb: int) -> None:
    assert Told(2_596_122, 400).run([(ppb, 10**9)]).broken == 1
    assert Told(2_596_122, 400).run([(ppb * 7 // 10, 10**9)]).broken == 0
