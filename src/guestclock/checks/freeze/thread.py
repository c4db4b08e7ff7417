"""threads/2017-freeze: the protocol of Gleixner's mail as it is and corrected, and what the thread was about to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from guestclock.checks.freeze import snapshot
from guestclock.checks.freeze.cases import (
    GATE,
    GOING_ON,
    HALTED,
    PAIRS,
    SINGLE_FAULTS,
    WRITTEN,
    WRITTEN_V0_FIRST,
    clock_cases,
    fault_cases,
    nested_cases,
    restore_cases,
)
from guestclock.checks.freeze.clock_questions import CLOCK_QUESTIONS
from guestclock.checks.freeze.controls import CONTROLS
from guestclock.checks.freeze.fault_questions import FAULT_QUESTIONS, NESTED_QUESTIONS
from guestclock.checks.freeze.fault_states import T_LOAD, T_NMI
from guestclock.checks.freeze.handed_down import HANDED_QUESTIONS
from guestclock.checks.freeze.protocol import Protocol
from guestclock.checks.freeze.readings import recorder
from guestclock.checks.freeze.restores import RESTORE_QUESTIONS
from guestclock.checks.freeze.snapshot import HYPERV, Snapshot
from guestclock.checks.protocol import Case, Design, Thread
from guestclock.errors import UserError

MAIL = "Gleixner, 23 August 2017"


FREQUENCIES_KHZ = range(100_000, 10_000_001)
"""Of a case that somebody names."""


def _design(
    name: str, about: str, source: str, *cases: Callable[[], Sequence[Case]], moves: Protocol, continuous: bool = False
) -> Design:
    """moves: what a case is of that is named by its two frequencies."""

    def named(case: str) -> Case | None:
        pair = re.fullmatch(r"([0-9]+)-([0-9]+)", case)
        if pair is None:
            return None
        source_khz, target_khz = int(pair[1]), int(pair[2])
        for khz in (source_khz, target_khz):
            if khz not in FREQUENCIES_KHZ:
                raise UserError(
                    f"--case {case}: {khz} kHz: expected {FREQUENCIES_KHZ.start} to {FREQUENCIES_KHZ.stop - 1} kHz"
                )
        return clock_cases(moves, pairs=[(source_khz, target_khz)], continuous=continuous)[0]

    return Design(name, about, source, lambda: [case for made in cases for case in made()], named=named)


FEW = PAIRS[::5]

THREAD = Thread(
    "threads/2017-freeze",
    "A guest moves to a host whose TSC has another frequency, and its clocks must go on. Freeze, reconfigure, unfreeze "
    "its timekeeper, or hand it a snapshot of a clock?",
    (
        _design(
            "as-written", "the mail's eleven steps, word for word", MAIL,
            lambda: clock_cases(WRITTEN, pairs=FEW), lambda: fault_cases(WRITTEN, tuple(SINGLE_FAULTS)),
            moves=WRITTEN,
        ),
        _design(
            "as-written-v0-first", "the same, but the handler's vCPU runs alone at first (failures: as-written)", MAIL,
            lambda: clock_cases(WRITTEN_V0_FIRST, pairs=FEW), moves=WRITTEN_V0_FIRST,
        ),
        _design(
            "corrected-gate", "NMIs are held back and drained, the old epoch is closed at the stop, V0 runs first",
            "analysis of the mail", lambda: clock_cases(GATE), lambda: fault_cases(GATE), restore_cases, nested_cases,
            moves=GATE,
        ),
        _design(
            "corrected-going-on", "the same where the host makes the counter go on (failures: corrected-gate)",
            "analysis of the mail", lambda: clock_cases(GOING_ON, continuous=True),
            moves=GOING_ON, continuous=True,
        ),
        _design(
            "corrected-halted", "no gate: fast timekeepers are halted, the vDSO is blocked (failures: corrected-gate)",
            "analysis of the mail", lambda: clock_cases(HALTED),
            lambda: fault_cases(HALTED, ("nothing-fails", "nmi-never-ends")), moves=HALTED,
        ),
        Design(
            "clock-snapshot", "L2's page is made from a snapshot of L1's clock, a linear transformation of the TSC",
            "Plotnikov and Bonzini, August 2017", lambda: snapshot.cases(Snapshot()),
        ),
        Design(
            "old-rate-emulated", "the same, and the target answers RDTSC at the old frequency until L1 acknowledges",
            "Hyper-V's re-enlightenment, KVM's kvm_hyperv_tsc_notifier()", lambda: snapshot.cases(HYPERV),
        ),
        *(Design(c.name, c.about, "a negative control", c.cases, broken=True) for c in CONTROLS),
    ),
    (*CLOCK_QUESTIONS, *FAULT_QUESTIONS, *NESTED_QUESTIONS, *HANDED_QUESTIONS, *RESTORE_QUESTIONS),
    "clocks: 1 ms between the VMM's steps, 10 us between the handler's, 2 s away, any TSC on the target; failures: 1 s "
    f"between steps, time-outs of {T_NMI} to {T_LOAD} ms",
    own="two frequencies in kHz, as 2893437-3100004",
    recorder=recorder,
)  # fmt: skip
