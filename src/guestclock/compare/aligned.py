"""The model run at the instants of a real run: each operation when the kernel did it, to the tick where that shows.

A kernel's clock reads lie somewhere inside an operation's sandwich. Where something gives them away, the model's reads
in that operation happen at exactly that tick; elsewhere they happen at a chosen point of the sandwich. How a machine is
made, and what gives its reads away, is an architecture's subclass's.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from guestclock.kvm.api import (
    ClockData,
    GetClock,
    GetMsr,
    GetOneReg,
    GetTscOffset,
    GetVcpuAttr,
    Host,
    HostSleep,
    Op,
    ReadHostClock,
    Wait,
    serve,
)
from guestclock.kvm.model import ModelKvm
from guestclock.machine import Machine
from guestclock.sim import PS_PER_NS, Event, Scheduler, Timeline, Trace
from guestclock.sim.checkpoint import cp
from guestclock.vmm.half import play_half
from guestclock.vmm.steps import play

OPERATIONS = ("op", "peek", "host", "step", "note")
NOT_OPERATIONS = ("no-tracepoints",)

COUNTERS = ("tsc", "counter")
"""What ReadHostClock calls the host's own: a reading of it is its instant."""

EARLY, MIDDLE, LATE = 0, 1, 2


class NotAligned(Exception):
    """The recipe went another way on the model than on the real kernel: one of them refused an operation, say.

    index: how many operations they had in common. real, model: what each did next.
    """

    def __init__(self, index: int, real: str, model: str) -> None:
        super().__init__(f"operation {index}: real {real}, model {model}")
        self.index, self.real, self.model = index, real, model


def operations(trace: Trace) -> list[Event]:
    """The events that stand for one operation each, in the order in which the recipe awaited them."""
    return [e for e in trace.events if e.kind in OPERATIONS and e.name not in NOT_OPERATIONS]


