"""What a restore leaves: the same once as twice, and the guest's own wishes for its TSCs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any

from guestclock.abi.msr import MSR_IA32_TSC, MSR_IA32_TSC_ADJUST
from guestclock.checks.asks import Ask, both_ways, events_of, name_of, question, section
from guestclock.checks.outcome import Outcome
from guestclock.checks.questions.policy import across
from guestclock.checks.twice import RESTORED
from guestclock.checks.windows import apart
from guestclock.kvm import api
from guestclock.vmm.clocks import ARM64, X86_64

NSEC_PER_SEC = 1_000_000_000


@question(
    "idempotent-restore",
    "a snapshot that is restored twice leaves the same counter offsets and the same kvmclock as restored once",
    source="2021-07, KVM: Add idempotent controls for migrating system counter state (Upton)",
    breaks="a VMM that tries again, or is preempted between reading and writing, moves the guest's clocks by that time",
    arch=(X86_64, ARM64),
    default=False,
)
def idempotent_restore(outcome: Outcome) -> Iterator[Ask]:
    """Of a world that restores twice (checks.twice); a kernel section is no instant, so two of them are allowed."""
    spec = outcome.spec
    notes = [call for call in outcome.calls if isinstance(call.op, api.Note) and call.op.name_ == RESTORED]
    if len(notes) < 2:
        return
    once, twice = (section(outcome, call) for call in notes[:2])
    where = notes[1].site, outcome.vms[-1][1]
    for left in outcome.architecture.left(outcome, where, once, twice):
        slack_ns = 2 * spec.section_ns
        slack = slack_ns if left.unit == "ns" else spec.units(slack_ns)
        yield from _moved(left.who, left.unit, f"{where} {left.who}", (once.number, twice.number), left.moved, slack)


def _moved(who: str, unit: str, id_: str, events: tuple[int, ...], value: Any, tolerance: int) -> Iterator[Ask]:
    for sense, moved in both_ways(value, "ahead", "behind"):
        yield Ask(
            sense=f"moved {sense} by the second restore",
            unit=unit,
            who=who,
            id=f"{sense} {id_}",
            events=events,
            instants=(),
            ordered=(),
            value=moved,
            tolerance=tolerance,
        )


@question(
    "guest-apart-kept",
    "a guest that has set its TSCs apart finds them as far apart after the operation",
    source="2010-08-20, KVM TSC writes: a guest may want an unsynchronised TSC (Amsden, Avi Kivity)",
    breaks="KVM's guess that nearly equal means equal, or a VMM that reads one for all, takes away what it asked for",
    default=False,
)
def guest_apart_kept(outcome: Outcome) -> Iterator[Ask]:
    if not wants_apart(outcome):
        return
    world = outcome.world
    pairs: list[tuple[Any, Any]] = list(across(outcome))
    for (x, later_x), (y, later_y) in permutations(pairs, 2):
        ends = x.closed or "", later_x.opened

        def moved(t: Any, w: Any = (x, later_x, y, later_y), ends: Any = ends) -> Any:
            left, entered = t(ends[0]), t(ends[1])
            before = w[0].tsc(world, left) - w[2].tsc(world, left)
            return apart(w[1].tsc(world, entered) - w[3].tsc(world, entered), before)

        yield Ask(
            sense="of the distance changed",
            unit="cycles",
            who=f"{name_of(x)} against {name_of(y)}",
            id=f"apart {x.id} {later_x.id} {y.id} {later_y.id}",
            events=tuple(dict.fromkeys(events_of(x, y, later_x, later_y))),
            instants=(),
            ordered=(),
            value=moved,
        )


def wants_apart(outcome: Outcome) -> bool:
    """Whether the guest itself wrote a TSC or a TSC_ADJUST."""
    return any(
        isinstance(action, api.Wrmsr) and action.index in (MSR_IA32_TSC, MSR_IA32_TSC_ADJUST)
        for call in outcome.calls
        if isinstance(call.op, api.Run)
        for action in call.op.actions
    )
