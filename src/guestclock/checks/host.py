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
from guestclock.sim.field import integer, text
from guestclock.sim.state import State

CONTRACT = "host clocks within NTP's bounds"


class _Slewed(State):
    """A clock that NTP steers, as last read. Whoever reads it after somebody else reads no less."""

    reading = integer("ns")
    instant = text("the time symbol of that read; empty before the first")


class ExploredMachine(Machine):
    """A Machine whose MONOTONIC, BOOTTIME and REALTIME are readings within bounds, each host's own.

    From one reading to the next a clock advances by the time between them, give or take slew_ppm; REALTIME is besides
    within skew_ns of true time. The integer timekeeper is held against this contract by tests/checks/test_host.py.
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
        self._monotonic = _Slewed(reading=spec.uptime_ns)
        self._realtime = _Slewed(reading=spec.realtime_ns)

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
        """A reading at the instant of the latest clock read."""
        world, site = self.world, self.site
        instant = world.latest
        self.contracts.add(CONTRACT)
        before, since = clock.reading, clock.instant
        start = self.spec.uptime_ns if name == "monotonic" else self.spec.realtime_ns

        def rows(reading: Form) -> Iterable[Form]:
            passed = _ps(world, instant) - _ps(world, since)
            slow, fast = 1_000_000 - site.slew_ppm, 1_000_000 + site.slew_ppm
            # reading - before - 1 <= passed/1000 * fast, in units of 10^-9 ns
            yield _whole((reading - before - 1) * 10**9 - passed * fast)
            yield _whole(passed * slow - (reading - before + 1) * 10**9)
            if name == "realtime":
                true = _ps(world, instant)
                yield _whole((reading - start - site.skew_ns - 1) * 1000 - true)
                yield _whole(true - (reading - start + site.skew_ns + 1) * 1000)

        most = start + (site.slew_ppm + 1_000_000) * 10**7 * 3600
        reading = world.clock(f"{name}@{instant}@{id_of(self)}", rows, start - site.skew_ns - 1, most)
        clock.reading, clock.instant = reading, instant
        return reading


def id_of(machine: ExploredMachine) -> str:
    """Tells two hosts' clocks apart: by when they were turned on."""
    return str(machine.spec.uptime_ns)


def _ps(world: World, symbol: str) -> Any:
    return world.ps_of(Form.of(symbol)) if symbol else 0


def _whole(row: Any) -> Any:
    return Form(row.terms, row.const) if type(row) is Form else row


class ExploredTimers:
    """Delayed works come within the range in which this kernel's timer wheel lets them come."""

    def __init__(self, timers: KernelTimers, works: bool) -> None:
        self._timers, self._works = timers, works

    def delay_ps(self, ns: int) -> int:
        if not self._works:
            return 1 << 90
        least, most = self._timers.range_ps(ns)
        return Between.of(max(least, 0), most)
