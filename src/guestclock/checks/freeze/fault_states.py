"""What can fail while a guest is frozen and moved: messages, time-outs, hosts, the guest. Order alone counts here.

The guest's memory exists twice from the moment it is loaded on the target, so it is an object per host. A time-out may
end any wait, whatever else happens: every step may take longer than every time-out. The unit of time is 1 ns.

What the source has handed over (COMMIT) it takes back in one way only: somebody above both hosts (management) switches
the target off, and what is then started from the frozen image is another VM by its generation. Without that power two
hosts on a lossy link cannot end in one owner; that is no matter of implementation. In the other direction it is the
same: before the target runs an image without the token, management has switched the source off.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from guestclock.checks.freeze.protocol import Protocol
from guestclock.explore.world import Bounds, World
from guestclock.sim import State
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
    the guest refuses. source_dies: at any moment from step 2. suspected: management takes a source that lives for dead,
    at any moment. nmi_needed: an NMI must be delivered, at any moment from step 2.
    """

    lost: tuple[str, ...] = ()
    gone: tuple[str, ...] = ()
    twice: bool = False
    target_dies: bool = False
    hangs: bool = False
    nmi_stays: bool = False
    v1_stays: bool = False
    unfit: bool = False
    source_dies: bool = False
    suspected: bool = False
    nmi_needed: bool = False


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

    def copy(self, of: Image) -> None:
        """What is sent and loaded: the image as it was then."""
        self.irq, self.lock, self.odd, self.done = of.irq, of.lock, of.odd, of.done
        self.content, self.rate, self.armed, self.timer_rate = of.content, of.rate, of.armed, of.timer_rate


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
    gated = flag("it holds NMIs back")


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
    nmi_needed = flag("an NMI must be delivered")
    promoted = flag("message: management to target, run it without the token")
    generation = integer("of the VM: another where it was started from a copy")


@dataclass
class Outcome:
    """marks: (number, symbol) of steps that questions measure from and to. acked: the image when V0 had left.

    nmi_amid: NMIs that a guest was given between the stop and step 10, while it was not declared dead.
    """

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
    nmi_amid: int = 0
    dead: bool = False
    finished: bool = True
    reached: set[str] = field(default_factory=set)
    contracts: set[str] = field(default_factory=set)

    def mark(self, name: str) -> None:
        self.marks.setdefault(name, (len(self.world.events), self.world.here))
        self.reached.add(name)

    @property
    def executing(self) -> int:
        """How many hosts let the guest run, now."""
        return sum(side.runs0 or side.runs1 for side in self.sides)

    @property
    def owed(self) -> int:
        """How many hosts shall let it run in the end: none where every host that had the image is off, else one."""
        source, target = self.sides
        return int(source.alive or (target.alive and self.between.image > 0))

    @property
    def standstill(self) -> int | None:
        """1 where not all vCPUs run in the end, or the guest is frozen: sequence odd or lock held.

        None: its handler hangs, or nobody has the image any more, which is not the protocol's to cure.
        """
        if self.between.hung or not self.owed:
            return None
        for image, side in zip(self.images, self.sides, strict=True):
            if side.alive and side.runs0 and side.runs1 and not image.odd and image.lock == 0:
                return 0
        return 1
