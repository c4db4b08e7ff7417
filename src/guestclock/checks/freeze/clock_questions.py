"""What the readers of a moved guest must see: the invariants of `checks.freeze.clocks`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestclock.arith import s64
from guestclock.checks.asks import Ask, Question, scaled
from guestclock.checks.freeze.clock_states import ONE, Outcome, Reading
from guestclock.guest.freeze import MIGRATED, RUN, STOP
from guestclock.guest.ntp_client import synchronise
from guestclock.linux import Ntp
from guestclock.linux.ntp import NTP_PHASE_LIMIT_US, STA_UNSYNC
from guestclock.linux.sched_clock import cyc2ns_scale

NS = "ns"


def _two(outcome: Outcome) -> tuple[Reading, Reading] | None:
    return (outcome.readings[0], outcome.readings[1]) if len(outcome.readings) == 2 else None


def _ask(sense: str, unit: str, id_: str, value: Any, *readings: Reading, tolerance: int = 0) -> Ask:
    """What these readings show, a number or a form that the run has already made."""
    numbers = tuple(dict.fromkeys(number for r in readings for number in (r.number, r.returned)))
    return Ask(sense, unit, _who(*readings), id_, numbers, (), (), lambda _: value, tolerance=tolerance)


def _who(*readings: Reading) -> str:
    return ", then ".join(f"{'V0' if r.kind == 'nmi' else 'V1'} by {r.kind}" for r in readings)


def never_back(outcome: Any) -> Iterator[Ask]:
    """S3 and I1, I2: MONOTONIC of the second reading is not below that of the first, whoever took them."""
    two = _two(outcome)
    if two is not None:
        first, second = two
        yield _ask("back", NS, "back", first.ns - second.ns, first, second)


def one_epoch(outcome: Any) -> Iterator[Ask]:
    """S2, the one rule: each reading is of a counter and factors of one epoch, and of the one in which it is given."""
    for r in outcome.readings:
        mixed = (outcome.move.status == MIGRATED and r.site != r.epoch and not r.halted) or r.late
        yield _ask("of one host's counter by another's factors", "reading", f"mixed {r.index}", int(mixed), r)


def getters_blocked(outcome: Any) -> Iterator[Ask]:
    """S2 to the letter: no getter returns from step 4 to step 10, but for what a halted fast timekeeper says."""
    for r in outcome.readings:
        yield _ask("handed out while frozen", "reading", f"frozen {r.index}", int(r.frozen and not r.halted), r)


def none_while_moved(outcome: Any) -> Iterator[Ask]:
    """I15, S6: from the stop to step 10 nobody is given a time, but by a fast timekeeper that is halted."""
    for r in outcome.readings:
        bad = int(r.moved and not r.halted)
        yield _ask("handed out between stop and step 10", "reading", f"moved {r.index}", bad, r)


def counts_what_ran(outcome: Any) -> Iterator[Ask]:
    """S4 with STOP: MONOTONIC gains what the counters counted while the guest ran, each epoch by its own factors.

    An identity of the arithmetic: what mult itself is wrong by does not come in. 2 ns are the floors of two readings.
    """
    two = _two(outcome)
    move = outcome.move
    if two is None or move.policy != STOP or move.status != MIGRATED:
        return
    first, second = two
    if (first.epoch, second.epoch, first.site, second.site) != (0, 1, 0, 1) or first.halted:
        return
    old, new = move.clocksources
    ran = scaled(outcome.stop - first.cycles, old.mult, 1 << old.shift)
    ran = ran + scaled(second.cycles - outcome.begins, new.mult, 1 << new.shift)
    gained = second.ns - first.ns
    for sense, value in (("gained", gained - ran), ("lost", ran - gained)):
        yield _ask(f"{sense} by MONOTONIC", NS, f"{sense} ran", value, first, second, tolerance=2)


def sched_clock(outcome: Any) -> Iterator[Ask]:
    """I17: sched_clock never steps back on a vCPU, and gains what the counters counted while the guest ran."""
    two = _two(outcome)
    if two is None or two[0].kind != "sched":
        return
    first, second = two
    numbers = first.returned, second.returned
    where: dict[str, Any] = {"unit": NS, "who": "V1", "events": numbers, "instants": (), "ordered": ()}

    def gained() -> Any:
        return s64(second.ns - first.ns)  # as update_rq_clock() takes it

    yield Ask("back by sched_clock", id="sched back", value=lambda _: -gained(), **where)
    if (first.site, second.site) != (0, 1):
        return
    (old, old_shift), (new, new_shift) = (cyc2ns_scale(khz) for khz in outcome.move.guest_khz)
    ran = scaled(outcome.stop - first.cycles, old, 1 << old_shift)
    ran = ran + scaled(second.cycles - outcome.begins, new, 1 << new_shift)
    yield Ask("gained by sched_clock", id="gained", value=lambda _: gained() - ran, tolerance=2, **where)
    yield Ask("lost by sched_clock", id="lost", value=lambda _: ran - gained(), tolerance=2, **where)


def counts_downtime(outcome: Any) -> Iterator[Ask]:
    """S4: BOOTTIME counts everything, with RUN MONOTONIC too: as much as true time, up to what mult is rounded by."""
    two = _two(outcome)
    if two is None:
        return
    first, second = two
    if (first.epoch, second.epoch) != (0, 0 if outcome.unaware else 1) or first.halted:
        return
    clocks = {"BOOTTIME": (first.boottime_ns, second.boottime_ns)}
    if outcome.move.policy == RUN:
        clocks["MONOTONIC"] = first.ns, second.ns
    allowed = rate_tolerance_ns(outcome)
    for clock, (before, after) in clocks.items():
        gained = after - before - scaled(second.ps - first.ps, 1, 1000)
        for sense, value in (("gained", gained), ("lost", -gained)):
            yield _ask(f"{sense} by {clock}", NS, f"{sense} {clock}", value, first, second, tolerance=allowed)


def ntp_state(outcome: Any) -> Iterator[Ask]:
    """I18: on another host NTP knows nothing, its frequency least of all; on the same one it knows what it knew."""
    if outcome.guest is None or not outcome.vm.thawed:
        return
    ntp, known = outcome.guest.tk.ntp, Ntp.start(outcome.guest.tk.hz)
    synchronise(known)
    if outcome.guest.record.status == MIGRATED:
        right = ntp.time_freq == 0 and ntp.time_status & STA_UNSYNC and ntp.time_maxerror_us >= NTP_PHASE_LIMIT_US
    else:
        right = (ntp.time_freq, ntp.time_status) == (known.time_freq, known.time_status)
    numbers = tuple(range(len(outcome.world.events)))
    yield Ask(
        "that is not the clock's any more", "NTP state", "the guest", "ntp", numbers, (), (), lambda _: int(not right)
    )


def rate_tolerance_ns(outcome: Outcome) -> int:
    """What rounded multipliers are off by over the longest run, and 4 ns for the floors: of 2 readings, the downtime
    and the counter. Where a TSC is scaled, the frequency that the guest is told is rounded as well, to 1 kHz. A counter
    that is scaled for the guest is off by the ratio's rounding, and by 3 cycles where it is placed.
    """
    move, horizon_ns = outcome.move, outcome.world.horizon_ns
    mult = min(clock.mult for clock in move.clocksources)
    allowed = -(-horizon_ns // (2 * mult)) + 4
    if (move.source_ratio, move.target_ratio) != (ONE, ONE):
        allowed += -(-horizon_ns // min(move.guest_khz))
    if outcome.parts:
        allowed += -(-horizon_ns * outcome.parts >> 48) + 3
    return allowed


CLOCK_QUESTIONS = (
    Question(
        "never-back", "MONOTONIC never steps back, whoever reads it and however",
        source="S3; clock contract of Linux", breaks="leases, time-outs, traces, every ordering of events",
        asks=never_back,
    ),
    Question(
        "one-epoch", "every reading is of a counter and factors of one epoch",
        source="S2; the mail's #4", breaks="times that are wrong by any amount, in either direction",
        asks=one_epoch,
    ),
    Question(
        "getters-blocked", "no reader is given a time from freeze() to unfreeze()",
        source="S2 to the letter; the mail: all potential time getters are blocked",
        breaks="nothing by itself: what is read then must be counted when the guest goes on", asks=getters_blocked,
    ),
    Question(
        "none-while-moved", "nobody is given a time from the stop to unfreeze(), no NMI handler runs then",
        source="S6, I15", breaks="the reading is of an image that is elsewhere, or about to be changed",
        asks=none_while_moved,
    ),
    Question(
        "counts-what-ran", "with policy stop MONOTONIC gains what the guest's counters counted while it ran",
        source="S4", breaks="time-outs that come early or late by what is wrong", asks=counts_what_ran,
    ),
    Question(
        "counts-downtime", "BOOTTIME, and with policy run MONOTONIC, gain true time",
        source="S4", breaks="certificates, leases and timers against outside time", asks=counts_downtime,
    ),
    Question(
        "sched-clock", "sched_clock never steps back, and counts what ran", source="C2.5, I17",
        breaks="what tasks are charged, soft lockups, the order of what is traced", asks=sched_clock,
    ),
    Question(
        "ntp-state", "NTP forgets the old host's frequency, and on the same host nothing",
        source="I18", breaks="a clock that is steered by another crystal's error", asks=ntp_state,
    ),
)  # fmt: skip
