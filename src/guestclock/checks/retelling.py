"""A violation's schedule carried out again, with integers, and told."""

from __future__ import annotations

from guestclock.checks.architectures import arch_of, architecture
from guestclock.checks.asks import QUESTIONS
from guestclock.checks.outcome import Outcome
from guestclock.checks.spec import Spec
from guestclock.checks.story import Story
from guestclock.checks.telling import Teller
from guestclock.checks.watch import Watch
from guestclock.checks.world import build
from guestclock.errors import UserError
from guestclock.explore.replay import Diverged, IntegerWorld, Schedule
from guestclock.sim.trace import Event
from guestclock.vmm.clocks import ARM64


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
    return teller(arch.name)(spec, question, ask, value, outcome, world, watch, events).story()


def teller(arch: str) -> type[Teller]:
    """Who tells an architecture's violations. Only the one that is asked for is loaded."""
    if arch == ARM64:
        from guestclock.checks.arm64.telling import Arm64Teller

        return Arm64Teller
    from guestclock.checks.x86.telling import X86Teller

    return X86Teller
