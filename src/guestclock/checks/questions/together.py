"""At one instant all vCPUs' TSCs read the same."""

from __future__ import annotations

from collections.abc import Iterator

from guestclock.checks.asks import Ask, Instant, events_of, guest_windows, name_of, question
from guestclock.checks.windows import apart
from guestclock.checks.world import Outcome


@question(
    "tsc-agrees",
    "at one instant all vCPUs' TSCs read the same",
    source="Linux takes one TSC for all CPUs once it is the clocksource (arch/x86/kernel/tsc_sync.c)",
    breaks="a thread that moves to another vCPU sees time step; the guest's clocksource watchdog drops the TSC",
)
def tsc_agrees(outcome: Outcome) -> Iterator[Ask]:
    world = outcome.world
    windows = guest_windows(outcome)
    for x in windows:
        for y in windows:
            if x.vcpu != y.vcpu and (x.site, x.vm, x.phase) == (y.site, y.vm, y.phase):
                inside = Instant("a", (x.opened, y.opened), tuple(w.closed for w in (x, y) if w.closed is not None))
                yield Ask(
                    sense="apart",
                    unit="cycles",
                    who=f"{name_of(x)} ahead of {name_of(y)}",
                    id=f"apart {x.id} {y.id}",
                    events=events_of(x, y),
                    instants=(inside,),
                    ordered=(),
                    value=lambda t, x=x, y=y: apart(x.tsc(world, t("a")), y.tsc(world, t("a"))),
                )
