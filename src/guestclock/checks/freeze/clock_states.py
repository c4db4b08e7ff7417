"""What happens to one guest that is frozen, moved and thawed, the state that its actors share, and what readers saw.

The actors are `checks.freeze.clocks`'; those of a snapshot, of a counter that is handed down and of an L2 share it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from guestclock.arith import S64_MAX, u64
from guestclock.checks.freeze.protocol import Protocol
from guestclock.explore.world import Between, Bounds, World
from guestclock.guest.freeze import MIGRATED, STOP
from guestclock.linux import Timekeeper, clocksource
from guestclock.linux.clocksource import Clocksource, arch_sys_counter
from guestclock.sim import State
from guestclock.sim.field import flag, integer

ONE = 1 << 48
SECOND = 10**9
MILLISECOND = 10**6
READERS = ("syscall", "vdso", "fast", "nmi")
BEGUN_NS = 1000 * SECOND
BEGUN_CYCLES = 1 << 50
"""The source's TSC at first: the target's can be lower."""
MOST_CYCLES = 1 << 54
"""... and up to this: a host that has been up for 87 days at 2.4 GHz."""
NO_TICK = "no tick between two readings"


@dataclass(frozen=True, kw_only=True, slots=True)
class Move:
    """What happens to the guest. continuous: the host makes the counter go on where it stopped; else it has any value.

    readers: of READERS, or "sched" (sched_clock on V1), in turn. delay_ns: between two steps of the VMM's;
    guest_delay_ns: of the handler's. away_ns: moving takes at most; life_ns: how long all of it lasts, besides.
    tick_step: what a tick adds to mult.

    source_ratio, target_ratio: by what a hypervisor below scales the TSC of what is the host here, 2^48ths: the guest
    is an L2, its host an L1. sleep_ns: the host that has the image sleeps so long; reset: its TSC does not count
    meanwhile and comes back with any value.

    arm64: the counter is CNTVCT_EL0, and the vDSO takes one that is behind for one that is far ahead. tells_rate: the
    record says how fast the target's counter is.
    """

    source_khz: int = 2_400_000
    target_khz: int = 2_900_000
    status: str = MIGRATED
    policy: str = STOP
    continuous: bool = False
    readers: tuple[str, str] = ("vdso", "vdso")
    delay_ns: int = MILLISECOND
    guest_delay_ns: int = 10_000
    away_ns: int = 2 * SECOND
    life_ns: int = 5 * SECOND
    tick_step: int = 0
    source_ratio: int = ONE
    target_ratio: int = ONE
    sleep_ns: int = 0
    reset: bool = False
    arm64: bool = False
    tells_rate: bool = True

    @property
    def away(self) -> Between:
        """How long moving takes: at least a microsecond."""
        return Between.of(1_000_000, self.away_ns * 1000)

    @property
    def guest_khz(self) -> tuple[int, int]:
        """The frequencies that the guest is told, kHz, rounded down."""
        return self.source_khz * self.source_ratio >> 48, self.target_khz * self.target_ratio >> 48

    @property
    def clocksources(self) -> tuple[Clocksource, Clocksource]:
        """What the guest counts by before and after, if it is told."""
        old, new = (
            arch_sys_counter(khz * 1000) if self.arm64 else clocksource("tsc", tsc_khz=khz) for khz in self.guest_khz
        )
        return old, new

    @property
    def bounds(self) -> Bounds:
        """In cycles of the source's TSC. A reader comes whenever it likes."""

        def units(ns: int) -> int:
            return ns * self.source_khz // MILLISECOND

        horizon = units(self.life_ns + 2 * self.away_ns + 2 * self.sleep_ns)
        delays = (("V0", units(self.guest_delay_ns)), ("tick", horizon), ("reader", horizon))
        return Bounds(
            horizon=horizon,
            delay=units(self.delay_ns),
            section=units(1000),
            delays=delays,
            ps=(SECOND, self.source_khz),
        )


