"""L1 with several L2s inside is frozen: who may be frozen and who may run when, and what if one of them says no.

Two phases, because a handler of L1's that holds timekeeper_lock can neither run L2 nor wait for it. PREPARE, in a task
of L1's and cancellable: every L2 is frozen and stopped; one that declines or does not answer in time, and those that
are frozen already are let go, and L1 declines as well. Then L1 itself. Back in the other order: last in, first out.
Order alone; frequencies are `nested_clocks`'. The unit of time is 1 ns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from guestclock.explore.world import Bounds, World
from guestclock.sim import State, cp
from guestclock.sim.field import flag

MS_PS = 10**9
STEP_MS = 10
T_L2 = 200
T_L1 = T_L2 + 4 * STEP_MS
"""What L0 gives L1 to get ready, ms: what L1 gives its L2s, and L1's own steps before and after that."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """declines: L2s that say no; silent: that never answer. target_dies: the move fails, L1 goes on where it is.

    The rest are designs: inner_first: L2s are frozen before L1. lets_go: where one L2 declines, the frozen ones are let
    go. outer_first: L1 goes on before its L2s do. t_l1_ms: how long L0 waits for L1 to get ready.
    """

    l2s: int = 2
    declines: tuple[int, ...] = ()
    silent: tuple[int, ...] = ()
    target_dies: bool = False
    inner_first: bool = True
    lets_go: bool = True
    t_l1_ms: int = T_L1

    @property
    def bounds(self) -> Bounds:
        """An L2's handler may take longer than L1 waits for it."""
        step = STEP_MS * 1_000_000
        slow = tuple((f"L2 {n}", 150_000_000) for n in range(self.l2s))
        return Bounds(horizon=10 * 10**9, delay=step, section=1000, ps=(1000, 1), delays=slow)


class Guest(State):
    """L1 or an L2, as whoever runs it sees it."""

    irq = flag("the freeze interrupt is pending")
    frozen = flag("its timekeeper is")
    exited = flag("it has told so")
    nack = flag("it has declined")
    runs = flag("its vCPUs may be in guest mode", True)
    let_go = flag("its record is written: it may unfreeze")


class Prepare(State):
    """Between L0 and L1's VMM."""

    asked = flag("get ready")
    ready = flag("all L2s are frozen and stopped")
    declined = flag("L1 will not be frozen")
    cancelled = flag("L0 has called it off")


@dataclass
class Outcome:
    """broken_order: steps in which an L2 was not at rest while L1 was frozen. called_off: by L0, after a time-out."""

    world: World
    family: Family
    l1: Guest
    l2s: tuple[Guest, ...]
    broken_order: int = 0
    called_off: int = 0
    finished: bool = True
    reached: set[str] = field(default_factory=set)
    contracts: set[str] = field(default_factory=set)

    @property
    def standstill(self) -> int:
        """1 where somebody is frozen or stopped in the end; an L2 that is silent is not asked."""
        asked = [self.l1, *(l2 for n, l2 in enumerate(self.l2s) if n not in self.family.silent)]
        return int(any(guest.frozen or not guest.runs for guest in asked))


def build(family: Family) -> Callable[[World], Outcome]:
    """The world of one family of guests."""
    return lambda world: _World(family, world).outcome


class _World:
    def __init__(self, family: Family, world: World) -> None:
        self.family, self.world = family, world
        self.l1, self.l2s, self.p = Guest(), tuple(Guest() for _ in range(family.l2s)), Prepare()
        self.outcome = Outcome(world, family, self.l1, self.l2s)
        world.spawn("L0", self.l0(), daemon=True)
        world.spawn("L1's VMM", self.vmm(), daemon=True)
        world.spawn("L1", self.handler(self.l1, "L1"), daemon=True)
        for n, l2 in enumerate(self.l2s):
            if n not in family.silent:
                world.spawn(f"L2 {n}", self.handler(l2, "L2", n in family.declines), daemon=True)

    async def l0(self) -> None:
        p, l1, family = self.p, self.l1, self.family
        await cp("asks L1 to get ready")
        p.asked = True
        if family.inner_first:
            wait = family.t_l1_ms * MS_PS
            await cp("waits for L1", until=lambda: p.ready or p.declined, delay_ps=wait)
            if p.declined or not p.ready:
                if not p.declined:
                    p.cancelled = True
                    self.outcome.called_off += 1
                self.outcome.reached.add("stays")
                return
        l1.irq = True
        await cp("6 stops L1", until=lambda: l1.exited)
        l1.runs = False
        self.outcome.reached.add("L1 stopped")
        await cp("6 loses the target" if family.target_dies else "6 has moved it")
        l1.let_go = l1.runs = True
        self.outcome.reached.add("moved")

    async def vmm(self) -> None:
        """A task of L1's; it takes steps only while L1 runs and is not frozen: it needs L1's clock."""
        p, l1, l2s = self.p, self.l1, self.l2s

        def goes() -> bool:
            return l1.runs and not l1.frozen

        await cp("prepares", until=lambda: p.asked and goes())
        for l2 in l2s:
            l2.irq = True
        await cp(
            "waits for its L2s", until=lambda: all(l2.exited or l2.nack for l2 in l2s) and goes(), delay_ps=T_L2 * MS_PS
        )
        if all(l2.exited for l2 in l2s):
            for l2 in l2s:
                l2.runs = False
            p.ready = True
            self.outcome.reached.add("ready")
            await cp("waits for L1", until=lambda: (l1.let_go or p.cancelled) and goes())
        else:
            p.declined = True
            self.outcome.reached.add("declined")
        if p.ready or self.family.lets_go:
            for l2 in l2s:
                l2.let_go = l2.runs = True

    async def handler(self, guest: Guest, level: str, declines: bool = False) -> None:
        l1 = self.l1

        def goes() -> bool:
            return guest.runs and l1.runs

        await cp("3 takes the interrupt", until=lambda: guest.irq and goes())
        if guest.let_go:
            self.outcome.reached.add("nothing to do")
            return
        if declines:
            self._orderly(level)
            guest.nack = True
            return
        await cp("4 freezes", until=goes)
        guest.frozen = True
        self._orderly(level)
        await cp("5 exits", until=goes)
        self._orderly(level)
        guest.exited = True
        await cp("10 unfreezes", until=lambda: guest.let_go and goes())
        self._orderly(level)
        guest.frozen = False

    def _orderly(self, level: str) -> None:
        """frozen(L1) => every L2 is frozen and stopped; an L2 that takes a step => L1 is not frozen."""
        if self.l1.frozen and (level == "L2" or any(l2.runs for l2 in self.l2s)):
            self.outcome.broken_order = 1
