"""Who does what when something fails while a guest is frozen and moved: the hosts and the guest.

What they share is `fault_states`'; what fails, but for messages, is `mishaps`'. Every actor of a host's or the
guest's takes steps only while it has power.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from guestclock.checks.freeze import mishaps
from guestclock.checks.freeze.fault_states import (
    MS_PS,
    T_ACK,
    T_LOAD,
    T_NMI,
    T_RUN,
    T_SPIN,
    T_THAW,
    Between,
    Faults,
    Image,
    Outcome,
    Side,
)
from guestclock.checks.freeze.protocol import ABORTS, Protocol
from guestclock.explore.world import World
from guestclock.sim import cp


def build(protocol: Protocol, faults: Faults) -> Callable[[World], Outcome]:
    """The world of one design and what fails in it."""
    return lambda world: _World(protocol, faults, world).outcome


class _Off(Exception):
    """The host whose step this is has no power."""


class _World:
    def __init__(self, protocol: Protocol, faults: Faults, world: World) -> None:
        self.protocol, self.faults, self.world = protocol, faults, world
        self.images, self.sides, self.b = (Image(), Image()), (Side(runs0=True, runs1=True), Side()), Between()
        self.sent = Image()
        self.outcome = Outcome(world, protocol, faults, self.images, self.sides, self.b)
        self.tries: dict[str, int] = {}
        spawn: dict[str, Any] = {
            "source": self.source(), "V0": self.handler(0), "target": self.target(), "V0 there": self.there(),
        }  # fmt: skip
        if not (faults.source_dies or faults.suspected or faults.nmi_needed):  # their actors have no timer to meet
            spawn["timer"] = self.timer()
        if not (faults.hangs or faults.source_dies):  # who hangs or is off waits for ever with and without a lock
            spawn["V1's tick"] = self.ticks()
        if not faults.v1_stays:
            spawn["V1"] = self.leaves()
        spawn |= mishaps.actors(self.outcome)
        for name, actor in spawn.items():
            world.spawn(name, actor, daemon=True)

    # ---- messages and time-outs

    def arrives(self, message: str) -> bool:
        """Whether this one of its kind gets through. Each kind has one sender, so its tries are that actor's own."""
        self.tries[message] = self.tries.get(message, 0) + 1
        lost = message in self.faults.gone or (message in self.faults.lost and self.tries[message] == 1)
        if lost:
            self.outcome.reached.add(f"{message} lost")
        return not lost

    def waits(self, ms: int) -> int | None:
        return ms * MS_PS if self.protocol.times_out else None

    def thaw_waits(self) -> int | None:
        """The time-out of step 10 decides nothing but that a guest is declared dead: where it may be."""
        return self.waits(T_THAW) if self.faults.hangs else None

    def enters(self, which: int, *, both: bool = False) -> None:
        """A host lets the guest run."""
        side, other = self.sides[which], self.sides[1 - which]
        if other.runs0 or other.runs1:
            self.outcome.split += 1
        side.runs0 = True
        side.runs1 = side.runs1 or both

    # ---- the source

    async def source(self) -> None:
        with suppress(_Off):
            await self._moves_it()

    async def here(self, label: str, until: Callable[[], bool] | None = None, delay_ps: int | None = None) -> None:
        """A step of the source's. Raises _Off where it has no power any more."""
        side = self.sides[0]
        wakes = None if until is None else lambda: until() or not side.alive
        await cp(label, until=wakes, delay_ps=delay_ps)
        if not side.alive:
            raise _Off

    def forced(self) -> bool:
        """Whether the protocol is to be given up for an NMI."""
        return self.protocol.forced_nmi == ABORTS and self.b.nmi_needed

    async def _moves_it(self) -> None:
        b, here, image, protocol, faults = self.b, self.sides[0], self.images[0], self.protocol, self.faults
        here.gated = protocol.gates
        if protocol.drains:
            await self.here("1 has waited for NMIs", until=lambda: not faults.nmi_stays, delay_ps=self.waits(T_NMI))
            if faults.nmi_stays:
                here.gated = False
                self.outcome.mark("given up")
                return
        if not protocol.keeps_running:
            await self.here("stops V1 first")
            here.kicked = True
        await self.here("2 injects the interrupt")
        b.request = 1
        self.sent.copy(image)
        self.outcome.mark("requested")
        self._inject()
        while not b.exited:
            await self.here(
                "5 has waited for the guest", until=lambda: b.exited == 1 or self.forced(), delay_ps=self.waits(T_ACK)
            )
            if b.exited:
                break
            if self.tries["interrupt"] == 1 and not self.forced():
                self._inject()
            else:
                await self._cancel()
                return
        self.outcome.mark("acknowledged")
        here.kicked = True
        await self.here("6 has waited for V1", until=lambda: not here.runs1, delay_ps=self.waits(T_SPIN))
        self.outcome.mark("stopped or not")
        if here.runs1:
            await self._goes_on("V1 did not stop")
            return
        self.outcome.acked = image.content
        await self.here("6 sends the image")
        if protocol.copies_last:
            self.sent.copy(image)
        if self.arrives("image"):
            b.image += 1
        loaded = self.waits(T_LOAD)
        await self.here("6 has waited for LOADED", until=lambda: b.loaded > 0 or self.forced(), delay_ps=loaded)
        if b.loaded == 0 or self.forced():
            b.aborted = True
            await self._goes_on("not loaded" if b.loaded == 0 else "called off for an NMI")
            return
        await self._commits()

    def _inject(self) -> None:
        if self.arrives("interrupt"):
            self.images[0].irq += 2 if self.faults.twice else 1

    async def _cancel(self) -> None:
        """The guest has not told anything: what is pending is taken back, what still comes is answered.

        It may be frozen all the same, or about to be; but nobody was stopped and nothing moves, so that what an NMI
        reads meanwhile stays true, and the gate may open.
        """
        b = self.b
        b.cancelled, self.images[0].irq = 1, 0
        self.sides[0].kicked = self.sides[0].gated = False
        self.sides[0].runs1 = True
        self.outcome.mark("cancelled")
        await self.here("a late exit", until=lambda: b.exited == 1)
        if self.protocol.answers_late:
            await self._goes_on("late exit")

    async def _commits(self) -> None:
        b = self.b
        for _ in range(2):
            await self.here("6 hands the token over")
            if self.arrives("commit"):
                b.commit += 1
            self.outcome.mark("committed")
            await self.here("8 has waited for RUNNING", until=lambda: b.running > 0, delay_ps=self.waits(T_RUN))
            if b.running:
                b.over = True
                self.outcome.mark("moved")
                return
        if self.protocol.fences:
            await self.here("management switches the target off")
            there = self.sides[1]
            there.alive = there.runs0 = there.runs1 = False
        b.generation += 1
        await self._goes_on("restarted")

    async def _goes_on(self, why: str) -> None:
        """SAME_HOST, or what was frozen is started here as another generation."""
        here, protocol = self.sides[0], self.protocol
        self.outcome.reached.add(why)
        here.record = 1
        here.kicked = False
        self.enters(0)
        await self.here("10 has waited for the guest", until=lambda: here.thawed, delay_ps=self.thaw_waits())
        if here.thawed:
            here.runs1 = True
            here.gated = False
            self.outcome.mark("goes on here")
        else:
            self.outcome.dead = True
            self.outcome.reached.add("declared dead")
            here.gated = here.gated and protocol.forced_nmi != ABORTS
            await self.here("10 after all", until=lambda: here.thawed)
            here.runs1 = True

    # ---- the target

    async def target(self) -> None:
        b, there, protocol = self.b, self.sides[1], self.protocol
        await cp("6 loads the image", until=lambda: b.image > 0 and there.alive)
        self._load()
        if self.arrives("loaded"):
            b.loaded += 1
        there.gated = protocol.gates
        if protocol.token:
            await cp("6 has the token", until=lambda: (b.commit > 0 or b.promoted) and there.alive)
        else:
            await cp("7 goes ahead", until=lambda: there.alive)
        there.record = 1
        self.enters(1)
        wait = self.thaw_waits()

        def told() -> bool:
            return (there.thawed or there.nack) and there.alive

        await cp("10 has waited for the guest", until=told, delay_ps=wait)
        if there.nack and there.alive and not there.thawed:
            there.scaled = True
            self.enters(1)
            self.outcome.reached.add("scaled")
            await cp("10 has waited again", until=lambda: there.thawed and there.alive, delay_ps=wait)
        if not there.alive:
            return
        if not there.thawed:
            self.outcome.dead = True
            self.outcome.reached.add("declared dead")
            there.gated = there.gated and protocol.forced_nmi != ABORTS
            await cp("10 after all", until=lambda: there.thawed and there.alive)
        there.runs1 = True
        there.gated = False
        for sent in (1, 2):
            if self.arrives("running"):
                b.running += 1
            self.outcome.mark("runs there")
            await cp("is asked again", until=lambda sent=sent: b.commit > sent and there.alive)  # type: ignore[misc]

    def _load(self) -> None:
        image = self.images[1]
        image.copy(self.sent)
        image.armed = image.armed and not self.protocol.drops_deadlines

    # ---- the guest

    def goes(self, which: int) -> bool:
        """Whether V0 can take a step on that host."""
        side = self.sides[which]
        return side.alive and side.runs0 and not self.b.hung

    async def handler(self, which: int) -> None:
        """Takes freeze interrupts, one after the other."""
        b, image, side = self.b, self.images[which], self.sides[which]
        while True:
            await cp("3 takes the interrupt", until=lambda: image.irq > 0 and self.goes(which))
            image.irq -= 1
            if self.protocol.idempotent and (b.cancelled >= b.request or image.done >= b.request):
                self.outcome.reached.add("nothing to do")
                continue
            await cp("4 takes the lock", until=lambda: image.lock == 0 and self.goes(which))
            image.lock = 1
            await cp("4 freezes", until=lambda: self.goes(which))
            image.odd = True
            image.content += 1
            self.outcome.mark("frozen")
            while True:
                await cp("5 exits", until=lambda: self.goes(which))
                if self.arrives("exit"):
                    b.exited, side.runs0 = 1, False
                    break
                if b.cancelled:
                    break
                if self.tries["exit"] > 1:
                    await cp("5 sees the cancel", until=lambda: self.goes(which) and b.cancelled == 1)
            await self._thaw(which)

    async def there(self) -> None:
        """The same stack frame on the target."""
        side = self.sides[1]
        await cp("8 goes on", until=lambda: side.record > 0 and self.goes(1))
        await self._thaw(1)
        await self.handler(1)

    async def _thaw(self, which: int) -> None:
        b, image, side = self.b, self.images[which], self.sides[which]
        await cp("9 reconfigures", until=lambda: self.goes(which) and (side.record > 0 or b.cancelled > 0))
        if which == 1 and self.faults.unfit and not side.scaled:
            side.nack, side.runs0 = True, False
            await cp("9 reconfigures by scaling", until=lambda: self.goes(which) and side.scaled)
        if self.outcome.acked is not None and not (image.content == self.outcome.acked and image.odd and image.lock):
            self.outcome.torn += 1
        image.rate = which if not side.scaled else 0
        image.content += 1
        await cp("10 unfreezes", until=lambda: self.goes(which))
        image.odd, image.lock, image.done = False, 0, 1
        if self.protocol.drops_deadlines:
            image.armed, image.timer_rate = True, image.rate
        side.thawed = True

    async def ticks(self) -> None:
        """One tick on V1, at any time: a writer that may hold the lock when the interrupt comes."""
        image, side = self.images[0], self.sides[0]
        await cp("a tick takes the lock", until=lambda: side.runs1 and image.lock == 0)
        image.lock = 2
        await cp("a tick is done", until=lambda: side.runs1)
        image.content += 1
        image.lock = 0

    async def leaves(self) -> None:
        side = self.sides[0]
        while True:
            await cp("leaves guest mode", until=lambda: side.kicked and side.runs1)
            side.runs1 = False
            self.outcome.mark("out")

    async def timer(self) -> None:
        """A timer of the guest's on the target, once all vCPUs run: by whose frequency was it programmed?"""
        image, side = self.images[1], self.sides[1]
        await cp("a timer fires", until=lambda: side.alive and side.runs1 and image.armed and image.done == 1)
        self.outcome.reached.add("a timer fires there")
        if image.timer_rate != image.rate:
            self.outcome.stale_timers += 1
