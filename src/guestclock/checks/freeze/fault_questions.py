"""What must hold whatever fails: the invariants of `checks.freeze.faults`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestclock.checks.asks import Ask, Question
from guestclock.checks.freeze.faults import DELAY_NS, T_ACK, T_SPIN


def _count(outcome: Any, what: str, unit: str, value: int) -> Ask:
    """A number that the whole order shows."""
    numbers = tuple(range(len(outcome.world.events)))
    return Ask(what, unit, "the guest", what, numbers, (), (), lambda _: value)


def one_owner(outcome: Any) -> Iterator[Ask]:
    """S5, I25: no two hosts let one image run, at no time; at the end exactly one does."""
    yield _count(outcome, "let run by two hosts at once", "image", outcome.split)
    yield _count(outcome, "too many or too few runs it in the end", "host", abs(outcome.executing - 1))


def goes_on(outcome: Any) -> Iterator[Ask]:
    """L2, I16: at the end all vCPUs run, and the guest is not frozen: sequence even, lock free.

    A guest whose handler hangs is not the protocol's to cure: it ends with one owner, and is not asked.
    """
    if outcome.between.hung:
        return
    stuck = 1
    for image, side in zip(outcome.images, outcome.sides, strict=True):
        if side.alive and side.runs0 and side.runs1 and not image.odd and image.lock == 0:
            stuck = 0
    yield _count(outcome, "at a standstill for ever", "guest", stuck)


def image_kept(outcome: Any) -> Iterator[Ask]:
    """S1, I15: what is reconfigured is what was frozen: the same timekeeper, its lock held, its sequence odd."""
    if outcome.acked is not None:
        yield _count(outcome, "reconfigured that was not the frozen one", "timekeeper", outcome.torn)


def timers(outcome: Any) -> Iterator[Ask]:
    """S9: once the guest goes on, no timer fires by a deadline that was computed from the old frequency."""
    if "a timer fires there" in outcome.reached:
        yield _count(outcome, "fired by a deadline of the old host's", "timer", outcome.stale_timers)


def answered(outcome: Any) -> Iterator[Ask]:
    """L1: a request is acknowledged or called off within two time-outs (it is repeated once) and eight steps.

    So many it takes at most where the guest does answer: a tick that holds the lock, the handler with an exit that is
    repeated, the host's look.
    """
    yield from _between(outcome, "unanswered", "requested", ("acknowledged", "cancelled"), 2 * T_ACK, 8)


def short_freeze(outcome: Any) -> Iterator[Ask]:
    """S8: the host knows that all have stopped, or that one will not, within a time-out and three steps of step 4."""
    if "acknowledged" in outcome.marks and "exit" not in (*outcome.faults.lost, *outcome.faults.gone):
        yield from _between(outcome, "frozen before all have stopped", "frozen", ("stopped or not",), T_SPIN, 4)


def _between(outcome: Any, sense: str, begin: str, ends: tuple[str, ...], timeout_ms: int, steps: int) -> Iterator[Ask]:
    marks = outcome.marks
    if begin not in marks:
        return
    number, since = marks[begin]
    end = next((marks[name] for name in ends if name in marks), None)
    allowed = timeout_ms * 1_000_000 + steps * DELAY_NS
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
)  # fmt: skip
