"""What must hold whatever fails: the invariants of `checks.freeze.faults`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestclock.checks.asks import Ask, Question
from guestclock.checks.freeze.fault_states import DELAY_NS, T_ACK, T_RUN, T_SPIN, T_THAW


def _count(outcome: Any, what: str, unit: str, value: int) -> Ask:
    """A number that the whole order shows."""
    numbers = tuple(range(len(outcome.world.events)))
    return Ask(what, unit, "the guest", what, numbers, (), (), lambda _: value)


def one_owner(outcome: Any) -> Iterator[Ask]:
    """S5, I25: no two hosts let one image run, at no time; at the end exactly one does, if any is left that has it."""
    yield _count(outcome, "let run by two hosts at once", "image", outcome.split)
    yield _count(outcome, "too many or too few runs it in the end", "host", abs(outcome.executing - outcome.owed))


def goes_on(outcome: Any) -> Iterator[Ask]:
    """L2, I16: in the end everybody runs and nobody is frozen. A guest with a handler that hangs is not asked."""
    if outcome.standstill is not None:
        yield _count(outcome, "at a standstill for ever", "guest", outcome.standstill)


def last_in_first_out(outcome: Any) -> Iterator[Ask]:
    """C7: L1 is frozen only while its L2s are frozen and stopped, and an L2 runs only while L1 is not frozen."""
    yield _count(outcome, "not at rest while L1 is frozen", "L2", outcome.broken_order)


def patient(outcome: Any) -> Iterator[Ask]:
    """C7: L0 calls nothing off that L1 answers, yes or no, as soon as its own time-outs let it."""
    yield _count(outcome, "called off although L1 was within its time", "preparation", outcome.called_off)


def image_kept(outcome: Any) -> Iterator[Ask]:
    """S1, I15: what is reconfigured is what was frozen: the same timekeeper, its lock held, its sequence odd."""
    if outcome.acked is not None:
        yield _count(outcome, "reconfigured that was not the frozen one", "timekeeper", outcome.torn)


def timers(outcome: Any) -> Iterator[Ask]:
    """S9: once the guest goes on, no timer fires by a deadline that was computed from the old frequency."""
    if "a timer fires there" in outcome.reached:
        yield _count(outcome, "fired by a deadline of the old host's", "timer", outcome.stale_timers)


def answered(outcome: Any) -> Iterator[Ask]:
    """L1: a request is acknowledged or called off within two time-outs (it is repeated once) and three steps."""
    yield from _between(outcome, "unanswered", "requested", ("acknowledged", "cancelled"), 2 * T_ACK, 3)


def short_freeze(outcome: Any) -> Iterator[Ask]:
    """S8: the host knows that all have stopped, or that one will not, within a time-out and three steps of step 4."""
    if "acknowledged" in outcome.marks and "exit" not in (*outcome.faults.lost, *outcome.faults.gone):
        yield from _between(outcome, "frozen before all have stopped", "frozen", ("stopped or not",), T_SPIN, 4)


def gate_bounded(outcome: Any) -> Iterator[Ask]:
    """C6, last rows: an NMI that is needed is delivered once the source has heard nothing of two COMMITs and its guest
    has gone on, or was declared dead, at the latest; nine steps are theirs and the guest's in between.
    """
    yield from _between(outcome, "held back", "an NMI is needed", ("an NMI is taken",), 2 * T_RUN + T_THAW, 9)


def nmi_after_thaw(outcome: Any) -> Iterator[Ask]:
    """S6: nor is it delivered to a guest that is frozen and was stopped: that one would read another host's counter."""
    if outcome.faults.nmi_needed:
        yield _count(outcome, "taken between stop and step 10", "NMI", outcome.nmi_amid)


def _between(outcome: Any, sense: str, begin: str, ends: tuple[str, ...], timeout_ms: int, steps: int) -> Iterator[Ask]:
    marks = outcome.marks
    if begin not in marks:
        return
    number, since = marks[begin]
    end = next((marks[name] for name in ends if name in marks), None)
    allowed = timeout_ms * 1_000_000 + steps * DELAY_NS
    if end is None and not outcome.sides[0].alive:
        return  # with the source went what it had asked for
    if end is None:
        # For ever: as much as the horizon, and no time bounds it.
        yield _count(outcome, f"{sense} for ever", "request", 1)
        return
    yield Ask(
        sense, "ns", "the guest", f"{begin} {sense}", (number, end[0]), (), (), lambda t: t(end[1]) - t(since),
        tolerance=allowed,
    )  # fmt: skip


FAULT_QUESTIONS = (
    Question(
        "one-owner", "never two hosts run one image, and in the end exactly one does",
        source="S5, I25; the ownership token", breaks="two guests write one disk; or none is left", asks=one_owner,
    ),
    Question(
        "goes-on", "in the end all vCPUs run and nobody waits for the timekeeper",
        source="L2, I16", breaks="a guest that is frozen for ever: soft lockups, then a dead VM", asks=goes_on,
    ),
    Question(
        "image-kept", "what is reconfigured is what was frozen",
        source="S1, I15", breaks="clocks made of two states", asks=image_kept,
    ),
    Question(
        "timers", "no timer goes by the old host's frequency once the guest goes on",
        source="S9; lapic_update_tsc_freq()", breaks="timers that are early or late by the ratio, or never fire",
        asks=timers,
    ),
    Question(
        "answered", "each request is acknowledged or called off in time",
        source="L1; T_ack", breaks="a migration that hangs", asks=answered,
    ),
    Question(
        "short-freeze", "the guest is not frozen for longer than a time-out before all have stopped",
        source="S8; T_spin", breaks="vCPUs that spin for the clock", asks=short_freeze,
    ),
    Question(
        "gate-bounded", "an NMI that the guest must be given is held back for a bounded time",
        source="C6: kdump, hard lockup, SERR", breaks="a crash dump that never begins, a watchdog that never bites",
        asks=gate_bounded,
    ),
    Question(
        "nmi-after-thaw", "... and is not given to a guest that was stopped and is still frozen",
        source="S6", breaks="a handler that reads one host's counter by another's factors", asks=nmi_after_thaw,
    ),
)  # fmt: skip

NESTED_QUESTIONS = (
    Question(
        "last-in-first-out", "L1 is frozen only inside the time in which its L2s are frozen and stopped",
        source="C7; the mail's fourth case", breaks="an L2 that waits for a frozen L1, or reads the new counter early",
        asks=last_in_first_out,
    ),
    Question(
        "patient", "who waits for L1 waits longer than L1 waits for its L2s",
        source="C7", breaks="migrations that are called off although everybody answers in time", asks=patient,
    ),
)  # fmt: skip