@dataclass(frozen=True, slots=True)
class HostCounter:
    """The real host's counter, by which its trace counts time.

    start: where the trace's time began, u64. hz: the rate that its kernel believes in. true_hz: what it truly counts.
    """

    start: int
    hz: int
    true_hz: int

    @classmethod
    def of(cls, trace: Trace, true_hz: int | None) -> HostCounter:
        """true_hz: None: what its kernel believes."""
        meta = trace.meta
        hz = meta["counter_hz"] if "counter_hz" in meta else meta["tsc_khz"] * 1000
        start = meta["counter_start"] if "counter_start" in meta else meta["tsc_start"]
        return cls(start, hz, true_hz or hz)

    def at(self, ps: int) -> int:
        """Its value at a time of the trace: the smallest that is shown as `ps`."""
        return self.start - (-ps * self.hz // 10**12)

    def at_true(self, ps: int) -> int:
        """Its value at true time `ps` from the trace's start: by which the model's trace counts time."""
        return self.start + ps * self.true_hz // 10**12

    def true_ps(self, value: int) -> int:
        """True time, from the trace's start, at which it came to `value`."""
        return -(-(value - self.start) * 10**12 // self.true_hz)


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What the model must be told of a real run because its trace does not say it.

    true_hz: what the host's counter truly counts in a second (an x86 lab's is another than its kernel believes); None:
    what its kernel believes. guest_has_master_clock: that global flag of KVM's, as VMs before this one left it. where:
    the point of an operation's sandwich at which clocks were read, if nothing gives that away. work_latency_ns: how
    late delayed works ran. exits: how often, in which operations, an interrupt of the host's threw the guest out; it
    matters only where each exit asks for a new page. vhe: of an arm64 host. own_answers: the VMM goes on with what the
    model answered it, instead of with what the kernel did: from then on its writes are the model's own as well.
    """

    true_hz: int | None = None
    guest_has_master_clock: bool = False
    where: int = MIDDLE
    work_latency_ns: int = 0
    exits: Mapping[int, int] = field(default_factory=dict)
    vhe: bool = True
    own_answers: bool = False


class Aligned:
    """One program on the model, at the instants of its real run. Made by an architecture's subclass."""

    machine: Machine
    kvm: ModelKvm[Any, Any]

    def __init__(self, real: Trace, program: dict[str, Any], told: Circumstances) -> None:
        self.real, self.program, self.told = real, program, told
        self.entries = iter(operations(real))
        self.done = 0
        self.counter = HostCounter.of(real, told.true_hz)
        self.gaps_ps: list[int] = []
        self.chosen: list[tuple[Op, Event]] = []
        """Operations whose instant nothing gave away."""
        self.snapshot: dict[str, Any] | None = None
        """What a half that saves has saved."""
        self.timeline = Timeline(self._passes)
        self.scheduler = Scheduler(self.timeline)
        self.trace = Trace({"on": "model"})
        self.revealed = self.given_away()

    def first_read(self, clock: str, usual: int) -> int:
        """A host clock when the trace began, ns, by its first reading. usual: where it was never read."""
        event = next((e for e in self.real.of("host") if e.name == clock), None)
        if event is None:
            return usual
        return int(event.data["value"]) - (event.start_ps + event.end_ps) // 2000

    def given_away(self) -> list[int]:
        """Values of the host's counter at clock reads that the trace gives away, ascending."""
        return []

    def run(self) -> Trace:
        """Plays the program. Raises NotAligned."""
        self.scheduler.spawn("VMM", self._course())
        self.scheduler.run()
        return self.trace

    async def _course(self) -> None:
        if self.program.get("program") == "half":
            self.snapshot = await serve(play_half(Host(), self.program), self.execute)
        else:
            await serve(play(Host(), self.program), self.execute)

    def _passes(self) -> int:
        """True time, ps, between a clock read inside an operation and the next one."""
        return self.gaps_ps.pop(0) if self.gaps_ps else 0

    async def execute(self, op: Op) -> Any:
        entry = next(self.entries, None)
        if entry is None or not _is(op, entry):
            raise NotAligned(self.done, "nothing" if entry is None else f"{entry.kind} {entry.name}", str(op))
        self.done += 1
        if isinstance(op, HostSleep):
            op = self.slept(op, entry)
        instants = await self.before(op, self.instants_ps(entry, op))
        await self.until(instants[0])
        self.gaps_ps = self.gaps(entry)
        answer = await self.kvm.execute(Wait(0) if isinstance(op, Wait) else op)
        self.gaps_ps = []
        await self.after(op)
        return answer if self.told.own_answers else _as_read(op, entry, answer)

    def gaps(self, entry: Event) -> list[int]:
        """What passes between the clock reads inside an operation, ps, one after the other, as far as it shows."""
        return []

    async def before(self, op: Op, instants: list[int]) -> list[int]:
        """What the real host did besides, before this operation; the instants that are left for it."""
        return instants

    async def after(self, op: Op) -> None:
        """What is known of the real host from now on, and what it did."""

    async def until(self, at_ps: int) -> None:
        if at_ps > self.timeline.now_ps:
            await cp("aligned", delay_ps=at_ps - self.timeline.now_ps)

    def slept(self, op: HostSleep, entry: Event) -> HostSleep:
        """As long as the real one took, going to bed and getting up with it."""
        first, last = self.counter.at(entry.start_ps), self.counter.at(entry.end_ps)
        return replace(op, ns=(self.counter.true_ps(last) - self.counter.true_ps(first)) // PS_PER_NS)

    def instants_ps(self, entry: Event, op: Op) -> list[int]:
        """True times, from the trace's start, at which the operation's clock reads happen: at least one."""
        first, last = self.counter.at(entry.start_ps), self.counter.at(entry.end_ps)
        if isinstance(op, HostSleep):
            return [self.counter.true_ps(first)]
        if isinstance(op, ReadHostClock) and op.clock in COUNTERS:
            return [self.counter.true_ps(entry.data["value"])]
        given_away = self.revealed[bisect_left(self.revealed, first) : bisect_right(self.revealed, last)]
        if not given_away and not self.gaps(entry):
            self.chosen.append((op, entry))
        chosen = [last if isinstance(op, Wait) else (first, (first + last) // 2, last)[self.told.where]]
        return [self.counter.true_ps(value) for value in given_away or chosen]


def _as_read(op: Op, entry: Event, answer: Any) -> Any:
    """What the VMM goes on with: what it read on the real kernel, so that what it writes later is the same number."""
    if isinstance(op, GetMsr | GetTscOffset | GetOneReg | GetVcpuAttr):
        return entry.data["result"]
    if isinstance(op, ReadHostClock):
        return entry.data["value"]
    return ClockData(**entry.data["result"]) if isinstance(op, GetClock) else answer


def _is(op: Op, entry: Event) -> bool:
    """Whether the event is this operation's."""
    name = getattr(op, "name_", None) or getattr(op, "clock", None) or op.name
    return entry.name in ("clocks", "counters") if op.name == "Peek" else entry.name == name
