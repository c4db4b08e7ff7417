"""A host under unknown times that sleeps: its MONOTONIC runs as its RAW (nobody steers it), and stops with it.

To be inherited together with an architecture's explored machine, before it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from guestclock.checks.suspend.setting import Night, Outcome
from guestclock.explore.world import Between, World
from guestclock.machine.machine import Machine
from guestclock.sim import PS_PER_NS


class Sleeping(Machine):
    """night: how the next sleep is to be. before_sleep: called before timekeeping is suspended."""

    night: Night
    before_sleep: Callable[[], None]
    outcome: Outcome
    world: World

    async def sleep(self, ns: int, tsc: str = "running", kind: str = "s3", aborted_at: str = "") -> None:
        await Machine.sleep(self, ns, tsc, kind, aborted_at)

    def raw_and_slept_ns(self, cpu: int = 0) -> Any:
        """RAW + offs_boot, from one clock read: BOOTTIME, where nobody steers it."""
        raise NotImplementedError

    def ktime_get_ns(self, cpu: int = 0) -> Any:
        return self.raw_and_slept_ns(cpu) - self.timekeeper.offs_boot_ns

    def ktime_get_boottime_ns(self, cpu: int = 0) -> Any:
        return self.raw_and_slept_ns(cpu)

    def _sleep_ps(self, ns: int) -> int:
        return Between.of(self.night.least_ns * PS_PER_NS, self.night.most_ns * PS_PER_NS)

    def _suspend(self) -> int:
        self.before_sleep()
        began = Machine._suspend(self)
        self._began = self.world.latest
        return began

    def _resume(self, began: int, woke: int) -> None:
        self.outcome.sleeps.append((self._began, self.world.latest))
        Machine._resume(self, began, woke)

    def _persistent_ns(self, ps: int) -> int:
        """None: how long it slept is told by _nonstop_ns alone."""
        return 0
