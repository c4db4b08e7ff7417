"""What a design of the freeze protocol decides: each field is one point on which two of them can differ."""

from __future__ import annotations

from dataclasses import dataclass

from guestclock.guest.freeze import CORRECTED as CORRECTED_GUEST
from guestclock.guest.freeze import Rules

ABORTS, WAITS, PASSES = "aborts", "waits", "passes"
"""What an NMI that is needed (kdump, a hard lockup, SERR) does to a guest whose NMIs are held back. ABORTS: what can
still be given up is, and the gate opens when the guest goes on, or is declared dead. WAITS: until step 11, whenever
that may be. PASSES: it is let through at once.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """rules: the guest's functions. gates: no NMI is delivered from step 1 to step 11. drains: step 1 also waits until
    none is pending or being handled. halts_fast: the NMI-safe timekeepers stand still while the guest is frozen.
    blocks_vdso: so does the vDSO (its sequence stays odd). v0_first: step 8 lets the handler's vCPU run alone, the
    others only after step 10. stop_of_all: the record's stop_cycles is the highest of all vCPUs, not the handler's own.
    retries_sched: sched_clock() reads its counter inside its latch, and once more if that has turned; the kernel's
    reads it before. one_offset: a host that makes the counter go on computes its offset once, not anew for each vCPU.
    counts_sleep: the downtime is taken from clocks that also count while a host sleeps. admits_reset: a host whose
    counter did not run through its sleep says MIGRATED, not SAME_HOST.

    times_out: nobody waits for ever for an answer. token: the target runs the guest only once the source has handed it
    over. fences: before the source takes back what it has handed over, the target is switched off for sure.
    answers_late: an exit "frozen" that comes after the cancel is answered: go on as you were. idempotent: a request
    whose epoch was served, or cancelled, freezes nothing. keeps_running: all vCPUs run until the guest has told that it
    is frozen. drops_deadlines: timers of the old counter's do not move; the guest programs its timers in step 10.
    copies_last: what is sent is the memory as it is when all have stopped, not as it was when the interrupt came.
    takes_over: what the source leaves when its power fails, or when it is taken for dead, is started on the target, by
    the one who can switch the source off for sure (with fences: who does). forced_nmi: what becomes of the protocol if
    the guest must be given an NMI: ABORTS, WAITS, PASSES.
    """

    rules: Rules = CORRECTED_GUEST
    gates: bool = True
    drains: bool = True
    halts_fast: bool = False
    blocks_vdso: bool = False
    v0_first: bool = True
    stop_of_all: bool = True
    retries_sched: bool = True
    one_offset: bool = True
    counts_sleep: bool = True
    admits_reset: bool = True
    times_out: bool = True
    token: bool = True
    fences: bool = True
    answers_late: bool = True
    idempotent: bool = True
    keeps_running: bool = True
    drops_deadlines: bool = True
    copies_last: bool = True
    takes_over: bool = True
    forced_nmi: str = ABORTS
