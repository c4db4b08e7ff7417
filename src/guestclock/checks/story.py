"""A violation told: the integer run of its schedule, and of it only what the asked-for value is made of.

Left out is the guest's boot, whatever happened elsewhere or later, and calls that move nothing the clock in question is
made of. Numbers are the integer run's own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from guestclock.checks.architecture import arch_of, architecture
from guestclock.checks.asks import QUESTIONS, Ask, Question
from guestclock.checks.spec import Spec
from guestclock.checks.watch import Watch
from guestclock.checks.world import Outcome, build
from guestclock.errors import UserError
from guestclock.explore.replay import Diverged, IntegerWorld, Schedule
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


def replay(spec: Spec, property_: str, ask_id: str, schedule: Schedule, name: str = "replay") -> Story:
    """Carries the schedule out with integers and tells what it shows.

    Raises UserError where the run does not go that way, as with a recipe or a kernel that has been changed since.
    """
    question = QUESTIONS[property_]
    arch = architecture(arch_of(spec.kernel))
    events: list[Event] = []
    try:
        world = IntegerWorld(build(spec, emit=events.append), spec.bounds, schedule)
        watch = Watch(world, arch.state)
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
    found: Story = arch.teller(spec, question, ask, value, outcome, world, watch, events).story()
    return found


def when(step: Step) -> tuple[int, int]:
    """To sort steps by."""
    return step.units, step.number
