"""One run of the suspend thread, for its pictures: what each step changed, and what the clocks showed meanwhile.

The world is that of the checker (checks.suspend), run with integers: one vCPU, one sleep, and steps far enough
apart to be seen. Nothing is known here but what that run left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from guestclock.checks.suspend import views
from guestclock.checks.suspend.case import case
from guestclock.checks.suspend.setting import KHZ, MS, Night, Outcome, S, Setting
from guestclock.checks.suspend.thread import CORRECTED, V3
from guestclock.explore.replay import IntegerWorld
from guestclock.explore.run import Run
from guestclock.guest.suspend_time import HandlerCorrected, HandlerV3, NoHandler
from guestclock.kvm.model.x86.state import VcpuTime, VmTime
from guestclock.linux import Timekeeper
from guestclock.report.numbers import NS_PER_S, short_duration
from guestclock.report.swim_lanes import LaneStep, lane_steps, usual
from guestclock.sim import PS_PER_NS

DESIGNS = {"stock": ("linux-6.12", NoHandler), "v3": (V3, HandlerV3), "corrected": (CORRECTED, HandlerCorrected)}
APART_NS, LATE_NS, TAIL_NS = 20 * MS, 60 * MS, 60 * MS
"""Steps begin so long after each other; the guest's handler is so late; the picture goes on after it."""

HOST, THREAD, KVM, GUEST = "host", "vCPU's thread", "KVM's state", "guest"
LANES = (HOST, THREAD, KVM, GUEST)
LETTERS = {"monotonic": "M", "boottime": "B", "kvmclock": "K"}
BEGIN, WAKES, ENTRY = "the lid is closed", "asleep", "VM entry"
TOLD = {
    "the lid is closed": (HOST, "the lid is closed: notifiers, PREPARE"),
    "suspend: vCPUs leave the guest": (HOST, "every vCPU has left"),
    "suspend: prepared": (HOST, "freezes tasks"),
    "suspend: tasks frozen": (HOST, "timekeeping_suspend()"),
    "asleep": (HOST, "timekeeping_resume()"),
    "resume: devices": (HOST, "thaws tasks"),
    "resume: tasks thawed": (HOST, "notifiers, POST"),
    "in the guest": (THREAD, "VM exit"),
    "frozen": (THREAD, "KVM_RUN goes on"),
    "VM entry": (THREAD, "VM entry"),
    "interrupt pending": (GUEST, "takes the interrupt"),
}
"""What a step does that begins where the model calls it so. Others are shown where they change something."""

Line = list[tuple[int, int]]
"""Points (ps of true time, ns), straight between them."""


@dataclass(frozen=True, slots=True)
class State:
    """What a step may change. Clocks in ns, TSC offset in cycles."""

    asleep: bool
    offs_boot_ns: int
    request: bool
    gate: bool
    kvmclock_offset: int
    tsc_offset: int
    total_ns: int
    interrupt: bool
    in_guest: bool
    injected_ns: int


@dataclass(frozen=True, slots=True)
class HostSpan:
    """The host's timekeeper from a step's end to the next one's beginning, ps."""

    since_ps: int
    until_ps: int
    tk: Timekeeper
    tsc: Callable[[int], int]
    asleep: bool

    def read(self, clock: str, ps: int) -> int:
        """MONOTONIC or BOOTTIME, ns, of a host that nobody steers: as SleepingMachine has them."""
        raw = self.tk.raw_ns(self.tsc(ps))
        return raw if clock == "monotonic" else raw + self.tk.offs_boot_ns


@dataclass(frozen=True, slots=True)
class SuspendRun:
    """begin_ps: the lid is closed; sleep_ps: from when to when timekeeping stood; end_ps: of what is shown.

    host, guest: by clock, a line for each stretch in which somebody could look. steps: for the lanes, ps from there.
    """

    begin_ps: int
    sleep_ps: tuple[int, int]
    end_ps: int
    host: dict[str, list[Line]]
    guest: dict[str, list[Line]]
    steps: list[LaneStep]

    def gained_ns(self, *, at_once: bool = False) -> dict[str, int]:
        """What each clock of the guest gained from its last instruction before the sleep: to the end, or the first."""
        gained: dict[str, int] = {}
        for clock, lines in self.guest.items():
            after = next(n for n, line in enumerate(lines) if line[0][0] > self.sleep_ps[1])
            last = lines[after][0] if at_once else lines[-1][-1]
            gained[clock] = last[1] - lines[after - 1][-1][1]
        return gained


