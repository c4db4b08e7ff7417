"""QEMU's recipes, or a sleep, on the model, each when it really was: what the guest's TSC and kvmclock are to be.

When inside its call KVM read a clock is not known, where nothing gives it away. So the recipes are played twice: once
with everything where it makes the clocks be least afterwards, once where it makes them be most.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.arith import u64
from guestclock.check import Span
from guestclock.compare.aligned import Circumstances, NotAligned
from guestclock.compare.session import LAB_TSC_HZ
from guestclock.compare.x86.aligned import X86Aligned
from guestclock.judges.linux_guest.calls import Call, Line, Watched
from guestclock.kvm.api import ClockReading, GetClock, GetMsr, Host, HostSleep, Op, Vcpu, Vm, serve
from guestclock.sim import Event, Trace
from guestclock.vmm.recipe import Recipe, load

STOP_CONT, SAVE_LOAD = "qemu-stop-cont", "qemu-migrate"
"""The recipes that are played. savevm and loadvm are a migration by way of a file."""

_FIRST = ("CreateVm", "CreateVcpu", "EnableKvmclock", "SetTscOffset", "SetClock", "Start")
BEFORE = len(_FIRST) + 1
"""So many operations make the model's VM be as the kernel's was, the last one a look at it."""

ROUNDING_NS = 1
"""Where KVM takes a new snapshot of its clock, it rounds the host's raw clock down at a phase that is not known."""


@dataclass(frozen=True, slots=True)
class Played:
    """One playing: the guest's counters at first, after cont, savevm and loadvm; or at first, and after a sleep."""

    lines: tuple[Line, ...]


def played(watched: Watched, tsc_khz: int, profile: str) -> tuple[Played, Played]:
    """By a profile's model: what is least and what is most, at the same instants of the lab's.

    Raises NotAligned where the recipes ask for something else than QEMU did, or in another order.
    """
    return _play(watched, tsc_khz, profile, most=False), _play(watched, tsc_khz, profile, most=True)


def hull(of: tuple[int, int], *, slack: int = 0) -> Span:
    """All that is between the least and the most."""
    return Span(min(of) - slack, max(of) + slack)


def _play(watched: Watched, tsc_khz: int, profile: str, *, most: bool) -> Played:
    aligned = _Aligned(watched, tsc_khz, profile, most)
    first = watched.segments[0].line
    if watched.slept:
        course = _asleep(Host(), first, aligned.lines)
    else:
        course = _course(Host(), first, load(STOP_CONT), load(SAVE_LOAD), aligned.lines)
    aligned.scheduler.spawn("VMM", serve(course, aligned.execute))
    aligned.scheduler.run()
    left = next(aligned.entries, None)
    if left is not None:
        raise NotAligned(aligned.done, left.name, "nothing")
    return Played(tuple(aligned.lines))


async def _course(host: Host, first: Line, stop: Recipe, move: Recipe, lines: list[Line]) -> None:
    """What QEMU does: stop, cont; savevm; loadvm, whose reset writes every TSC as 0 before it writes what was saved."""
    assert stop.pause is not None
    assert stop.resume is not None
    assert move.pause is not None
    assert move.save is not None
    assert move.restore is not None
    assert move.resume is not None
    vm, vcpu = await _as_at_first(host, first)
    lines.append(await _line(vcpu))

    await stop.pause(vm)
    await stop.resume(vm)
    lines.append(await _line(vcpu))

    await move.pause(vm)
    snapshot = await move.save(vm)
    await move.resume(vm)
    lines.append(await _line(vcpu))

    await move.pause(vm)
    await vcpu.set_msr(MSR_IA32_TSC, 0)
    await move.restore(vm, snapshot)
    await move.resume(vm)
    lines.append(await _line(vcpu))


async def _asleep(host: Host, first: Line, lines: list[Line]) -> None:
    """Nobody does anything about it: who is frozen comes out of KVM_RUN, and goes in again when it is thawed."""
    _, vcpu = await _as_at_first(host, first)
    lines.append(await _line(vcpu))
    await vcpu.kick()
    await HostSleep(0)
    await vcpu.start()
    lines.append(await _line(vcpu))


async def _as_at_first(host: Host, first: Line) -> tuple[Vm, Vcpu]:
    vm = await host.create_vm()
    vcpu = await vm.create_vcpu()
    await vcpu.enable_kvmclock()
    await vcpu.set_tsc_offset(first.offset)
    await vm.set_clock(first.page.system_time)  # at the very instant that the kernel's own page is of
    await vcpu.start()
    return vm, vcpu


async def _line(vcpu: Vcpu) -> Line:
    seen: ClockReading = await vcpu.peek()
    assert seen.page is not None
    return Line(u64(seen.tsc - seen.host_tsc[0]), seen.page)


class _Aligned(X86Aligned):
    """The model, at the instants of QEMU's calls."""

    def __init__(self, watched: Watched, tsc_khz: int, profile: str, most: bool) -> None:
        self.most, self.known = most, watched.revealed
        self.lines: list[Line] = []
        first = watched.segments[0]
        start = first.host(first.line.page.tsc_timestamp)
        real = Trace({"tsc_khz": tsc_khz, "tsc_start": start})
        for call in (*_before(start), *watched.calls):
            for event in self._events(call, watched, start, tsc_khz * 1000):
                real.emit(event)
        super().__init__(real, {}, profile, Circumstances(true_hz=LAB_TSC_HZ))

    def _events(self, call: Call, watched: Watched, start: int, hz: int) -> Iterator[Event]:
        first, last = ((at - start) * 10**12 // hz for at in (call.first, call.last))
        yield Event("op", call.name, first, last)
        if call.name == "Start":  # by the end of the next segment of the guest's, its page has been written
            looked = [s.last for s in watched.segments if s.last is not None and s.last > call.last]
            at = (min(looked, default=call.last + hz) - 1 - start) * 10**12 // hz
            yield Event("peek", "clocks", at, at)

    def given_away(self) -> list[int]:
        return self.known

    async def execute(self, op: Op) -> Any:
        """As it is, but answers are the model's own: a recipe goes on with what it is told here."""
        entry = next(self.entries, None)
        if entry is None or entry.name != ("clocks" if op.name == "Peek" else op.name):
            raise NotAligned(self.done, "nothing" if entry is None else entry.name, op.name)
        self.done += 1
        if isinstance(op, HostSleep):
            op = self.slept(op, entry)
        await self.until(self.instants_ps(entry, op)[0])
        return await self.kvm.execute(op)

    def instants_ps(self, entry: Event, op: Op) -> list[int]:
        """A clock that is read late, or set early, is further on afterwards."""
        first, last = self.counter.at(entry.start_ps), self.counter.at(entry.end_ps)
        if isinstance(op, HostSleep):
            return [self.counter.true_ps(first)]
        known = self.known[bisect_left(self.known, first) : bisect_right(self.known, last)]
        reads = isinstance(op, GetClock | GetMsr)
        chosen = known[0] if known else last if reads == self.most else first
        return [self.counter.true_ps(chosen)]


def _before(start: int) -> list[Call]:
    """What makes the model's VM be as the kernel's was, when the page was written that its guest used at first."""
    return [Call(name, start, start) for name in _FIRST]
