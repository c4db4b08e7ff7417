"""An x86 host under unknown times: its TSC, RAW and scaling are exact; delayed works come within the wheel's range."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from guestclock.checks.host import Explored
from guestclock.checks.spec import Site
from guestclock.explore.world import Between, World
from guestclock.kvm.model.x86.timers import KernelTimers
from guestclock.machine import HostSpec, X86Machine


class ExploredX86Machine(Explored, X86Machine):
    """The machine of a site."""

    def __init__(self, world: World, site: Site) -> None:
        self.explore(world, site)
        spec = HostSpec(
            tsc_khz=site.khz,
            tsc_hz=Fraction(site.true_hz) if site.true_hz else None,
            uptime_ns=site.uptime_ns,
            tsc_scaling=site.scaling or None,
            clocksource=site.clocksource,
        )
        self.measured_ns = spec.rtc_grain_ns + site.rtc_off_ns
        X86Machine.__init__(self, world, spec)  # type: ignore[arg-type]

    def get_kvmclock_base_ns(self, base: str = "raw", cpu: int = 0) -> Any:
        return self.ktime_get_boottime_ns(cpu) if base == "boottime" else super().get_kvmclock_base_ns(base, cpu)

    def get_time_and_clockread(self, base: str = "raw", cpu: int = 0) -> Any:
        if base != "boottime":
            return super().get_time_and_clockread(base, cpu)
        read = self._clockread(cpu)
        return None if read is None else (self.boottime(), read[1])

    def get_realtime_and_clockread(self, cpu: int = 0) -> Any:
        read = self._clockread(cpu)
        return None if read is None else (self.wall_clock(), read[1])


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
