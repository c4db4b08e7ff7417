"""Where the model and a real kernel differ, event by event."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from guestclock.compare.aligned import EARLY, LATE, MIDDLE, Aligned, Circumstances, NotAligned
from guestclock.compare.verdict import Difference, Verdict
from guestclock.kvm.model import lookup
from guestclock.sim import Trace

ATTEMPTS = 5
"""How often exits are added: those of one operation can hide how many the next one needs."""

LATENCIES_NS = (0, 2_000_000, 8_000_000, 30_000_000, 120_000_000, 500_000_000)
"""On a busy host a delayed work runs late: a page is asked for after an operation instead of before it."""


def judge(real: Trace, program: dict[str, Any], profile: str, circumstances: Circumstances | None = None) -> Verdict:
    """Runs the model at the real run's instants and compares.

    Where they disagree, clocks may have been read at an end of a sandwich, or delayed works have run late: the outcome
    was open if the model agrees then. Otherwise the verdict is the first one's.
    """
    told = circumstances or Circumstances()
    arm64 = lookup(profile).arch == "arm64"
    first: Verdict | None = None
    for latency_ns in LATENCIES_NS[:1] if arm64 else LATENCIES_NS:
        for where in (MIDDLE, EARLY, LATE):
            changed = replace(told, where=where, work_latency_ns=latency_ns)
            verdict = (_on_arm64 if arm64 else _on_x86)(real, program, profile, changed)
            if not verdict.differences:
                verdict.open_outcome = first is not None
                return verdict
            first = first or verdict
    assert first is not None
    return first


def aligned(real: Trace, program: dict[str, Any], profile: str, told: Circumstances) -> Aligned:
    """The program on the model, at the real run's instants, once it is run."""
    if lookup(profile).arch == "arm64":
        from guestclock.compare.arm64.aligned import Arm64Aligned

        return Arm64Aligned(real, program, profile, told)
    from guestclock.compare.x86.aligned import X86Aligned

    return X86Aligned(real, program, profile, told)


def _on_x86(real: Trace, program: dict[str, Any], profile: str, told: Circumstances) -> Verdict:
    """What comparing gives under these circumstances.

    Where a vCPU must always catch up, every exit gives it a new page, and interrupts of the host's make exits of their
    own: the trace tells how many, and the model is run again with as many.
    """
    from guestclock.compare.x86.aligned import run_aligned
    from guestclock.compare.x86.comparison import X86Comparison

    exits: dict[int, int] = {}
    for attempt in range(ATTEMPTS):
        try:
            model = run_aligned(real, program, profile, replace(told, exits=exits))
        except NotAligned as parted:
            return _parted(parted)
        comparison = X86Comparison(real, model, told.true_hz)
        verdict = comparison.verdict()
        verdict.exits = sum(exits.values())
        verdict.guest_has_master_clock = model.meta["guest_has_master_clock"]
        more = comparison.more_exits() if attempt < ATTEMPTS - 1 else {}
        if not more:
            break
        for index, count in more.items():
            exits[index] = exits.get(index, 0) + count
    return verdict


def _on_arm64(real: Trace, program: dict[str, Any], profile: str, told: Circumstances) -> Verdict:
    from guestclock.compare.arm64.aligned import run_aligned
    from guestclock.compare.arm64.comparison import Arm64Comparison

    try:
        model = run_aligned(real, program, profile, told)
    except NotAligned as parted:
        return _parted(parted)
    return Arm64Comparison(real, model, told.true_hz).verdict()


def _parted(parted: NotAligned) -> Verdict:
    return Verdict([Difference(parted.index, parted.real, "what the recipe does next", parted.real, parted.model)])
