"""A violation told: the integer run of its schedule, and of it only what the asked-for value is made of.

Left out is the guest's boot, whatever happened elsewhere or later, and calls that move nothing the clock in question is
made of. Numbers are the integer run's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from guestclock.abi.msr import MSR_IA32_TSC, MSR_IA32_TSC_ADJUST, MSR_IA32_TSC_DEADLINE
from guestclock.arith import u64
from guestclock.checks.asks import QUESTIONS, Ask, Question
from guestclock.checks.spec import Spec
from guestclock.checks.watch import Watch, effect_of
from guestclock.checks.whole_run import steps_of
from guestclock.checks.windows import BEFORE, BOOT, Window
from guestclock.checks.world import Call, Outcome, build
from guestclock.errors import UserError
from guestclock.explore.replay import Diverged, Done, IntegerWorld, Schedule
from guestclock.kvm.model import lookup
from guestclock.kvm.model.x86.profile import (
    Profile,
    masterclock_request,
    set_clock,
    snapshot,
    tsc_matching,
)
from guestclock.kvm.record import as_json
from guestclock.sim.trace import Event

WRITES_TSC = ("SetTscOffset", "SetTscKhz", "StartAllTscs", "StopAllTscs")
READS_TSC = ("GetTscOffset",)
CLOCK_CALLS = ("SetClock", "GetClock", "ReadHostClock", "XenSharedInfoInit")
HOST_CALLS = ("SetClocksource", "MarkTscUnstable", "StepRealtime", "AdjustFrequency", "HostSleep")
TSC_MSRS = (MSR_IA32_TSC, MSR_IA32_TSC_ADJUST)


@dataclass(frozen=True, slots=True)
class Step:
    """Something of the story. units: when, in cycles of the first host's TSC; number: of the run's step, to sort by.

    kind: "call" (data: op, answer, error, effect), "note" (a scenario's step begins), "snapshot" (tsc, ns, stable),
    "page" (version, tsc, ns, flags), "enter", "leave", "read" (clock, value). actor: "vmm", "kvm" or "guest".
    """

    units: int
    number: int
    actor: str
    kind: str
    site: int
    vm: int
    vcpu: int | None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule of KVM at work: the hook point, the function's name, what it says, since which kernel and commit."""

    hook: str
    name: str
    about: str
    since: str
    commit: str


@dataclass(slots=True)
class Story:
    """One violation. value: what this run shows, in the ask's unit; None where the ask is not in it any more.

    readings: the steps of kind "read" that contradict, in order of time. outcome, events: the run itself.
    """

    spec: Spec
    question: Question
    ask: Ask
    value: int
    steps: list[Step]
    readings: list[Step]
    rules: list[Rule]
    outcome: Outcome
    world: IntegerWorld
    events: list[Event]
    windows: list[Window]

    def ps(self, units: int) -> int:
        return self.world.ps_of(units)

    @property
    def clock(self) -> str:
        return clock_of(self.question.name, self.windows)


def replay(spec: Spec, property_: str, ask_id: str, schedule: Schedule, name: str = "replay") -> Story:
    """Carries the schedule out with integers and tells what it shows.

    Raises UserError where the run does not go that way, as with a recipe or a kernel that has been changed since.
    """
    question = QUESTIONS[property_]
    events: list[Event] = []
    try:
        world = IntegerWorld(build(spec, emit=events.append), spec.bounds, schedule)
        watch = Watch(world)
        outcome: Outcome = world.run()
    except (Diverged, KeyError, AssertionError) as error:
        told = str(error).strip("'\"") or type(error).__name__
        raise UserError(f"{name}: this run goes another way than the file's: {told} (changed since?)") from None
    ask = next((a for a in question.asks(outcome) if a.id == ask_id), None)
    if ask is None:
        raise UserError(f"{name}: {property_} does not ask {ask_id!r} of this run (changed since?)")
    try:
        value = int(ask.value(schedule.values.__getitem__))
    except KeyError as error:
        raise UserError(f"{name}: damaged: the schedule has no value for {error}") from None
    return _Teller(spec, question, ask, value, outcome, world, watch, events).story()


def clock_of(property_: str, windows: list[Window]) -> str:
    """Which clock a property is about."""
    about = property_.split("-")[0]
    return "tsc" if about == "tsc" or not any(w.has_page for w in windows) else "kvmclock"


class _Teller:
    def __init__(
        self,
        spec: Spec,
        question: Question,
        ask: Ask,
        value: int,
        outcome: Outcome,
        world: IntegerWorld,
        watch: Watch,
        events: list[Event],
    ) -> None:
        self.spec, self.question, self.ask, self.value = spec, question, ask, value
        self.outcome, self.world, self.watch, self.events = outcome, world, watch, events
        self.values = world.schedule.values
        self.windows = sorted(
            (w for w in outcome.tracker.windows() if w.opener in ask.events), key=lambda w: self.values[w.opened]
        )
        self.clock = clock_of(question.name, self.windows)
        self.vms = {(w.site, w.vm) for w in self.windows}
        self.vcpus = {w.vcpu for w in self.windows}
        self.numbers = {event.name: number for number, event in enumerate(world.events)}

    def story(self) -> Story:
        readings = sorted(self.read(), key=_when)
        until = readings[-1].units if readings else max(self.values[e.end] for e in self.world.events)
        calls = [s for s in self.calls() if s.units <= until]
        across = bool(self.spec.recipe) and any(w.phase == BEFORE for w in self.windows)
        if across and readings and readings[0].units < until:
            calls = [s for s in calls if _when(s) >= (readings[0].units, -1)]
        changes = [s for s in self.changes(calls) if s.units <= until]
        steps = sorted([*calls, *changes, *readings], key=_when)
        steps = self.trimmed(steps)
        return Story(
            self.spec, self.question, self.ask, self.value, steps, readings, list(self.rules(steps)), self.outcome,
            self.world, self.events, self.windows,
        )  # fmt: skip

    # ---- readings

    def read(self) -> Iterator[Step]:
        """Where the ask looks: at its own instants, or at the ends of its windows."""
        for window in self.windows:
            instants = [i.name for i in self.ask.instants if window.opened in i.after]
            if not self.ask.instants and len(self.windows) > 1:
                first = window is self.windows[0] and window.closed is not None
                instants = [window.closed if first and window.closed is not None else window.opened]
            for symbol in dict.fromkeys(instants):
                yield self.reading(window, self.values[symbol])
        yield from self.others_pages()

    def others_pages(self) -> Iterator[Step]:
        """Pages of vCPUs that are not in the guest, where the ask compares with them: what they say at its instant."""
        if not self.windows:
            return
        instants = [i.name for i in self.ask.instants] or [self.windows[-1].opened]
        units = max(self.values[symbol] for symbol in instants)
        spans = [s for s in self.outcome.tracker.pages() if s.opener in self.ask.events and s.vcpu not in self.vcpus]
        for span in {s.who: s for s in spans if s.has_page}.values():
            tsc, kvmclock = (u64(read(self.outcome.world, units)) for read in (span.tsc, span.kvmclock))
            data = {"clock": "kvmclock", "tsc": tsc, "kvmclock": kvmclock, "value": kvmclock, "stable": span.stable}
            yield Step(units, (1 << 30) - 1, "kvm", "read", *span.who, {**data, "page": True})

    def reading(self, window: Window, units: int) -> Step:
        tsc = u64(window.tsc(self.outcome.world, units))
        data: dict[str, Any] = {"clock": self.clock, "tsc": tsc, "stable": window.stable}
        if window.has_page:
            data["kvmclock"] = u64(window.kvmclock(self.outcome.world, units))
        data["value"] = data.get(self.clock, tsc)
        return Step(units, 1 << 30, "guest", "read", window.site, window.vm, window.vcpu, data)

    # ---- calls

    def calls(self) -> Iterator[Step]:
        written: set[tuple[int, int, int]] = set()
        found: list[Step] = []
        sources: list[Call] = []
        programmed = not self.spec.recipe
        for call in self.outcome.calls:
            if call.op.name == "Note":
                programmed &= not dict(getattr(call.op, "data", ())).get("index", -1) >= 0
                if not programmed and getattr(call.op, "kind", "") == "step" and not self.spec.recipe:
                    found.append(self.noted(call))
                continue
            if programmed or (call.phase == BOOT and not call.error):
                continue
            if self.matters(call):
                found.append(self.called(call))
            elif _saved(call.op, as_json(call.answer)) is not None:
                sources.append(call)
        # Where a value comes from that was written later, whichever VM it was read of.
        written_values = {v for s in found if s.kind == "call" and (v := _written(s.data["op"])) is not None}
        found += [self.called(call) for call in sources if _saved(call.op, as_json(call.answer)) in written_values]
        for step in reversed(found):
            who = step.site, step.vm, -1 if step.vcpu is None else step.vcpu
            if step.kind == "call" and step.data["op"]["op"] == "CreateVcpu" and (who in written or self.elsewhere()):
                continue
            if step.kind == "call" and writes_tsc(step.data["op"]):
                written.add(who)
            yield step

    def elsewhere(self) -> bool:
        """Whether the VM that was looked at is made in the operation: then its vCPUs' creation is no news."""
        return bool(self.spec.recipe) and not any(w.phase == BEFORE for w in self.windows)

    def matters(self, call: Call) -> bool:
        op: Any = call.op
        vm, vcpu = getattr(op, "vm", None), getattr(op, "vcpu", None)
        if call.error or op.name in HOST_CALLS:
            return True
        if op.name == "ReadHostClock":
            return self.clock == "kvmclock" or op.clock == "tsc"
        if vm is None or (call.site, vm) not in self.vms:
            return False
        if op.name in ("GetMsr", "SetMsr"):
            if op.index == MSR_IA32_TSC_DEADLINE:
                return self.question.name.startswith("deadline")
            return op.index in TSC_MSRS and (op.name == "SetMsr" or vcpu in self.vcpus)
        if op.name in READS_TSC:
            return vcpu in self.vcpus
        if op.name in WRITES_TSC or op.name == "CreateVcpu":
            return True
        return self.clock == "kvmclock" and op.name in CLOCK_CALLS

    def noted(self, call: Call) -> Step:
        number = self.numbers.get(call.after.partition(":")[0], 0)
        data = {"say": getattr(call.op, "name_", "")}
        return Step(self.values.get(call.after, 0), number, "vmm", "note", call.site, -1, None, data)

    def called(self, call: Call) -> Step:
        """The call, at the instant at which it has its effect, or if it has none at which it begins."""
        op: Any = call.op
        first, last = steps_of(self.numbers, call)
        own = [n for n in range(first, last + 1) if self.world.events[n].actor == "VMM"] or [last]
        vm = getattr(op, "vm", -1)
        vcpu = call.answer if op.name == "CreateVcpu" and not call.error else getattr(op, "vcpu", None)
        before, after = self.watch.around((call.site, vm), own[0], own[-1])
        effect = {} if after is None else effect_of(before, after, vcpu)
        at = next((n for n in own if self.moved((call.site, vm), n)), own[0])
        event = self.world.events[at]
        units = self.values[event.end] if effect else self.values[event.start]
        data = {"op": op.as_json(), "answer": as_json(call.answer), "error": call.error, "effect": effect}
        return Step(units, at, "vmm", "call", call.site, vm, vcpu, data)

    def moved(self, which: tuple[int, int], number: int) -> bool:
        before, after = self.watch.around(which, number, number)
        if before is None or after is None:
            return before is not after
        return (before.offsets, before.clock_offset) != (after.offsets, after.clock_offset)

    # ---- what KVM does

    def changes(self, calls: list[Step]) -> Iterator[Step]:
        """The page each window was read through, and the snapshot that page was made from."""
        if self.clock != "kvmclock":
            return
        seen: set[tuple[int, str, int | None]] = set()
        for window in self.windows:
            page = self.page_of(window)
            if page is None:
                continue
            if window.phase in (BOOT, BEFORE) and window is not self.windows[-1] and self.spec.recipe:
                continue  # made at the boot: what it reads is in the story
            # Without STABLE a page is made from clocks read for it alone.
            taken = self.snapshot_before(window, page.number) if page.data["flags"] & 1 else None
            for step in (taken, page):
                if step is not None and (step.number, step.kind, step.vcpu) not in seen:
                    seen.add((step.number, step.kind, step.vcpu))
                    yield step

    def page_of(self, window: Window) -> Step | None:
        """The last store of the page that the window has."""
        which = window.site, window.vm
        for number in range(window.opener, 0, -1):
            before, after = self.watch.around(which, number, number)
            if after is None or window.vcpu >= len(after.pages):
                return None
            new = after.pages[window.vcpu]
            old = before.pages[window.vcpu] if before is not None and window.vcpu < len(before.pages) else None
            if new is not None and new.version % 2 == 0 and (old is None or old.version != new.version):
                event = self.world.events[number]
                data = {
                    "version": new.version,
                    "tsc": new.tsc_timestamp,
                    "ns": new.system_time,
                    "flags": new.flags,
                    "cause": self.actor(event),
                }
                return Step(self.values[event.end], number, "kvm", "page", *which, window.vcpu, data)
        return None

    def snapshot_before(self, window: Window, until: int) -> Step | None:
        which = window.site, window.vm
        for number in range(until, 0, -1):
            before, after = self.watch.around(which, number, number)
            if after is None:
                return None
            old = None if before is None else (before.stable, before.tsc)
            if old != (after.stable, after.tsc):
                event = self.world.events[number]
                data = {"tsc": after.tsc, "ns": after.ns, "stable": after.stable, "cause": self.actor(event)}
                return Step(self.values[event.end], number, "kvm", "snapshot", *which, None, data)
        return None

    def actor(self, event: Done) -> str:
        """On whose thread: "vmm", "vcpu1" or a work's name."""
        if event.actor == "VMM":
            return "vmm"
        name = event.actor.partition(" #")[0]
        head, _, index = name.rpartition(" vCPU ")
        return f"vcpu{index}" if head else name

    # ---- what can be left out, and why it is so

    def trimmed(self, steps: list[Step]) -> list[Step]:
        """Without what cannot have mattered: headings over nothing, writes to others that came too late."""
        kept: list[Step] = []
        writes = [n for n, s in enumerate(steps) if s.kind == "call" and writes_tsc(s.data["op"])]
        ours = [n for n in writes if steps[n].vcpu in self.vcpus]
        for position, step in enumerate(steps):
            if step.kind == "note" and (position + 1 == len(steps) or steps[position + 1].kind == "note"):
                continue
            if self.clock == "tsc" and position in writes and ours and position > ours[-1]:
                continue
            kept.append(step)
        return kept

    def rules(self, steps: list[Step]) -> Iterator[Rule]:
        profile = lookup(self.spec.kernel)
        ops = [s.data["op"] for s in steps if s.kind == "call"]
        written = [s for s in steps if s.kind == "call" and s.data["op"].get("index") == MSR_IA32_TSC]
        written = [s for s in written if s.data["op"]["op"] == "SetMsr"]
        if (self.clock == "tsc" and written) or any(s.data["effect"].get("matched") is False for s in written[1:]):
            yield _rule(profile, tsc_matching)
        if self.clock == "kvmclock":
            pages = [s for s in steps if s.kind == "page"]
            if any(not p.data["flags"] & 1 for p in pages):
                yield _rule(profile, snapshot)
            elif any(s.kind == "snapshot" and s.data["cause"] != "vmm" for s in steps):
                yield _rule(profile, masterclock_request)
            if any(op["op"] == "SetClock" for op in ops) and "policy" in self.question.name:
                yield _rule(profile, set_clock)


def _saved(op: Any, answer: Any) -> tuple[str, int] | None:
    """What a call read that another one may write back later."""
    if op.name == "GetMsr" and op.index == MSR_IA32_TSC and isinstance(answer, int):
        return "tsc", answer
    if op.name == "GetTscOffset" and isinstance(answer, int):
        return "offset", answer
    return ("clock", answer["clock_ns"]) if op.name == "GetClock" and isinstance(answer, dict) else None


def _written(op: dict[str, Any]) -> tuple[str, int] | None:
    if op["op"] == "SetMsr" and op["index"] == MSR_IA32_TSC:
        return "tsc", op["data"]
    if op["op"] == "SetTscOffset":
        return "offset", op["offset"]
    return ("clock", op["clock_ns"]) if op["op"] == "SetClock" else None


def writes_tsc(op: dict[str, Any]) -> bool:
    return op["op"] == "SetTscOffset" or (op["op"] == "SetMsr" and op["index"] in TSC_MSRS)


def _when(step: Step) -> tuple[int, int]:
    return step.units, step.number


def _rule(profile: Profile, hook: Any) -> Rule:
    function = getattr(profile, hook.name)
    for name, rule in hook.rules.items():
        if rule.function is function:
            return Rule(hook.name, name, _whole(hook, rule.about), rule.since, rule.commit)
    about = (function.__doc__ or hook.about).strip().partition("\n")[0]
    return Rule(hook.name, getattr(function, "__name__", "?"), about, "", "")


def _whole(hook: Any, about: str) -> str:
    """A rule that is told as a variant of another ("as P9, but ..."), with the other's words."""
    meant = re.search(r"\bas (P\d+)\b", about)
    if meant is None:
        return about
    other = next((r.about for r in hook.rules.values() if re.match(rf"{meant[1]}\b", r.about)), "")
    return f"{about.rstrip('.')}. {other}" if other else about
