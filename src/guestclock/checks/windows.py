"""Windows: stretches of guest execution in which nothing that a vCPU's clocks are made of changes.

A guest only looks at its clocks. So it need not be run: what it reads at any instant of a window follows from the
window, and which windows there are follows from the order of KVM's own steps. What a window's clocks are made of is its
architecture's: `checks.x86.windows`, `checks.arm64.windows`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from guestclock.arith import s64
from guestclock.arith.affine import Symbol
from guestclock.explore.world import World

BOOT, BEFORE, DURING, AFTER = "boot", "before", "during", "after"


class GuestWindow:
    """One vCPU in its guest from `opened` to `closed` (symbols of times; closed None: it stays inside).

    opener, closer: numbers of the steps that let it in and out. index: counted per vCPU. phase: the boot, or before,
    during or after the operation. khz: the rate at which the guest's counter counts.
    """

    __slots__ = ()

    site: int
    vm: int
    vcpu: int
    index: int
    phase: str
    opener: int
    opened: Symbol
    closer: int | None
    closed: Symbol | None
    khz: int

    @property
    def who(self) -> tuple[int, int, int]:
        return self.site, self.vm, self.vcpu

    @property
    def id(self) -> str:
        """The same in every run of the same order."""
        return f"{self.site}.{self.vm}.{self.vcpu}.{self.index}"

    def has(self, clock: str) -> bool:
        """Whether the guest can read this clock in it."""
        raise NotImplementedError

    def read(self, clock: str, world: World, t: Any) -> Any:
        """What the clock shows at instant t (units), modulo 2^64: compare only differences, as apart() gives them."""
        raise NotImplementedError

    def line(self, clock: str, world: World, t: Any) -> Any:
        """The line that the clock is on, also at instants outside the window; modulo 2^64."""
        return self.read(clock, world, t)


class Tracker(Protocol):
    """Looks at the vCPUs after each step of the model, and notes when one comes into its guest and leaves it."""

    def windows(self) -> Sequence[Any]:
        """All of them so far, by vCPU and time."""
        ...

    def in_guest(self) -> set[tuple[int, int, int]]:
        """Who is in the guest now: (site, VM, vCPU)."""
        ...

    def as_they_will_run(self, site: int, vm: int) -> None:
        """Notes windows for vCPUs that are not started: their counters as they will read once they are.

        Raises MustRun where KVM would move a counter first.
        """
        ...


def apart(later: Any, earlier: Any) -> Any:
    """later - earlier of two readings that are words of 64 bits: the shorter way round, signed."""
    return s64(later - earlier)


class MustRun(Exception):
    """What a counter will read is known only once its vCPU runs: KVM brings it forward at entries."""


def surely_before(world: World, first: int | None, then: int) -> bool:
    """Whether step `first` comes before step `then` in every order that is like this one; False where nobody says."""
    past = getattr(world.events[then], "past", 0)
    return first is not None and bool(past >> first & 1)
