"""How a violation is told: which of a run's calls, changes and readings are its story."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from guestclock.checks.asks import Ask, Question
from guestclock.checks.outcome import Call, Outcome
from guestclock.checks.spec import Spec
from guestclock.checks.story import Rule, Step, Story, when
from guestclock.checks.watch import Watch
from guestclock.checks.whole_run import steps_of
from guestclock.checks.windows import BEFORE, BOOT
from guestclock.explore.replay import Done, IntegerWorld
from guestclock.kvm.record import as_json
from guestclock.sim.trace import Event
from guestclock.vmm.clocks import CLOCKS


class Teller:
    """Tells one violation. What a clock is made of, and which calls touch it, is an architecture's subclass's."""

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
        self.clock = self.clock_of(question.name)
        self.vms = {(w.site, w.vm) for w in self.windows}
        self.vcpus = {w.vcpu for w in self.windows}
        self.numbers = {event.name: number for number, event in enumerate(world.events)}

    def story(self) -> Story:
        readings = sorted(self.read(), key=when)
        until = readings[-1].units if readings else max(self.values[e.end] for e in self.world.events)
        calls = [s for s in self.calls() if s.units <= until]
        across = bool(self.spec.recipe) and any(w.phase == BEFORE for w in self.windows)
        if across and readings and readings[0].units < until:
            calls = [s for s in calls if when(s) >= (readings[0].units, -1)]
        changes = [s for s in self.changes(calls) if s.units <= until]
        steps = sorted([*calls, *changes, *readings], key=when)
        steps = self.trimmed(steps)
        return Story(
            self.spec, self.question, self.ask, self.value, steps, readings, list(self.rules(steps)), self.outcome,
            self.world, self.events, self.windows, self.clock,
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
        yield from self.others()

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
            elif self.saved(call.op, as_json(call.answer)) is not None:
                sources.append(call)
        # Where a value comes from that was written later, whichever VM it was read of.
        written_values = {v for s in found if s.kind == "call" and (v := self.written(s.data["op"])) is not None}
        found += [self.called(call) for call in sources if self.saved(call.op, as_json(call.answer)) in written_values]
        for step in reversed(found):
            who = step.site, step.vm, -1 if step.vcpu is None else step.vcpu
            if step.kind == "call" and step.data["op"]["op"] == "CreateVcpu" and (who in written or self.elsewhere()):
                continue
            if step.kind == "call" and self.writes(step.data["op"]):
                written.add(who)
            yield step

    def elsewhere(self) -> bool:
        """Whether the VM that was looked at is made in the operation: then its vCPUs' creation is no news."""
        return bool(self.spec.recipe) and not any(w.phase == BEFORE for w in self.windows)

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
        effect = {} if after is None else self.effect(before, after, vcpu)
        at = next((n for n in own if self.moved((call.site, vm), n)), own[0])
        event = self.world.events[at]
        units = self.values[event.end] if effect else self.values[event.start]
        data = {"op": op.as_json(), "answer": as_json(call.answer), "error": call.error, "effect": effect}
        return Step(units, at, "vmm", "call", call.site, vm, vcpu, data)

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
        writes = [n for n, s in enumerate(steps) if s.kind == "call" and self.writes(s.data["op"])]
        ours = [n for n in writes if steps[n].vcpu in self.vcpus]
        for position, step in enumerate(steps):
            if step.kind == "note" and (position + 1 == len(steps) or steps[position + 1].kind == "note"):
                continue
            if CLOCKS[self.clock].counts and position in writes and ours and position > ours[-1]:
                continue
            kept.append(step)
        return kept

    # ---- what an architecture says

    def clock_of(self, property_: str) -> str:
        """Which clock a property is about."""
        raise NotImplementedError

    def reading(self, window: Any, units: int) -> Step:
        """What the guest reads in a window at that time."""
        raise NotImplementedError

    def others(self) -> Iterator[Step]:
        """What is compared besides the guests' own readings."""
        return iter(())

    def matters(self, call: Call) -> bool:
        """Whether a call can have moved what the clock is made of, or read it."""
        raise NotImplementedError

    def moved(self, which: tuple[int, int], number: int) -> bool:
        """Whether a step moved what the VM's clocks are made of."""
        raise NotImplementedError

    def effect(self, before: Any, after: Any, vcpu: int | None) -> dict[str, Any]:
        """What a call made of the VM's clocks."""
        raise NotImplementedError

    def changes(self, calls: list[Step]) -> Iterator[Step]:
        """What KVM itself did that the readings come from."""
        return iter(())

    def rules(self, steps: list[Step]) -> Iterator[Rule]:
        """The kernel's rules that explain it."""
        return iter(())

    def saved(self, op: Any, answer: Any) -> tuple[str, int] | None:
        """What a call read that another one may write back later."""
        raise NotImplementedError

    def written(self, op: dict[str, Any]) -> tuple[str, int] | None:
        """What a call wrote, in the form of `saved`."""
        raise NotImplementedError

    def writes(self, op: dict[str, Any]) -> bool:
        """Whether a call sets the guest's counter."""
        raise NotImplementedError


def rule_at(profile: Any, hook: Any) -> Rule:
    """The rule that a kernel has at a hook point."""
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
