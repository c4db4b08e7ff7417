"""What the guest's clocks show: a view is a stretch of one vCPU's execution in which nothing they are made of changes.

A reader only looks, so it need not be run: what it reads at any instant of a view follows from the view. A clock is
made of two things that change independently of each other: the vCPU's counter, from an entry of its to an exit, and the
guest's timekeeper, from one write to the next. A view is a pair of such spans; whether it lasts at all in a given order
is for the bounds of times to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from guestclock.abi.pvclock import PVCLOCK_TSC_STABLE_BIT, PvclockVcpuTimeInfo
from guestclock.arith import u64
from guestclock.arith.affine import Form, Symbol
from guestclock.checks.asks import Instant
from guestclock.checks.suspend.architecture import Counter
from guestclock.checks.suspend.setting import Outcome
from guestclock.checks.x86.windows import kvmclock_by
from guestclock.linux import Timekeeper


@dataclass(frozen=True, slots=True)
class CpuSpan:
    """One vCPU in its guest, with counters (and a page) that stay as they are. index: counted per vCPU.

    step: name of the step that opened it. slept: how often the host had slept by then. applied: its counter is of the
    VM's latest epoch. late: it was plugged in. entry: it has just come into the guest. waits: an interrupt (or a tick
    with work to do) was pending all the while: it cannot have lasted longer than interrupts may be off.
    """

    vcpu: int
    index: int
    step: str
    opener: int
    opened: Symbol
    closer: int | None
    closed: Symbol | None
    counters: tuple[Counter, ...]
    page: PvclockVcpuTimeInfo | None
    slept: int
    applied: bool
    late: bool
    entry: bool
    waits: bool

    def counter(self, name: str) -> Counter | None:
        """The counter of that name, where the guest can read it."""
        return next((counter for counter in self.counters if counter.name == name), None)


@dataclass(frozen=True, slots=True)
class TkSpan:
    """The guest's timekeeper from one write to the next. asleep: it is suspended; kernel: which one, counted.

    resumed: the write was the end of such a suspend.
    """

    index: int
    step: str
    opener: int
    opened: Symbol
    closer: int | None
    closed: Symbol | None
    tk: Timekeeper
    injections: int
    asleep: bool
    kernel: int
    resumed: bool


@dataclass(frozen=True, slots=True)
class View:
    """Both at once."""

    cpu: CpuSpan
    keeper: TkSpan

    @property
    def vcpu(self) -> int:
        return self.cpu.vcpu

    @property
    def slept(self) -> int:
        return self.cpu.slept

    @property
    def kernel(self) -> int:
        return self.keeper.kernel

    @property
    def tk(self) -> Timekeeper:
        return self.keeper.tk

    @property
    def last(self) -> bool:
        """Neither ends any more."""
        return self.cpu.closed is None and self.keeper.closed is None

    @property
    def id(self) -> str:
        """The same in every run of the same order."""
        return f"{self.vcpu}@{self.cpu.step}/{self.keeper.step}"

    @property
    def events(self) -> tuple[int, ...]:
        spans = (self.cpu, self.keeper)
        return tuple(n for span in spans for n in (span.opener, span.closer) if n is not None)

    def instant(self, name: str) -> Instant:
        """An instant at which it lasts."""
        spans = (self.cpu, self.keeper)
        closed = tuple(span.closed for span in spans if span.closed is not None)
        return Instant(name, tuple(span.opened for span in spans), closed)


def of(outcome: Outcome) -> list[View]:
    """Every view that may last, by vCPU, entry and timekeeper."""
    tracker, world = outcome.tracker, outcome.world

    def after(span: CpuSpan | TkSpan, other: CpuSpan | TkSpan) -> bool:
        """Whether `span` is over, in every order that is like this one, when `other` begins."""
        if span.closer is None:
            return False
        past = getattr(world.events[other.opener], "past", None)
        if past is None:
            return False  # an integer run: its asks are only looked up
        return span.closer == other.opener or bool(past >> span.closer & 1)

    reader = Reader(outcome)
    return [
        View(cpu, keeper)
        for cpu in tracker.cpus()
        for keeper in tracker.keepers()
        if not keeper.asleep and reader.readable(cpu) and not after(cpu, keeper) and not after(keeper, cpu)
    ]


class Reader:
    """Reads a view's clocks at an instant, in units: a form while exploring, an int in a replay.

    While exploring, a clock in ns is its unrounded value: where that does not fall, no reading does.
    """

    def __init__(self, outcome: Outcome) -> None:
        self.outcome, self.world = outcome, outcome.world
        self.counter_name = outcome.arch.clock_counter
        self.kvm_clock = outcome.setting.clock == "kvm-clock"
        self.mono_is_boot = outcome.setting.mono_is_boot

    def counter(self, name: str, cpu: CpuSpan, t: Any) -> Any:
        """A counter that the guest can read there, u64."""
        counter = cpu.counter(name)
        assert counter is not None, name
        return counter.at(self.world.ps_of(t))

    def clock_counter(self, cpu: CpuSpan, t: Any) -> Any:
        """The one that Linux tells the time by, u64."""
        return self.counter(self.counter_name, cpu, t)

    def kvmclock(self, cpu: CpuSpan, t: Any) -> Any:
        """ns, u64."""
        assert cpu.page is not None
        return u64(kvmclock_by(cpu.page, self.clock_counter(cpu, t)))

    def read(self, clock: str, view: View, t: Any) -> Any:
        """ "monotonic", "boottime", "realtime": ns."""
        tk = view.tk
        cpu = view.cpu
        cycles = self.kvmclock(cpu, t) if self.kvm_clock else self.clock_counter(cpu, t)
        if clock == "monotonic" and self.mono_is_boot:
            clock = "boottime"
        if not self.world.symbolic:
            return tk.read_ns(clock, cycles)
        behind = u64(cycles - tk.cycle_last)
        shifted = tk.mono_at(0 if behind > (1 << 63) - 1 else behind)
        return _over(shifted, tk.clock.shift) + tk.offset_ns(clock)

    def counts(self, cpu: CpuSpan) -> bool:
        """Whether the guest's Linux, the one whose timekeeper is looked at, runs there at all."""
        return cpu.counter(self.counter_name) is not None

    def readable(self, cpu: CpuSpan) -> bool:
        return self.counts(cpu) and (not self.kvm_clock or has_page(cpu))

    def stable(self, cpu: CpuSpan) -> bool:
        return has_page(cpu) and cpu.page is not None and bool(cpu.page.flags & PVCLOCK_TSC_STABLE_BIT)


