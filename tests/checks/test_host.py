"""The contract for clocks that NTP steers, held against the integer timekeeper: its readings satisfy every row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from guestclock.arith.affine import Form
from guestclock.checks.host import CONTRACT, ExploredMachine
from guestclock.checks.spec import Site
from guestclock.linux import adjtimex_freq
from guestclock.linux.ntp import MAX_FREQ_PPB
from guestclock.machine import HostSpec, Machine
from guestclock.sim import PS_PER_NS, Timeline

KHZ = st.sampled_from([999_999, 2_100_000, 2_596_122, 2_900_000, 3_400_001])
STEPS = st.lists(st.tuples(st.integers(-MAX_FREQ_PPB, MAX_FREQ_PPB), st.integers(1, 2 * 10**11)), min_size=1, max_size=6)


class Told:
    """Stands in for the explorer: at each reading of a steered clock it looks at a real timekeeper, and at the rows."""

    symbolic = False
    horizon_ns = 10**13

    def __init__(self, khz: int, site: Site, read: Callable[[Machine], int]) -> None:
        self.now_ns = 0
        self.values: dict[str, int] = {}
        self.latest = ""
        self.broken: list[int] = []
        self.outside: list[int] = []
        self.rows = 0
        self.timeline = Timeline()
        spec = HostSpec(tsc_khz=khz, uptime_ns=site.uptime_ns)
        self.real, self._read = Machine(self.timeline, spec), read
        self.explored = ExploredMachine(self, site)  # type: ignore[arg-type]

    @property
    def now_ps(self) -> int:
        return self.now_ns * PS_PER_NS

    def read_ps(self) -> int:
        self.latest = f"t{len(self.values)}"
        self.values[self.latest] = self.now_ns
        return self.now_ps

    def value(self, symbol: str) -> int:
        return self.values[symbol]

    def ps_of(self, units: Any) -> Any:
        return units * PS_PER_NS

    def clock(self, name: str, rows: Callable[[Form], Iterable[Form]], lo: int, hi: int) -> int:
        error = self._read(self.real)
        if not lo <= error <= hi:
            self.outside.append(error)
        for row in rows(Form.of(name)):
            assert row.den == 1
            self.rows += 1
            excess = row.at({**self.values, name: error})
            if excess > 0:
                self.broken.append(excess)
        return error

    def passes(self, ns: int) -> None:
        self.now_ns += ns
        self.timeline.advance_to(self.now_ps) if hasattr(self.timeline, "advance_to") else None


assert CONTRACT
assert adjtimex_freq
