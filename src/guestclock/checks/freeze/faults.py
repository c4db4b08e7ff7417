"""What can fail while a guest is frozen and moved: messages, time-outs, hosts, the guest. Order alone counts here.

The guest's memory exists twice from the moment it is loaded on the target, so it is an object per host. A time-out may
end any wait, whatever else happens: every step may take longer than every time-out. The unit of time is 1 ns.

What the source has handed over (COMMIT) it takes back in one way only: somebody above both hosts (management) switches
the target off, and what is then started from the frozen image is another VM by its generation. Without that power two
hosts on a lossy link cannot end in one owner; that is no matter of implementation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from guestclock.checks.freeze.protocol import Protocol
from guestclock.explore.world import Bounds, World
from guestclock.sim import State, cp
from guestclock.sim.field import flag, integer

MS_PS = 10**9
T_NMI, T_ACK, T_SPIN, T_LOAD, T_RUN, T_THAW = 10, 200, 50, 500, 500, 200
"""Time-outs, ms: suggestions of the analysis (C6), not of the thread, which has none."""
DELAY_NS = 1_000_000_000
BOUNDS = Bounds(horizon=60 * 10**9, delay=DELAY_NS, section=1000, ps=(1000, 1))

MESSAGES = ("interrupt", "exit", "image", "loaded", "commit", "running")


@dataclass(frozen=True, kw_only=True, slots=True)
class Faults:
    """lost: messages that get lost the first time; gone: every time. twice: the interrupt comes twice. target_dies: at
    any moment from step 2 until it has told that the guest runs. hangs: V0 stops for ever, at any moment.
    nmi_stays: one is handled for ever. v1_stays: V1 never leaves guest mode. unfit: the target's frequency is one that
    the guest refuses.
    """

    lost: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    twice: bool = False
    target_dies: bool = False
    hangs: bool = False
    nmi_stays: bool = False
    v1_stays: bool = False
    unfit: bool = False


class Image(State):
    """The guest's memory on one host."""

    irq = integer("freeze interrupts that are pending")
    lock = integer("timekeeper_lock: 0 free, 1 V0's, 2 V1's")
    odd = flag("tk_core.seq is odd")
    done = integer("the last epoch that was served")
    content = integer("counts stores to the timekeeper: equal where the image is")
    rate = integer("whose frequency the timekeeper goes by: 0 the source's, 1 the target's")
    armed = flag("a timer is programmed", True)
    timer_rate = integer("by whose frequency its deadline was computed")


class Side(State):
    """One host, as the guest sees it."""

    alive = flag("it is on; one that is off lets nobody run", True)
    runs0 = flag("V0 may be in guest mode")
    runs1 = flag("V1 may")
    kicked = flag("V1 shall leave guest mode")
    record = integer("the epoch that the record in the guest's memory answers")
    thawed = flag("V0 has told that it is not frozen any more")
    nack = flag("V0 has told that it cannot go on with this frequency")
    scaled = flag("the host offers the old frequency instead")


class Between(State):
    """What the hosts know of each other and of the guest. Messages: how many have arrived."""

    request = integer("the epoch asked for")
    cancelled = integer("the epoch that was called off")
    exited = integer("the epoch for which V0 has told that it is frozen")
    image = integer("message: source to target")
    loaded = integer("message: target to source")
    commit = integer("message: source to target, the token")
    running = integer("message: target to source")
    aborted = flag("the source has gone on by itself")
    over = flag("the source has heard that the guest runs")
    hung = flag("V0 does nothing any more")
    generation = integer("of the VM: another where it was started from a copy")


