"""An arm64 host under unknown times: its system counter is exact, and never stops."""

from __future__ import annotations

from typing import Any

from guestclock.checks.host import Explored
from guestclock.checks.spec import Site
from guestclock.errors import UserError
from guestclock.explore.world import World
from guestclock.machine import Arm64Machine, Arm64Spec


class ExploredArm64Machine(Explored, Arm64Machine):
    """The machine of a site."""

    def __init__(self, world: World, site: Site) -> None:
        if site.true_hz:
            raise UserError("check: an arm64 counter's real rate is the one it says: leave true_hz out")
        spec = Arm64Spec(counter_hz=site.khz * 1000, uptime_ns=site.uptime_ns, vhe=site.vhe, ecv=site.ecv)
        self.explore(world, site)
        Arm64Machine.__init__(self, world, spec)  # type: ignore[arg-type]

    def ktime_get_snapshot(self, cpu: int = 0) -> Any:
        counter = self.read_counter(cpu)
        return self.wall_clock(), counter