def suspend_run(design: str, tsc: str = "running", slept_ns: int = 600 * S) -> SuspendRun:
    """A design's run over a sleep of so long. tsc: what becomes of the host's, "running", "stopped" or "reset"."""
    kernel, handler = DESIGNS[design]
    night = Night(least_ns=slept_ns, most_ns=slept_ns, tsc=tsc)
    setting = Setting(kernel=kernel, handler=handler, vcpus=1, page=True, nights=(night,), delay_ns=LATE_NS)
    asked = case(design, "", setting)
    assert asked.build is not None
    assert asked.bounds is not None
    times = usual(asked, "the host has slept", wished=lambda run: _apart(run, slept_ns))
    world = IntegerWorld(asked.build, asked.bounds, times)
    outcome: Outcome = world.world
    seen: list[tuple[int, State | None, HostSpan | None]] = []

    def see(number: int) -> None:
        ps = world.ps(world.events[number].end)
        started = bool(outcome.kvm.host.vms and outcome.kvm.host.vms[-1].vcpus) and outcome.guest.tk is not None
        seen.append((ps, _state(outcome), _host_span(outcome, ps)) if started else (ps, None, None))

    world.after_step(see)
    world.run()
    assert outcome.finished
    labels = [event.label for event in world.events]
    begin_ps = world.ps(world.events[labels.index(BEGIN)].start)
    began, woke = outcome.sleeps[0]
    end_ps = max(ps for ps, *_ in seen) + TAIL_NS * PS_PER_NS
    host = _host_lines(world, seen, begin_ps, end_ps)
    guest = _guest_lines(outcome, begin_ps, end_ps)
    steps = _lane_steps(lane_steps(asked, times), labels, [state for _, state, _ in seen], begin_ps, guest)
    return SuspendRun(begin_ps, (world.ps(began), world.ps(woke)), end_ps, host, guest, steps)


def _apart(run: Run, slept_ns: int) -> dict[str, int]:
    """When each told step is to begin, in units: after the one before it, as far as the bounds allow.

    What the case leaves open besides (the age of the guest's last tick) is as great as it may be.
    """
    wished = {name: most for name, (_, most) in run.unknowns.items()}
    at: int | None = None
    for event in run.events:
        if event.label == BEGIN:
            at = KHZ * 1000
        elif at is not None and event.label in TOLD:
            gap_ns = slept_ns if event.label == WAKES else LATE_NS if TOLD[event.label][0] == GUEST else APART_NS
            at += gap_ns * KHZ // 1_000_000
        if at is not None:
            wished[event.start] = at
    return wished


def _state(outcome: Outcome) -> State:
    vm: VmTime = outcome.kvm.host.vms[-1]
    vcpu: VcpuTime = vm.vcpus[0]
    machine, told = outcome.kvm.host.machine, vm.suspend
    page = None if told is None else told.page
    return State(
        asleep=not machine.awake(),
        offs_boot_ns=machine.ktime_get_offs_boot_ns(),
        request=vcpu.req_suspend_time,
        gate=told is not None and told.gate,
        kvmclock_offset=vm.kvmclock_offset,
        tsc_offset=vcpu.tsc_offset,
        total_ns=0 if page is None else page.suspend_time_ns,
        interrupt=vcpu.suspend_irq,
        in_guest=vcpu.in_guest,
        injected_ns=outcome.guest.tk.offs_boot_ns,
    )


# ---- clocks


def _host_span(outcome: Outcome, ps: int) -> HostSpan:
    machine = outcome.kvm.host.machine
    tk = machine.timekeeper
    copy = Timekeeper(**{name: getattr(tk, name) for name in Timekeeper.fields})
    return HostSpan(ps, ps, copy, machine.counter.line(), not machine.awake())


def _host_lines(world: IntegerWorld, seen: list[Any], begin_ps: int, end_ps: int) -> dict[str, list[Line]]:
    """Two lines per clock: until timekeeping was suspended, and from when it was resumed."""
    found: dict[str, list[Line]] = {"monotonic": [], "boottime": []}
    starts = [world.ps(event.start) for event in world.events[1:]]
    going_on = False
    for (ps, _, span), until in zip(seen, [*starts, end_ps], strict=True):
        if span is None or span.asleep:
            going_on = False
            continue
        for clock, lines in found.items():
            if not going_on:
                lines.append([])
            points = [(t, span.read(clock, t)) for t in (max(ps, begin_ps), until) if t >= begin_ps]
            lines[-1] += [point for point in points if point not in lines[-1][-1:]]
        going_on = True
    return {clock: [line for line in lines if line] for clock, lines in found.items()}