class Line(State):
    """One published timekeeper: what a reader copies under a sequence of its own.

    In the kernel MONOTONIC is split into seconds and the rest; no reading differs by it (linux.image).
    """

    seq = integer("odd: being written, readers wait")
    epoch = integer("whose factors: of how many reconfigurations")
    cycle_last = integer("counter at snsec")
    snsec = integer("MONOTONIC at cycle_last, ns << shift")
    mult = integer("multiplier")
    shift = integer("shift")
    offs_boot_ns = integer("BOOTTIME - MONOTONIC")
    halted = flag("reads as cycle_last, whatever the counter is")
    clamps = flag("a counter that is behind reads as cycle_last", True)
    above = integer("bits that the counter lacks to 64")

    def store(self, tk: Timekeeper, epoch: int) -> None:
        self.epoch, self.cycle_last, self.snsec = epoch, tk.cycle_last, tk.mono_snsec
        self.mult, self.shift, self.offs_boot_ns = tk.mono_mult, tk.clock.shift, tk.offs_boot_ns
        self.above = 64 - tk.clock.mask.bit_length()

    def ns(self, cycles: Any) -> Any:
        """MONOTONIC where the counter is `cycles`: one that is behind reads as cycle_last.

        On arm64 the vDSO does not clamp. What it makes of a counter that is behind wraps, so that it is any value, and
        that is not here: where nobody runs between steps 8 and 10 but V0, nobody reads so.
        """
        delta = u64((cycles - self.cycle_last) * (1 << self.above)) >> self.above
        if self.halted or (self.clamps and delta > S64_MAX >> self.above):
            delta = 0
        return (self.snsec + delta * self.mult) >> self.shift


class Vm(State):
    """The guest's memory and its vCPUs, as the protocol sees them."""

    site = integer("0: the source, 1: the target")
    offset0 = integer("V0's TSC - the host's")
    offset1 = integer("V1's")
    runs0 = flag("V0 may be in guest mode", True)
    runs1 = flag("V1 may", True)
    gate = flag("no NMI is delivered")
    nmi_pending = flag("one was sent and is not handled yet")
    nmi_active = flag("its handler runs")
    irq = flag("the freeze interrupt is pending")
    lock = flag("timekeeper_lock is held")
    frozen = flag("from the end of freeze() to that of unfreeze()")
    exited = flag("V0 has told that it is frozen")
    stop_cycles = integer("what the host takes for the last value of the counter that anybody has seen")
    stop_ps = integer("when V1 stopped")
    slept_ps = integer("how long the host that has the image has slept")
    moved = flag("the image is where it shall run")
    sched_epoch = integer("by how many reconfigurations sched_clock's factors have changed")
    told = flag("the record is written")
    thawed = flag("V0 has told that it is not frozen any more")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reader was given. number: the step in which it read the counter; returned: in which it was given.

    epoch: whose factors; site: whose counter. halted: of a fast timekeeper that stands still. frozen: of the old epoch,
    it was handed out after freeze() and before the end of unfreeze(); moved: and after the stop.
    late: it was handed out when another epoch had begun.
    """

    index: int
    kind: str
    number: int
    ns: Any
    boottime_ns: Any
    cycles: Any
    ps: Any
    epoch: int
    site: int
    returned: int
    halted: bool = False
    frozen: bool = False
    moved: bool = False
    late: bool = False


@dataclass
class Outcome:
    """A run: its readings, and where the epochs meet (counter values; None: it did not come to that).

    unaware: the guest takes no part and has one epoch; parts: by how many 2^-48ths its counter may be scaled wrong.
    guest: whose timekeeper, published lines and record they are of (`checks.freeze.clocks`), for onlookers.
    """

    world: World
    protocol: Protocol
    move: Move
    vm: Vm
    readings: list[Reading] = field(default_factory=list)
    stop: Any = None
    begins: Any = None
    unaware: bool = False
    parts: int = 0
    finished: bool = False
    reached: set[str] = field(default_factory=set)
    contracts: set[str] = field(default_factory=lambda: {NO_TICK})
    guest: Any = None

    @property
    def notes(self) -> dict[int, str]:
        """What the readers of an integer run were given, by the step in which they looked."""
        return {r.number: f"{r.ns // SECOND}.{r.ns % SECOND:09} s" for r in self.readings}
