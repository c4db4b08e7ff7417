"""A violation told: of the integer run of its schedule only what the asked-for value is made of.

Left out is the guest's boot, whatever happened elsewhere or later, and calls that move nothing the clock in question is
made of. Numbers are the integer run's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from guestclock.checks.asks import Ask, Question
from guestclock.checks.outcome import Outcome
from guestclock.checks.spec import Spec
from guestclock.explore.replay import IntegerWorld
from guestclock.sim.trace import Event


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

    readings: the steps of kind "read" that contradict, in order of time. outcome, events: the run itself. clock: the
    one it is about.
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
    windows: list[Any]
    clock: str

    def ps(self, units: int) -> int:
        return self.world.ps_of(units)


def when(step: Step) -> tuple[int, int]:
    """To sort steps by."""
    return step.units, step.number
