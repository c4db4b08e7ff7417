"""What fails while a guest is frozen and moved, besides messages: power, V0, trust in a host; and a need for an NMI.

Who has to cope with it is `checks.freeze.faults`'.
"""

from __future__ import annotations

from typing import Any

from guestclock.checks.freeze.fault_states import Outcome
from guestclock.checks.freeze.protocol import PASSES
from guestclock.sim import cp


def actors(outcome: Outcome) -> dict[str, Any]:
    """Of all that this run shall meet."""
    faults = outcome.faults
    found: dict[str, Any] = {}
    if faults.target_dies:
        found["power"] = target_dies(outcome)
    if faults.hangs:
        found["bug"] = hangs(outcome)
    if faults.source_dies:
        found["power here"] = source_dies(outcome)
    if faults.source_dies or faults.suspected:
        found["management"] = management(outcome)
    if faults.nmi_needed:
        found["who needs an NMI"] = needs_nmi(outcome)
    return found


async def target_dies(outcome: Outcome) -> None:
    b, there = outcome.between, outcome.sides[1]
    await cp("the target's power fails", until=lambda: b.request > 0 and b.running == 0)
    there.alive = there.runs0 = there.runs1 = False
    outcome.reached.add("the target died")


async def hangs(outcome: Outcome) -> None:
    await cp("V0 hangs")
    outcome.between.hung = True
    outcome.reached.add("V0 hung")


async def source_dies(outcome: Outcome) -> None:
    b, here = outcome.between, outcome.sides[0]
    await cp("the source's power fails", until=lambda: b.request > 0 and not b.over)
    here.alive = here.runs0 = here.runs1 = False
    outcome.reached.add("the source died")


async def management(outcome: Outcome) -> None:
    """Takes the source for dead, and starts on the target what is there: after it has switched the source off.

    Nothing is switched off where nothing could be started.
    """
    b, protocol, faults = outcome.between, outcome.protocol, outcome.faults
    here, there = outcome.sides

    def takes_it_for_dead() -> bool:
        return not here.alive or (faults.suspected and b.request > 0)

    await cp("takes the source for dead", until=takes_it_for_dead)
    if not protocol.takes_over or b.commit or not there.alive or not b.image:
        outcome.reached.add("nothing to take over")
        return
    if protocol.fences:
        here.alive = here.runs0 = here.runs1 = False
    await cp("lets the target run it")
    if there.alive:
        b.generation += 1
        b.promoted = True
        outcome.reached.add("taken over")


async def needs_nmi(outcome: Outcome) -> None:
    """A crash dump, or a watchdog's: whichever host lets the guest run delivers it, when its gate is open.

    Where V0 hangs, that is what it is needed for.
    """
    b, sides = outcome.between, outcome.sides
    await cp("an NMI is needed", until=lambda: b.request > 0 and (b.hung or not outcome.faults.hangs))
    b.nmi_needed = True
    outcome.mark("an NMI is needed")
    passes = outcome.protocol.forced_nmi == PASSES

    def by() -> int | None:
        for which, side in enumerate(sides):
            if side.alive and side.runs0 and (passes or not side.gated):
                return which
        return None

    await cp("takes the NMI", until=lambda: by() is not None)
    which = by()
    assert which is not None
    outcome.mark("an NMI is taken")
    stopped = which == 1 or not sides[0].runs1
    outcome.nmi_amid += int(outcome.images[which].odd and stopped and not outcome.dead)
