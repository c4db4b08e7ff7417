"""What is checked, and the bounds it is checked under: plain data that another process can be handed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self

from guestclock.explore.world import Bounds


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """One host.

    kernel: whose KVM it has, where that is not the spec's. khz: the rate of its counter (TSC, arm64's system counter).
    true_hz: the real one as "numerator/denominator", empty: khz exactly. uptime_ns: at the start. skew_ns: its REALTIME
    is within this of true time. slew_ppm: NTP may run its clocks this much faster or slower. rtc_off_ns: its RTC is
    within this of REALTIME, and its grain.
    """

    kernel: str = ""
    khz: int = 2_596_122
    true_hz: str = ""
    uptime_ns: int = 1_000 * 10**9
    scaling: str = ""
    clocksource: str = "tsc"
    vhe: bool = True
    ecv: bool = False
    skew_ns: int = 0
    slew_ppm: int = 500
    rtc_off_ns: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    """One question to the explorer: a recipe (or a scenario's variation, as a program) on a kernel, with its bounds.

    recipe: name or file. program: for scenarios, what guestclock.vmm.steps plays, as JSON text. kernel: profile or
    file. sites: one host, or source and destination.
    delay_ns: from one call of the VMM to the end of the next; save_delay_ns, restore_delay_ns: the same for the calls
    before and after the operation's middle, 0: delay_ns. calls_ns: the same for single calls after the guest's life,
    (name, ns) in the order in which the VMM makes them; one that is not the next of them has delay_ns.
    section_ns: clock reads inside one kernel section.
    life_min_ns, life_ns: how long the guest has run before the operation; away_min_ns, away_ns: how long its middle
    takes (the pause, the transfer); after_ns: for how long it is watched afterwards, at least.
    khz: the guest's TSC rate, 0: the host's. works: the kernel's delayed works run too; periodic: of them the
    masterclock's of 2023 alone. readers: guests' readers that
    write (last_value), per VM. deadline_ns: so far ahead the guest arms vCPU 0's timer before it is started, 0: it does
    not. start: the vCPUs run after the operation; without that, only what their TSCs will read
    can be asked.
    """

    recipe: str = ""
    program: str = ""
    kernel: str = "linux-6.12"
    sites: tuple[Site, ...] = (Site(),)
    vcpus: int = 2
    start: bool = True
    delay_ns: int = 5 * 10**9
    save_delay_ns: int = 0
    restore_delay_ns: int = 0
    calls_ns: tuple[tuple[str, int], ...] = ()
    section_ns: int = 10_000
    life_ns: int = 100 * 10**9
    life_min_ns: int = 10**9
    away_ns: int = 60 * 10**9
    away_min_ns: int = 10**6
    after_ns: int = 10 * 10**9
    khz: int = 0
    policy: tuple[tuple[str, str], ...] = ()
    works: bool = False
    periodic: bool = False
    readers: int = 0
    deadline_ns: int = 0
    properties: tuple[str, ...] = ()

    def but(self, **changes: Any) -> Self:
        return replace(self, **changes)

    @classmethod
    def of(cls, told: dict[str, Any]) -> Self:
        """A spec out of JSON values, as dataclasses.asdict() gives them. Raises TypeError for what is no field."""
        sites = tuple(Site(**site) for site in told["sites"])
        pairs = {name: tuple((one, other) for one, other in told[name]) for name in ("policy", "calls_ns")}
        return cls(**{**told, **pairs, "sites": sites, "properties": tuple(told["properties"])})

    def units(self, ns: int) -> int:
        """ns in cycles of the first host's TSC, the unit of time of the search."""
        return ns * self.sites[0].khz // 1_000_000

    @property
    def bounds(self) -> Bounds:
        # Everything that may happen fits below the horizon; how long clocks are watched is each question's own bound.
        calls = 30 + 16 * (self.vcpus)
        horizon = (
            self.life_ns
            + self.away_ns
            + self.after_ns
            + calls * max(self.delay_ns, self.save_delay_ns, self.restore_delay_ns, *(ns for _, ns in self.calls_ns))
        )
        num, den = 10**9, self.sites[0].khz
        return Bounds(
            horizon=self.units(horizon),
            delay=self.units(self.delay_ns),
            section=self.units(self.section_ns),
            ps=(num, den),
            calls=True,
        )
