"""A machine under unknown times: its TSC and RAW are exact, what NTP steers is known by bounds only (a contract)."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from guestclock.arith.affine import Form
from guestclock.checks.spec import Site
from guestclock.errors import UserError
from guestclock.explore.run import Between, World
from guestclock.kvm.model.x86.timers import KernelTimers
from guestclock.machine import HostSpec, X86Machine
from guestclock.sim import PS_PER_NS
from guestclock.sim.field import integer, text
from guestclock.sim.state import State

CONTRACT = "host clocks within NTP's bounds"

MULT_PPM = 1
"""NTP steers what the clocksource's rounded mult makes, which is up to 0.1 ppm off, and dithers by one step of it."""


class _Slewed(State):
    """A clock that NTP steers, as last read."""

    reading = integer("ns")
    instant = text("the time symbol of that read; empty before the first")


class ExploredMachine(X86Machine):
    """An X86Machine whose MONOTONIC, BOOTTIME and REALTIME are readings within bounds, each host's own.

    From one reading to the next a clock advances by the time between them, give or take slew_ppm (and MULT_PPM; with a
    slew of 0 it is true time); REALTIME is within skew_ns of true time, and with a skew of 0 it is true time.
    The integer timekeeper is held against this contract by tests/checks/test_host.py.
    """

    def __init__(self, world: World, site: Site) -> None:
        self.world, self.site = world, site
        self.contracts: set[str] = set()
        spec = HostSpec(
            tsc_khz=site.tsc_khz,
            tsc_hz=Fraction(site.true_hz) if site.true_hz else None,
            uptime_ns=site.uptime_ns,
            tsc_scaling=site.scaling or None,
            clocksource=site.clocksource,
        )
        super().__init__(world, spec)  # type: ignore[arg-type]
        self._monotonic, self._realtime = _Slewed(), _Slewed()

    def _ticks(self, ps: Any) -> None:
        """Ticks move no clock that is exact here."""

    def ktime_get_ns(self, cpu: int = 0) -> Any:
        self.world.read_ps()
        return self._slewed("monotonic", self._monotonic)

    def ktime_get_boottime_ns(self, cpu: int = 0) -> Any:
        return self.ktime_get_ns(cpu)

    def ktime_get_real_ns(self, cpu: int = 0) -> Any:
        self.world.read_ps()
        return self._slewed("realtime", self._realtime)

    def get_kvmclock_base_ns(self, base: str = "raw", cpu: int = 0) -> Any:
        return self.ktime_get_ns(cpu) if base == "boottime" else super().get_kvmclock_base_ns(base, cpu)

    def get_time_and_clockread(self, base: str = "raw", cpu: int = 0) -> Any:
        if base != "boottime":
            return super().get_time_and_clockread(base, cpu)
        read = self._clockread(cpu)
        return None if read is None else (self._slewed("monotonic", self._monotonic), read[1])

    def get_realtime_and_clockread(self, cpu: int = 0) -> Any:
        read = self._clockread(cpu)
        return None if read is None else (self._slewed("realtime", self._realtime), read[1])

    def step_realtime(self, ns: int) -> None:
        raise UserError("check: a step of the host's REALTIME is not explored; use 'guestclock run'")

    def adjust_frequency(self, ppb: int) -> None:
        raise UserError("check: the host's frequency is already any within its slew; leave 'adjust-frequency' out")

    async def sleep(self, ns: int, tsc: str = "running", kind: str = "s3") -> None:
        raise UserError("check: the host's sleep is not explored; use 'guestclock run'")

    def _slewed(self, name: str, clock: _Slewed) -> Any:
        """A reading at the instant of the latest clock read, one that the bounds allow after the one before it."""
        world, site = self.world, self.site
        instant, since = world.latest, clock.instant
        start = self.spec.uptime_ns if name == "monotonic" else self.spec.realtime_ns
        true = start + world.ps_of(Form.of(instant) if world.symbolic else world.value(instant)) // PS_PER_NS
        slew_ppm = site.slew_ppm and site.slew_ppm + MULT_PPM
        if (site.skew_ns if name == "realtime" else slew_ppm) == 0:
            return true
        self.contracts.add(CONTRACT)
        if name == "realtime" and not since:
            reading = true + world.clock(
                self._named("realtime error", instant), lambda _: (), -site.skew_ns, site.skew_ns
            )
            clock.reading, clock.instant = reading, instant
            return reading
        before = clock.reading if since else start

        def rows(advance: Form) -> Iterable[Form]:
            passed = world.ps_of(Form.of(instant)) - (world.ps_of(Form.of(since)) if since else 0)
            # ppm of ps is 10^-9 ns; and what two readings lose to whole cycles and whole ns.
            whole = 2 + -(-1_000_000 // site.tsc_khz)
            fast, slow = 1_000_000 + slew_ppm, 1_000_000 - slew_ppm
            told = [(advance - whole) * 10**9 - passed * fast, passed * slow - (advance + whole) * 10**9]
            if name == "realtime":
                off = before + advance - true
                told += [off - site.skew_ns, -off - site.skew_ns]
            return [Form(row.terms, row.const) for row in told if type(row) is Form]

        # An advance, and not the reading itself: that it is not negative must be seen without any linear program.
        most = world.horizon_ns * (1_000_000 + slew_ppm) // 1_000_000 + 2 * site.skew_ns + 4
        reading = before + world.clock(self._named(f"{name} advance", instant), rows, 0, most)
        clock.reading, clock.instant = reading, instant
        return reading

    def _named(self, clock: str, instant: str) -> str:
        """Tells two hosts' clocks apart by when the hosts were turned on."""
        return f"{clock} at {instant}, up {self.spec.uptime_ns}"


class ExploredTimers:
    """Delayed works come within the range in which this kernel's timer wheel lets them come."""

    def __init__(self, timers: KernelTimers, works: bool, periodic: bool = False) -> None:
        self._timers, self._works, self._periodic = timers, works, periodic

    def delay_ps(self, ns: int) -> int:
        # The only delay below a second is that of a global page update.
        if not (self._works or (self._periodic and ns >= 10**9)):
            return 1 << 90
        least, most = self._timers.range_ps(ns)
        return Between.of(max(least, 0), most)