@dataclass
class Outcome:
    """marks: (number, symbol) of steps that questions measure from and to. acked: the image when V0 had left."""

    world: World
    protocol: Protocol
    faults: Faults
    images: tuple[Image, Image]
    sides: tuple[Side, Side]
    between: Between
    marks: dict[str, tuple[int, str]] = field(default_factory=dict)
    split: int = 0
    torn: int = 0
    stale_timers: int = 0
    acked: int | None = None
    dead: bool = False
    finished: bool = True
    reached: set[str] = field(default_factory=set)
    contracts: set[str] = field(default_factory=set)

    @property
    def executing(self) -> int:
        """How many hosts let the guest run, now."""
        return sum(side.runs0 or side.runs1 for side in self.sides)

    @property
    def standstill(self) -> int | None:
        """1 where not all vCPUs run in the end, or the guest is frozen: sequence odd or lock held.

        None: its handler hangs, which is not the protocol's to cure.
        """
        if self.between.hung:
            return None
        for image, side in zip(self.images, self.sides, strict=True):
            if side.alive and side.runs0 and side.runs1 and not image.odd and image.lock == 0:
                return 0
        return 1


def build(protocol: Protocol, faults: Faults) -> Callable[[World], Outcome]:
    """The world of one design and what fails in it."""

    def made(world: World) -> Outcome:
        return _World(protocol, faults, world).outcome

    return made


