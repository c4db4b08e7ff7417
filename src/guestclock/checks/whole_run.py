"""The VMM's calls and the guest's clocks over a whole integer run, for whoever shows all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from guestclock.arith import s64, u64
from guestclock.checks.outcome import Call
from guestclock.checks.windows import BOOT
from guestclock.vmm.clocks import CLOCKS

if TYPE_CHECKING:
    from guestclock.checks.story import Story


@dataclass(frozen=True, slots=True)
class TimedCall:
    """One call of the VMM's in a run: when it began and ended, in units; first, last: numbers of its own steps."""

    call: Call
    started: int
    ended: int
    first: int
    last: int


def timed_calls(story: Story) -> list[TimedCall]:
    """All calls of the run, also those that the story leaves out."""
    world, found = story.world, []
    numbers = {event.name: number for number, event in enumerate(world.events)}
    values = world.schedule.values
    for call in story.outcome.calls:
        first, last = steps_of(numbers, call)
        found.append(TimedCall(call, values[world.events[first].start], values[world.events[last].end], first, last))
    return found


def steps_of(numbers: Mapping[str, int], call: Call) -> tuple[int, int]:
    """The numbers of the run's steps between which a call was under way."""
    before = numbers.get(call.before.partition(":")[0], -1)
    last = numbers.get(call.after.partition(":")[0], before + 1)
    return min(before + 1, last), last


def clock_error_ns(story: Story, beyond: int = 0) -> Iterator[tuple[int, str, int, int]]:
    """(vCPU, clock, units, ns): how far each guest clock is ahead of true time since its first reading after the boot.

    At both ends of every window, in order of time. The guest is one, wherever its VM is. beyond: for how long those
    windows that stay open are followed after the run's last step.
    """
    values, outcome = story.world.schedule.values, story.outcome
    end = max(values[event.end] for event in story.world.events) + beyond
    vms = set(outcome.vms)
    first: dict[tuple[int, str], tuple[int, int]] = {}
    windows = [w for w in outcome.tracker.windows() if w.phase != BOOT and (not vms or (w.site, w.vm) in vms)]
    for window in sorted(windows, key=lambda w: (values[w.opened], w.site, w.vm, w.index)):
        for units in (values[window.opened], end if window.closed is None else values[window.closed]):
            passed_ps = story.ps(units)
            for clock in outcome.architecture.clocks:
                if not window.has(clock):
                    continue
                value = u64(window.read(clock, outcome.world, units))
                began, at_ps = first.setdefault((window.vcpu, clock), (value, passed_ps))
                moved = s64(value - began)
                ns = moved * 1_000_000 // window.khz if CLOCKS[clock].counts else moved
                yield window.vcpu, clock, units, ns - (passed_ps - at_ps) // 1000