def _over(value: Any, shift: int) -> Form:
    """value / 2^shift, exact."""
    if type(value) is Form:
        return Form(value.terms, value.const, value.den << shift)
    return Form({}, value, 1 << shift)


def has_page(cpu: CpuSpan) -> bool:
    return cpu.page is not None and cpu.page.version != 0 and cpu.page.version % 2 == 0


class Tracker:
    """Looks at every vCPU and the timekeeper after each step, from when the guest's kernel has its clocks."""

    def __init__(self, outcome: Outcome, applied: Callable[[Any], bool]) -> None:
        self.outcome, self.applied = outcome, applied
        self.kernel = 0
        self._cpus: list[CpuSpan] = []
        self._keepers: list[TkSpan] = []
        self._open: dict[int, tuple[CpuSpan, Any]] = {}
        self._keeper: tuple[TkSpan, int] | None = None
        self._counted: dict[int, int] = {}
        outcome.world.after_step(self._look)

    def cpus(self) -> list[CpuSpan]:
        """By vCPU and time."""
        return sorted([*self._cpus, *(span for span, _ in self._open.values())], key=lambda s: (s.vcpu, s.index))

    def exits(self, vcpu: int) -> int:
        """How often it has left the guest."""
        return sum(span.vcpu == vcpu for span in self._cpus)

    def left_at(self, vcpu: int) -> Symbol:
        """When it last did."""
        closed = [span.closed for span in self._cpus if span.vcpu == vcpu]
        assert closed, vcpu
        assert closed[-1] is not None, vcpu
        return closed[-1]

    def keepers(self) -> list[TkSpan]:
        return [*self._keepers, *([self._keeper[0]] if self._keeper is not None else [])]

    def _look(self, number: int) -> None:
        outcome = self.outcome
        host = outcome.kvm.host
        if outcome.guest.tk is None or not host.vms:
            return
        self._look_at_timekeeper(number)
        for vcpu in host.vms[-1].vcpus:
            self._look_at(vcpu, number)

    def _look_at_timekeeper(self, number: int) -> None:
        guest, event = self.outcome.guest, self.outcome.world.events[number]
        known = self._keeper
        if known is not None and known[1] == guest.version:
            return
        if known is not None:
            self._keepers.append(replace(known[0], closer=number, closed=event.start))
        index = len(self._keepers)
        span = TkSpan(
            index, event.name, number, event.end, None, None, guest.tk.copy(), guest.injections, guest.asleep,
            self.kernel, known is not None and known[0].asleep and not guest.asleep,
        )  # fmt: skip
        self._keeper = span, guest.version

    def _look_at(self, vcpu: Any, number: int) -> None:
        outcome = self.outcome
        event = outcome.world.events[number]
        known = self._open.get(vcpu.index)
        made_of = outcome.arch.made_of(vcpu)
        if known is not None:
            span, was = known
            if vcpu.in_guest and outcome.arch.same(was, made_of):
                return
            del self._open[vcpu.index]
            waits = span.waits and self._pending(vcpu)
            self._cpus.append(replace(span, closer=number, closed=event.start, waits=waits))
        if not vcpu.in_guest:
            return
        seen = outcome.arch.seen(outcome, vcpu)
        index = self._counted[vcpu.index] = self._counted.get(vcpu.index, -1) + 1
        span = CpuSpan(
            vcpu.index, index, event.name, number, event.end, None, None, seen.counters, seen.page,
            len(outcome.sleeps), self.applied(vcpu), vcpu.index >= outcome.setting.vcpus, known is None,
            self._pending(vcpu),
        )  # fmt: skip
        self._open[vcpu.index] = span, made_of

    def _pending(self, vcpu: Any) -> bool:
        guest = self.outcome.guest
        if guest.asleep:
            return False  # nothing is taken before it has resumed
        return bool(vcpu.suspend_irq) or (vcpu.index == 0 and guest.told.tick_has_work(guest))
