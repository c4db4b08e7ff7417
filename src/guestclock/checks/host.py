"""A machine under unknown times: its TSC and RAW are exact, what NTP steers is known by bounds only (a contract)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from guestclock.arith import s64
from guestclock.arith.affine import Form
from guestclock.checks.spec import Site
from guestclock.errors import UserError
from guestclock.explore.world import World
from guestclock.machine import Machine
from guestclock.sim import PS_PER_NS
from guestclock.sim.field import integer, text
from guestclock.sim.state import State

CONTRACT = "host clocks within NTP's bounds"
MEASURED = "sleeps measured to the grain of the host's RTC"

MULT_PPM = 1
"""NTP steers what the clocksource's rounded mult makes, which is up to 0.1 ppm off, and dithers by one step of it."""


class _Slewed(State):
    """A clock that NTP steers, as last read."""

    reading = integer("ns")
    instant = text("the time symbol of that read; empty before the first")
    down_ns = integer("how long the host had slept by then, ns: it stands still meanwhile")


class _Slept(State):
    """What became of the clocks in all sleeps so far, ns."""

    down_ns = integer("the time that MONOTONIC and RAW stood still")
    more_ns = integer("what BOOTTIME and REALTIME gained more than the counter did")


class Explored(Machine):
    """A Machine whose MONOTONIC, BOOTTIME and REALTIME are readings within bounds, each host's own.

    From one reading to the next a clock advances by the time between them, give or take slew_ppm (and MULT_PPM; with a
    slew of 0 it is true time); REALTIME is within skew_ns of true time, and with a skew of 0 it is true time.
    A sleep through which the counter runs is measured by another clock: anything up to measured_ns more or less.
    The integer timekeeper is held against this contract by tests/checks/test_host.py. To be inherited together with an
    architecture's machine, before it; `explore` comes first.
    """

    spec: Any
    measured_ns = 0
    """The grain of the clock that measures a sleep, and how far it was from REALTIME; 0: it is the counter itself."""

    def explore(self, world: World, site: Site) -> None:
        """Under which world's unknown times this machine's clocks are read."""
        self.world, self.site = world, site
        self.contracts: set[str] = set()
        self.monotonic, self.realtime = _Slewed(), _Slewed()
        self.slept = _Slept()

    def _ticks(self, ps: Any) -> None:
        """Ticks move no clock that is exact here."""

    def ktime_get_ns(self, cpu: int = 0) -> Any:
        self.world.read_ps()
        return self.slewed("monotonic", self.monotonic)

    def ktime_get_boottime_ns(self, cpu: int = 0) -> Any:
        self.world.read_ps()
        return self.boottime()

    def ktime_get_real_ns(self, cpu: int = 0) -> Any:
        self.world.read_ps()
        return self.wall_clock()

    def boottime(self) -> Any:
        """At the latest clock read, as wall_clock."""
        return self.slewed("monotonic", self.monotonic) + self.slept.down_ns + self.slept.more_ns

    def wall_clock(self) -> Any:
        return self.slewed("realtime", self.realtime) + self.slept.down_ns + self.slept.more_ns

    def step_realtime(self, ns: int) -> None:
        raise UserError("check: a step of the host's REALTIME is not explored; use 'guestclock run'")

    def adjust_frequency(self, ppb: int) -> None:
        raise UserError("check: the host's frequency is already any within its slew; leave 'adjust-frequency' out")

    def _writers_cycles(self) -> int:
        raise UserError("check: a host whose clocks are set is not explored; use 'guestclock run'")

    async def sleep(self, ns: int, tsc: str = "running", kind: str = "s3", aborted_at: str = "") -> None:
        if tsc != "running":
            raise UserError("check: a sleep in which the counter stops is not explored; use 'guestclock run'")
        await super().sleep(ns, tsc, kind, aborted_at)

    def _suspend(self) -> Any:
        now = self._read_ps()
        self.timekeeper.forward_now(self._counter().at(now))
        self._sleeping.asleep = True
        return now

    def _resume(self, began: Any, woke: Any) -> None:
        self._sleeping.asleep = False
        world, slept, down_ns = self.world, self.slept, (woke - began) // PS_PER_NS
        more_ns: Any = 0
        if self.measured_ns:
            self.contracts.add(MEASURED)
            named = self._named("sleep measured", world.latest)
            more_ns = world.clock(named, lambda _: (), -self.measured_ns, self.measured_ns)
        slept.down_ns, slept.more_ns = slept.down_ns + down_ns, slept.more_ns + more_ns
        self.timekeeper.offs_boot_ns = s64(self.timekeeper.offs_boot_ns + down_ns + more_ns)
        self.timekeeper.cycle_last = self._counter().at(woke)
        self._resumed(down_ns + more_ns)

    def slewed(self, name: str, clock: _Slewed) -> Any:
        """A reading at the instant of the latest clock read, one that the bounds allow after the one before it.

        Of a clock that stands still while the host sleeps.
        """
        world, site = self.world, self.site
        instant, since = world.latest, clock.instant
        start = self.spec.uptime_ns if name == "monotonic" else self.spec.realtime_ns
        down_ns = self.slept.down_ns
        true = start + world.ps_of(Form.of(instant) if world.symbolic else world.value(instant)) // PS_PER_NS - down_ns
        slew_ppm = site.slew_ppm and site.slew_ppm + MULT_PPM
        if (site.skew_ns if name == "realtime" else slew_ppm) == 0:
            return true
        self.contracts.add(CONTRACT)
        if name == "realtime" and not since:
            reading = true + world.clock(
                self._named("realtime error", instant), lambda _: (), -site.skew_ns, site.skew_ns
            )
            clock.reading, clock.instant, clock.down_ns = reading, instant, down_ns
            return reading
        before = clock.reading if since else start
        slept_ps = (down_ns - clock.down_ns) * PS_PER_NS

        def rows(advance: Form) -> Iterable[Form]:
            passed = world.ps_of(Form.of(instant)) - (world.ps_of(Form.of(since)) if since else 0) - slept_ps
            # ppm of ps is 10^-9 ns; and what two readings lose to whole cycles and whole ns.
            whole = 2 + -(-1_000_000 // site.khz)
            fast, slow = 1_000_000 + slew_ppm, 1_000_000 - slew_ppm
            told = [(advance - whole) * 10**9 - passed * fast, passed * slow - (advance + whole) * 10**9]
            if name == "realtime":
                off = before + advance - true
                told += [off - site.skew_ns, -off - site.skew_ns]
            return [Form(row.terms, row.const) for row in told if type(row) is Form]

        # An advance, and not the reading itself: that it is not negative must be seen without any linear program.
        most = world.horizon_ns * (1_000_000 + slew_ppm) // 1_000_000 + 2 * site.skew_ns + 4
        reading = before + world.clock(self._named(f"{name} advance", instant), rows, 0, most)
        clock.reading, clock.instant, clock.down_ns = reading, instant, down_ns
        return reading

    def _named(self, clock: str, instant: str) -> str:
        """Tells two hosts' clocks apart by when the hosts were turned on."""
        return f"{clock} at {instant}, up {self.spec.uptime_ns}"