def _guest_lines(outcome: Outcome, begin_ps: int, end_ps: int) -> dict[str, list[Line]]:
    """A line per clock and stretch in which the vCPU is in the guest, and nothing that makes its clocks changes."""
    world, reader = outcome.world, views.Reader(outcome)
    found: dict[str, list[Line]] = {"monotonic": [], "boottime": [], "kvmclock": []}
    begin, end = (ps * KHZ // 10**9 for ps in (begin_ps, end_ps))
    for view in views.of(outcome):
        spans = (view.cpu, view.keeper)
        opened = max(begin, *(world.value(span.opened) for span in spans))
        closed = min([end, *(world.value(span.closed) for span in spans if span.closed is not None)])
        if opened >= closed:
            continue
        for clock, lines in found.items():
            points = []
            for t in (opened, closed):
                ns = reader.kvmclock(view.cpu, t) if clock == "kvmclock" else reader.read(clock, view, t)
                points.append((world.ps_of(t), ns))
            lines.append(points)
    for lines in found.values():
        lines.sort()
    return found


# ---- lanes


def _lane_steps(
    found: list[LaneStep], labels: list[str], states: list[State | None], begin_ps: int, guest: dict[str, list[Line]]
) -> list[LaneStep]:
    """Each step in its lane, and below it what it changed, in the lane of whose that is."""
    kept = [n for n, label in enumerate(labels) if label != "start"]
    out: list[LaneStep] = []
    place: dict[int, int] = {}
    for number, (step, n) in enumerate(zip(found, kept, strict=True)):
        before, after = states[n - 1], states[n]
        if before is None or after is None or step.ps < begin_ps:
            continue
        changed = _changed(before, after, step.ps, guest)
        told = TOLD.get(step.label)
        if told is None and not changed:
            continue
        lane, label = told or (THREAD, step.label)
        if step.label == ENTRY and not after.in_guest:
            label = "is not let in, and frozen"
        own = [text for whose, text in changed if whose == lane]
        place[number] = len(out)
        needs = tuple(place[c] for c in step.needs if c in place)
        since = step.ps - begin_ps
        out.append(LaneStep(lane, ": ".join([label, *own]), since, needs))
        out += [LaneStep(whose, text, since, (place[number],)) for whose, text in changed if whose != lane]
    return out


def _changed(before: State, after: State, ps: int, guest: dict[str, list[Line]]) -> list[tuple[str, str]]:
    """(Whose, what) of everything that differs."""
    told: list[tuple[str, str]] = []
    if after.asleep and not before.asleep:
        told.append((HOST, "MONOTONIC stands"))
    if slept := after.offs_boot_ns - before.offs_boot_ns:
        told.append((HOST, f"BOOTTIME {short_duration(slept)}"))
    if after.request != before.request:
        told.append((KVM, "a request is planted" if after.request else "the request is served"))
    if after.gate and not before.gate:
        told.append((KVM, "the gate is shut"))
    if moved := after.kvmclock_offset - before.kvmclock_offset:
        told.append((KVM, f"kvmclock {short_duration(moved)}"))
    if moved := (after.tsc_offset - before.tsc_offset + 2**63) % 2**64 - 2**63:
        told.append((KVM, f"TSC offset {short_duration(moved * 1_000_000 // KHZ)}"))
    if after.total_ns != before.total_ns:
        told.append((KVM, f"the record says {after.total_ns / NS_PER_S:.3f} s"))
    if after.interrupt and not before.interrupt:
        told.append((KVM, "an interrupt is pending"))
    if before.gate and not after.gate:
        told.append((KVM, "the gate is open"))
    if before.in_guest and not after.in_guest:
        told.append((GUEST, "its last instruction"))
    if after.in_guest and not before.in_guest:
        told.append((GUEST, f"goes on: {_shown(guest, ps)}"))
    if injected := after.injected_ns - before.injected_ns:
        told.append((GUEST, f"BOOTTIME {short_duration(injected)}"))
    return told


def _shown(guest: dict[str, list[Line]], ps: int) -> str:
    """How much more MONOTONIC and BOOTTIME show at the entry of that step than at the instruction before it."""
    gained: dict[str, int] = {}
    for clock in ("monotonic", "boottime"):
        before, after = next((a, b) for a, b in pairwise(guest[clock]) if b[0][0] >= ps)
        gained[clock] = after[0][1] - before[-1][1]
    return gains_told(gained)


def gains_told(gained_ns: Mapping[str, int]) -> str:
    """M, B +0.100 s, K +600.100 s: those that gained the same together."""
    alike: dict[str, list[str]] = {}
    for clock, ns in gained_ns.items():
        alike.setdefault(short_duration(ns), []).append(LETTERS[clock])
    # No line is broken inside one of them.
    return ", ".join(f"{', '.join(letters)} {gain}".replace(" ", "\u00a0") for gain, letters in alike.items())


__all__ = ["DESIGNS", "LANES", "LETTERS", "LaneStep", "Line", "SuspendRun", "gains_told", "suspend_run"]
