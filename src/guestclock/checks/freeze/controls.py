"""Negative controls: each is a corrected design with one line broken, in the case that shows it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from guestclock.checks.freeze import snapshot
from guestclock.checks.freeze.cases import (
    ARM64,
    FAULTS,
    GATE,
    GOING_ON,
    HALTED,
    SLEEPS,
    arm64_case,
    clock_cases,
    family_case,
    fault_cases,
    handed_down_case,
    l1_with_l2,
    misplaced_case,
    moved,
    restore_case,
    unaware_case,
)
from guestclock.checks.freeze.handed_down import Handing
from guestclock.checks.freeze.nested import T_L2, Family
from guestclock.checks.freeze.nested_clocks import Nesting
from guestclock.checks.freeze.protocol import PASSES, WAITS, Protocol
from guestclock.checks.freeze.restores import NEXT, Restores
from guestclock.checks.freeze.snapshot import HYPERV, Snapshot
from guestclock.checks.freeze.unaware import LEFT, Placing, Unaware
from guestclock.checks.protocol import Case
from guestclock.guest.freeze import AT_STOP, NOWHERE
from guestclock.guest.freeze import CORRECTED as CORRECTED_GUEST


@dataclass(frozen=True, slots=True)
class Control:
    name: str
    about: str
    protocol: Protocol | Nesting | Family | Restores | Unaware | Placing | Handing | Snapshot
    case: str = "2400000-2900000"
    continuous: bool = False

    def cases(self) -> list[Case]:
        if isinstance(self.protocol, Nesting):
            return [l1_with_l2(self.case, self.protocol, continuous=self.continuous)]
        if isinstance(self.protocol, Family):
            return [family_case(self.case, self.protocol)]
        if isinstance(self.protocol, Unaware):
            return [unaware_case(self.case, self.protocol)]
        if isinstance(self.protocol, Snapshot):
            return [c for c in snapshot.cases(self.protocol) if c.name == self.case]
        if isinstance(self.protocol, Handing):
            return [handed_down_case(self.protocol)]
        if isinstance(self.protocol, Placing):
            return [misplaced_case(self.protocol)]
        if isinstance(self.protocol, Restores):
            return [restore_case(self.case, self.protocol)]
        if self.case in ARM64:
            return [arm64_case(self.case, self.protocol, tells_rate=False)]
        if self.case in FAULTS:
            return fault_cases(self.protocol, [self.case])
        if self.case in SLEEPS:
            about, move = SLEEPS[self.case]
            return [moved(self.case, about, self.protocol, move)]
        return [c for c in clock_cases(self.protocol, continuous=self.continuous) if c.name == self.case]


def _rules(**changes: bool | str) -> Protocol:
    return replace(GATE, rules=replace(CORRECTED_GUEST, **changes))  # type: ignore[arg-type]


CONTROLS = (
    Control("no-closing", "the old epoch ends at freeze()", _rules(closes=False)),
    Control("own-stop", "it ends where V0 left, not the last vCPU", replace(GATE, stop_of_all=False)),
    Control("no-drain", "a pending NMI is not waited for", replace(GATE, drains=False), "nmi-then-vdso"),
    Control("ungated", "NMIs come as they like", replace(GATE, gates=False, drains=False), "nmi-then-vdso"),
    Control("all-at-once", "step 8 lets all vCPUs run", replace(GATE, v0_first=False), "vdso-then-syscall"),
    Control(
        "factors-alone", "the factors change, cycle_last stays",
        _rules(rebase=NOWHERE, closes=False, adds_wait=False),
    ),
    Control("stale-downtime", "the downtime is no pair with the counter", _rules(adds_wait=False)),
    Control(
        "halted-vdso-open", "fast timekeepers are halted, the vDSO goes on until the stop",
        replace(HALTED, blocks_vdso=False), "vdso-then-nmi",
    ),
    Control("cntfrq-untold", "an arm64 guest goes on by the CNTFRQ that it knows", GATE, "arm64-62500-25000"),
    Control("sched-clock-left", "sched_clock is not told of the move", _rules(sched_clock=False), "sched-clock"),
    Control(
        "sched-clock-left-going-on", "the same where the counter goes on", _rules(sched_clock=False, rebase=AT_STOP),
        "sched-clock", continuous=True,
    ),
    Control(
        "sched-clock-outside", "sched_clock reads its counter before its factors, as the kernel's does",
        replace(GATE, retries_sched=False), "sched-clock",
    ),
    Control(
        "offsets-apart", "each vCPU's offset is computed when its turn comes", replace(GOING_ON, one_offset=False),
        continuous=True,
    ),
    Control(
        "no-fence", "the source takes back what it handed over while the target lives", replace(GATE, fences=False),
        "commit-lost",
    ),
    Control(
        "suspected-unfenced", "a source that is taken for dead is not switched off", replace(GATE, fences=False),
        "source-suspected",
    ),
    Control(
        "image-left", "the source dies, and nobody starts what it left", replace(GATE, takes_over=False),
        "source-dies",
    ),
    Control(
        "gate-for-ever", "NMIs are held back until step 11, whatever becomes of it",
        replace(GATE, forced_nmi=WAITS), "nmi-needed-v0-hangs",
    ),
    Control(
        "nmi-passes", "the gate lets an NMI through that is needed", replace(GATE, forced_nmi=PASSES), "nmi-needed"
    ),
    Control(
        "generation-plus-one", "a restore takes the image's generation and one more", Restores(numbers=NEXT),
        "restored-twice",
    ),
    Control(
        "generation-late", "the generation is written when the guest runs", Restores(told_first=False),
        "restored-twice",
    ),
    Control(
        "copied-early", "what is sent was copied before the guest froze", replace(GATE, copies_last=False),
        "interrupt-lost",
    ),
    Control("no-token", "the target runs what it has loaded", replace(GATE, token=False), "loaded-lost"),
    Control(
        "late-exit-ignored", "an exit after the cancel has no answer", replace(GATE, answers_late=False),
        "image-lost",
    ),
    Control(
        "freezes-twice", "a second interrupt freezes again", replace(GATE, idempotent=False),
        "interrupt-twice-loaded-lost",
    ),
    Control("deadlines-move", "timers move with the image", replace(GATE, drops_deadlines=False), "interrupt-lost"),
    Control("no-time-outs", "everybody waits for ever", replace(GATE, times_out=False), "target-dies"),
    Control(
        "stops-first", "V1 is stopped before the guest is frozen, and nothing times out",
        replace(GATE, keeps_running=False, times_out=False), "nothing-fails",
    ),
    Control(
        "downtime-by-monotonic", "hosts take the downtime from a clock that stops while they sleep",
        replace(GATE, counts_sleep=False), "moved-asleep",
    ),
    Control(
        "reset-unadmitted", "a host whose TSC was reset says SAME_HOST", replace(GATE, admits_reset=False),
        "aborted-reset-run",
    ),
    Control("outer-first", "L1 is frozen while L2 runs", Family(l2s=1, inner_first=False), "one-l2"),
    Control(
        "outer-first-clocks", "the same, with times", Nesting(inner_first=False), "l1-with-l2", continuous=True
    ),
    Control("l0-downtime", "L2 is told L1's downtime", Nesting(by_l1=False), "l1-with-l2"),
    Control(
        "two-looks", "L1 reads L2's counter and its own BOOTTIME one after the other", Nesting(one_look=False),
        "l1-with-l2",
    ),
    Control(
        "frozen-forgotten", "one L2 declines, the others stay frozen", Family(l2s=3, declines=(1,), lets_go=False),
        "one-of-three-declines",
    ),
    Control("l2-unscaled", "L1 does nothing for an L2 that takes no part", Unaware(how=LEFT), "l2-unaware"),
    Control(
        "l2-scaled-late", "L1 scales its L2's counter when that one runs", Unaware(placed_first=False), "l2-unaware"
    ),
    Control("l2-placed-by-32-bits", "a scaled L1 places its L2's counter by its own, ratios of 32 bits", Placing(32)),
    Control(
        "l0-forgets-its-ratio", "L2 is entered with L1's ratio alone, which is none", Handing(composes=False),
        "l2-handed-down-asleep",
    ),
    Control(
        "emulation-ends-first", "L2 runs while its L1 ends the emulation", replace(HYPERV, stops_l2=False),
        "2400000-2900000-going-on",
    ),
    Control("impatient", "L0 waits for L1 as long as L1 for its L2s", Family(t_l1_ms=T_L2), "three-l2s"),
)  # fmt: skip
