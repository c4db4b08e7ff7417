"""A timer that the guest has armed by its TSC: it fires when that TSC is there, also where it was restored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestclock.abi.msr import MSR_IA32_TSC_DEADLINE
from guestclock.checks.asks import Ask, Instants, events_of, name_of, question
from guestclock.checks.outcome import Call, Outcome
from guestclock.checks.questions.policy import across
from guestclock.checks.windows import apart
from guestclock.checks.x86.windows import Window
from guestclock.kvm import api
from guestclock.kvm.model.x86.state import VcpuTime


@question(
    "deadline-kept",
    "after the operation a deadline timer fires when the guest's own TSC passes the deadline: not early, late or never",
    source="Firecracker #4099, fixed by #4666: TSC_DEADLINE restored before the TSC",
    breaks="a process that sleeps is not woken: as late as the restored TSC is ahead of the one the timer was armed by",
    default=False,
)
def deadline_kept(outcome: Outcome) -> Iterator[Ask]:
    for before, after in across(outcome):
        wish = _armed_by_the_guest(outcome, before)
        if wish is None:
            continue
        timer = _timer(outcome, after)
        call = _last_arming(outcome, after)
        events = events_of(before, after) if call is None else (*events_of(before, after), _number(outcome, call))
        if timer.deadline_armed:
            yield from _early_and_late(outcome, after, wish, timer.deadline_fires_ps, events)
        else:
            yield _lost(before, after, _timer(outcome, before), events)


def _early_and_late(
    outcome: Outcome, after: Window, deadline: Any, fires_ps: Any, events: tuple[int, ...]
) -> Iterator[Ask]:
    """By the TSC line on which the vCPU comes back. A timer that fires outside the guest is seen at its entry."""
    world = outcome.world

    def fired() -> Any:
        return after.host.scale(after.host.machine.counter.at(fires_ps), after.ratio) + after.offset

    def early(t: Instants) -> Any:
        tsc = fired()
        return _least(apart(deadline, tsc), apart(deadline, after.tsc(world, t(after.opened))))

    def late(t: Instants) -> Any:
        tsc = fired()
        return _least(apart(tsc, deadline), apart(tsc, after.tsc(world, t(after.opened))))

    for sense, value in (("early", early), ("late", late)):
        yield Ask(
            sense=sense,
            unit="cycles",
            who=name_of(after),
            id=f"{sense} {after.id}",
            events=events,
            instants=(),
            ordered=(),
            value=value,
            tolerance=tolerated(outcome, after),
        )


def tolerated(outcome: Outcome, window: Window) -> int:
    """Cycles: KVM reads the clock by which its timer counts, then the TSC, and it counts in whole ns."""
    return (outcome.spec.section_ns + 1) * window.khz // 1_000_000 + 1


def _lost(before: Window, after: Window, timer: VcpuTime, events: tuple[int, ...]) -> Ask:
    """Nothing is armed: one timer lost, if it had not reached the guest before that left."""

    def lost(t: Instants) -> int:
        return 1 if timer.deadline_armed and timer.deadline_fires_ps > timer.left_guest_ps else 0

    return Ask(
        sense="timers lost",
        unit="timers",
        who=name_of(after),
        id=f"lost {after.id}",
        events=events,
        instants=(),
        ordered=(),
        value=lost,
    )


def _least(one: Any, other: Any) -> Any:
    return one if one <= other else other


def _timer(outcome: Outcome, window: Window) -> VcpuTime:
    """The vCPU as the operation has left it."""
    vcpu: VcpuTime = outcome.kvms[window.site].host.vms[window.vm].vcpus[window.vcpu]
    return vcpu


def _armed_by_the_guest(outcome: Outcome, window: Window) -> Any:
    """The deadline that this vCPU's guest wrote last, cycles; None if it wrote none, or disarmed it."""
    written = [
        action.data
        for call in outcome.calls
        if isinstance(call.op, api.Run) and (call.site, call.op.vm, call.op.vcpu) == window.who
        for action in call.op.actions
        if isinstance(action, api.Wrmsr) and action.index == MSR_IA32_TSC_DEADLINE
    ]
    last = written[-1] if written else 0
    return None if type(last) is int and last == 0 else last


def _last_arming(outcome: Outcome, window: Window) -> Call | None:
    """The VMM's last write of this vCPU's deadline."""
    arming = [
        call
        for call in outcome.calls
        if isinstance(call.op, api.SetMsr)
        and (call.site, call.op.vm, call.op.vcpu) == window.who
        and call.op.index == MSR_IA32_TSC_DEADLINE
        and not call.error
    ]
    return arming[-1] if arming else None


def _number(outcome: Outcome, call: Call) -> int:
    """Of the call's last step: all that it did lies before it."""
    name = call.after.partition(":")[0]
    return next(n for n, event in enumerate(outcome.world.events) if event.name == name)
