"""A machine under unknown times: its TSC and RAW are exact, what NTP steers is known by bounds only (a contract)."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

from guestclock.arith.affine import Form
from guestclock.checks.spec import Site
from guestclock.errors import UserError
from guestclock.explore.run import Between, World
from guestclock.kvm.model.timers import KernelTimers
from guestclock.machine import HostSpec, Machine
from guestclock.sim import PS_PER_NS
from guestclock.sim.field import integer, text
from guestclock.sim.state import State

CONTRACT = "host clocks within NTP's bounds"


class _Slewed(State):
    """How far a clock that NTP steers was off when it was last read."""

    error = integer("ns")
    instant = text("the time symbol of that read; empty before the first")


class ExploredMachine(Machine):
    """A Machine whose MONOTONIC, BOOTTIME and REALTIME are readings within bounds, each host's own.

    From one reading to the next a clock advances by the time between them, give or take slew_ppm; REALTIME is within
    skew_ns of true time, and with a skew of 0 it is true time. The integer timekeeper is held against this contract by tests/checks/test_host.py.
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
        """A reading at the instant of the latest clock read: true time and an error that NTP keeps within bounds."""
        world, site = self.world, self.site
        instant = world.latest
        start = self.spec.uptime_ns if name == "monotonic" else self.spec.realtime_ns
        true = start + world.ps_of(Form.of(instant) if world.symbolic else world.value(instant)) // PS_PER_NS
        most = site.skew_ns if name == "realtime" else site.slew_ppm * world.horizon_ns // 1_000_000
        if most == 0:
            return true
        self.contracts.add(CONTRACT)
        before, since = clock.error, clock.instant

        def rows(error: Form) -> Iterable[Form]:
            if not since and name == "realtime":
                return
            passed = world.ps_of(Form.of(instant)) - (world.ps_of(Form.of(since)) if since else 0)
            # ppm of ps is 10^-9 ns; a ns more for the whole numbers.
            for change in (error - before, before - error):
                row = (change - 1) * 10**9 - passed * site.slew_ppm
                yield Form(row.terms, row.const)

        error = world.clock(self._named(name, instant), rows, -most, most)
        clock.error, clock.instant = error, instant
        return true + error

    def _named(self, clock: str, instant: str) -> str:
        """Tells two hosts' clocks apart by when the hosts were turned on."""
        return f"{clock} error at {instant}, up {self.spec.uptime_ns}"


class ExploredTimers:
    """Delayed works come within the range in which this kernel's timer wheel lets them come."""

    def __init__(self, timers: KernelTimers, works: bool) -> None:
        self._timers, self._works = timers, works

    def delay_ps(self, ns: int) -> int:
        if not self._works:
            return 1 << 90
        least, most = self._timers.range_ps(ns)
        return Between.of(max(least, 0), most)