class _World:
    def __init__(self, protocol: Protocol, faults: Faults, world: World) -> None:
        self.protocol, self.faults, self.world = protocol, faults, world
        self.images, self.sides, self.b = (Image(), Image()), (Side(runs0=True, runs1=True), Side()), Between()
        self.outcome = Outcome(world, protocol, faults, self.images, self.sides, self.b)
        self.tries: dict[str, int] = {}
        spawn: dict[str, Any] = {
            "source": self.source(), "V0": self.handler(0), "target": self.target(), "V0 there": self.there(),
            "timer": self.timer(),
        }  # fmt: skip
        if not faults.hangs:  # a hanging V0 waits for ever with and without a lock
            spawn["V1's tick"] = self.ticks()
        if not faults.v1_stays:
            spawn["V1"] = self.leaves()
        if faults.target_dies:
            spawn["power"] = self.dies()
        if faults.hangs:
            spawn["bug"] = self.hangs()
        for name, actor in spawn.items():
            world.spawn(name, actor, daemon=True)

    # ---- messages and marks

    def arrives(self, message: str) -> bool:
        """Whether this one of its kind gets through. Each kind has one sender, so its tries are that actor's own."""
        self.tries[message] = self.tries.get(message, 0) + 1
        lost = message in self.faults.gone or (message in self.faults.lost and self.tries[message] == 1)
        if lost:
            self.outcome.reached.add(f"{message} lost")
        return not lost

    def mark(self, name: str) -> None:
        self.outcome.marks.setdefault(name, (len(self.world.events), self.world.here))
        self.outcome.reached.add(name)

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
        b, here, image, protocol, faults = self.b, self.sides[0], self.images[0], self.protocol, self.faults
        if protocol.drains:
            await cp("1 has waited for NMIs", until=lambda: not faults.nmi_stays, delay_ps=self.waits(T_NMI))
            if faults.nmi_stays:
                self.mark("given up")
                return
        if not protocol.keeps_running:
            await cp("stops V1 first")
            here.kicked = True
        await cp("2 injects the interrupt")
        b.request = 1
        self.mark("requested")
        self._inject()
        while not b.exited:
            await cp("5 has waited for the guest", until=lambda: b.exited == 1, delay_ps=self.waits(T_ACK))
            if b.exited:
                break
            if self.tries["interrupt"] == 1:
                self._inject()
            else:
                await self._cancel()
                return
        self.mark("acknowledged")
        here.kicked = True
        await cp("6 has waited for V1", until=lambda: not here.runs1, delay_ps=self.waits(T_SPIN))
        self.mark("stopped or not")
        if here.runs1:
            await self._goes_on("V1 did not stop")
            return
        self.outcome.acked = image.content
        await cp("6 sends the image")
        if self.arrives("image"):
            b.image += 1
        await cp("6 has waited for LOADED", until=lambda: b.loaded > 0, delay_ps=self.waits(T_LOAD))
        if b.loaded == 0:
            b.aborted = True
            await self._goes_on("not loaded")
            return
        await self._commits()

    def _inject(self) -> None:
        if self.arrives("interrupt"):
            self.images[0].irq += 2 if self.faults.twice else 1

    async def _cancel(self) -> None:
        """The guest has not told anything: what is pending is taken back, what still comes is answered."""
        b = self.b
        b.cancelled, self.images[0].irq = 1, 0
        self.sides[0].kicked = False
        self.sides[0].runs1 = True
        self.mark("cancelled")
        await cp("a late exit", until=lambda: b.exited == 1)
        if self.protocol.answers_late:
            await self._goes_on("late exit")

    async def _commits(self) -> None:
        b = self.b
        for _ in range(2):
            await cp("6 hands the token over")
            if self.arrives("commit"):
                b.commit += 1
            self.mark("committed")
            await cp("8 has waited for RUNNING", until=lambda: b.running > 0, delay_ps=self.waits(T_RUN))
            if b.running:
                b.over = True
                self.mark("moved")
                return
        if self.protocol.fences:
            await cp("management switches the target off")
            there = self.sides[1]
            there.alive = there.runs0 = there.runs1 = False
        b.generation += 1
        await self._goes_on("restarted")

    async def _goes_on(self, why: str) -> None:
        """SAME_HOST, or what was frozen is started here as another generation."""
        here = self.sides[0]
        self.outcome.reached.add(why)
        here.record = 1
        here.kicked = False
        self.enters(0)
        await cp("10 has waited for the guest", until=lambda: here.thawed, delay_ps=self.thaw_waits())
        if here.thawed:
            here.runs1 = True
            self.mark("goes on here")
        else:
            self.outcome.dead = True
            self.outcome.reached.add("declared dead")
            await cp("10 after all", until=lambda: here.thawed)
            here.runs1 = True

    # ---- the target

    async def target(self) -> None:
        b, there, protocol = self.b, self.sides[1], self.protocol
        await cp("6 loads the image", until=lambda: b.image > 0 and there.alive)
        self._load()
        if self.arrives("loaded"):
            b.loaded += 1
        if protocol.token:
            await cp("6 has the token", until=lambda: b.commit > 0 and there.alive)
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
            await cp("10 after all", until=lambda: there.thawed and there.alive)
        there.runs1 = True
        for sent in (1, 2):
            if self.arrives("running"):
                b.running += 1
            self.mark("runs there")
            await cp("is asked again", until=lambda sent=sent: b.commit > sent and there.alive)  # type: ignore[misc]

    def _load(self) -> None:
        source, image = self.images
        image.irq, image.lock, image.odd, image.done = source.irq, source.lock, source.odd, source.done
        image.content, image.rate, image.timer_rate = source.content, source.rate, source.timer_rate
        image.armed = source.armed and not self.protocol.drops_deadlines

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
            self.mark("frozen")
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
            self.mark("out")

    async def timer(self) -> None:
        """A timer of the guest's on the target, once all vCPUs run: by whose frequency was it programmed?"""
        image, side = self.images[1], self.sides[1]
        await cp("a timer fires", until=lambda: side.alive and side.runs1 and image.armed and image.done == 1)
        self.outcome.reached.add("a timer fires there")
        if image.timer_rate != image.rate:
            self.outcome.stale_timers += 1

    # ---- what goes wrong

    async def dies(self) -> None:
        b, there = self.b, self.sides[1]
        await cp("the target's power fails", until=lambda: b.request > 0 and b.running == 0)
        there.alive = there.runs0 = there.runs1 = False
        self.outcome.reached.add("the target died")

    async def hangs(self) -> None:
        await cp("V0 hangs")
        self.b.hung = True
        self.outcome.reached.add("V0 hung")
