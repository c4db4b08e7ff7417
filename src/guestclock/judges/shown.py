"""What clocks show on a kernel and on the model, where a scenario is about that: after a sleep, and in a new VM.

Each as its error: the clock less true time since it was first read, true time being the host's counter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from guestclock.check import Look, Span, Story, errors, get_clock_error, host_error, story
from guestclock.sim import Trace

SLEEP, READ = "sleep", "read"
AWAKE_NS = 20_000_000
"""So long, at most, a kernel that goes to sleep and gets up is awake in it; the model is not."""


@dataclass(frozen=True, slots=True)
class Shown:
    """One clock after one step, errors in ns. why: where the two cannot be of one course of events."""

    step: int
    clock: str
    kernel: Span
    model: Span
    why: str = ""


def shown(real: Trace, model: Trace, slack_ns: int) -> list[Shown]:
    """slack_ns: what an operation took in which a clock was read or moved, and whose instant nothing gives away."""
    one, other = story(real), story(model)
    found = []
    several, unseen = one.looks[-1].vm > 0, False
    for look, twin in zip(one.looks, other.looks, strict=True):
        # What nobody looks at when the host is back, the guest's next readings tell.
        unseen = unseen or (look.do == SLEEP and not look.looked)
        if not (look.do == SLEEP or (look.do == READ and (several or unseen))):
            continue
        host = look.do == SLEEP or unseen
        told = dict(_errors(other, twin, host))
        for clock, error in _errors(one, look, host):
            if clock in told:
                slack = slack_ns + (AWAKE_NS if "monotonic" in clock else 0)
                apart = not (error + Span(-slack, slack)).meets(told[clock])
                why = f"step {look.step + 1}: the kernel's and the model's cannot be one" if apart else ""
                found.append(Shown(look.step, clock, error, told[clock], why))
    return found


def refusals(trace: Trace) -> list[str]:
    """What the kernel refused, and in which step."""
    return [f"step {look.step + 1}: {trouble}" for look in story(trace).looks for trouble in look.troubles]


def _errors(told: Story, look: Look, host: bool) -> Iterator[tuple[str, Span]]:
    if host:
        for clock in look.host:
            error = host_error(told, look, clock)
            if error is not None and clock != told.host_counter:
                yield f"host's {clock}", error
    for clock in told.clocks:
        for (vm, vcpu), points in errors(told, clock).items():
            mine = [point for point in points if point.reading.step == look.step and vm == look.vm]
            if mine:
                yield f"{clock} of vcpu{vcpu}", mine[-1].error_ns
    by_kvm = get_clock_error(told, look)
    if by_kvm is not None:
        yield "GET_CLOCK", by_kvm
