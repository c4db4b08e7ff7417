"""I9: timers expire when their clock has come to their deadline: not before, once, and not much later."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from guestclock.check.recorded.block import Block
from guestclock.check.recorded.checking import Check, Finding
from guestclock.check.recorded.columns import CLOCK_CODES, CLOCKS, FAST, REALTIME, TAI, Event
from guestclock.check.recorded.header import Header
from guestclock.errors import UserError

LEAPS = 16
"""Of so many stops and steps it is known where they led; what was due in an earlier one has expired, or is missed."""


@dataclass(slots=True)
class Armed:
    """A timer that has been armed. due: its next deadline."""

    event: Event
    clock: int
    due: int
    interval_ns: int
    walls: int
    fired: bool = False


class Timers(Check):
    number, name = 9, "timers"
    about = (
        "no timer expires early, more than once or much too late; the wall clock's steps cancel those that ask for it"
    )
    needs = "arm and fire rows; for those that never expire readings of their clock after the deadline, and logs: timer"
    tolerance = (
        "early: none; late: late_ns, from the first reading after a stop or a step that went beyond the deadline"
    )
    blind = "who was late: the interrupt, the handler or its record"

    def __init__(self, header: Header) -> None:
        super().__init__(header)
        self.armed: dict[str, Armed] = {}
        self.walls = 0
        self.reached: dict[int, tuple[int, str]] = {}
        self.leaps: dict[int, list[tuple[int, int]]] = {}
        """By clock: its last reading before a stop or a step, and its first one after it."""
        self.leaping: dict[int, int] = {}
        self.late: list[tuple[Armed, Event, int]] = []
        """Expiries that look late, before it is known where their clock leapt to."""

    def on_arm(self, event: Event) -> None:
        interval = event.get("interval_ns") or 0
        clock = CLOCK_CODES[event.word("clock")]
        self.armed[event.word("id")] = Armed(event, clock, event.number("ns"), interval, self.walls)

    def on_disarm(self, event: Event) -> None:
        self.armed.pop(event.word("id"), None)

    def on_fire(self, event: Event) -> None:
        timer = self._timer(event)
        value = event.number("value")
        self.compare()
        if timer.fired:
            self._wrong("expires once more, though it was armed once", timer, event, 0)
            return
        early, late = timer.due - value, value - timer.due - self.header.late_ns
        if early > 0:
            self._wrong("expires early", timer, event, early)
        if not timer.interval_ns:
            timer.fired = True
            if late > 0:
                self.late.append((replace(timer), event, value))
            return
        overruns = (value - timer.due) // timer.interval_ns if early <= 0 else 0
        told = event.get("overruns")
        if told is not None and told != overruns:
            self._wrong(f"tells of {told} overruns where {overruns} periods passed", timer, event, 0)
        elif told is None and late > 0:
            self.late.append((replace(timer), event, value))
        timer.due += timer.interval_ns * (overruns + 1)

    def on_cancel(self, event: Event) -> None:
        timer = self._timer(event)
        self.compare()
        if timer.clock not in (REALTIME, TAI):
            self._wrong(f"is cancelled, though its clock is {CLOCKS[timer.clock]}", timer, event, 0)
        elif timer.walls == self.walls:
            self._wrong("is cancelled, though nothing moved the wall clock", timer, event, 0)
        timer.walls = self.walls

    def on_set(self, event: Event) -> None:
        self.walls += 1
        self._leaps()

    def on_inject(self, event: Event) -> None:
        self.walls += 1
        self._leaps()

    def on_stop(self, event: Event) -> None:
        self._leaps()

    def _leaps(self) -> None:
        """From here on a clock may show more than has passed since it was read last."""
        for clock, (value, _) in self.reached.items():
            self.leaping.setdefault(clock, value)

    def readings(self, block: Block) -> None:
        if not self.armed and not self.late:
            return
        for clock in {timer.clock for timer in self.armed.values()} | {timer.clock for timer, *_ in self.late}:
            rows = np.flatnonzero((block.clock == clock) & (block.path != FAST))
            if len(rows):
                row = int(rows[np.argmax(block.value[rows])])
                self.reached[clock] = int(block.value[row]), block.at(row)
                if clock in self.leaping:
                    kept = self.leaps.setdefault(clock, [])
                    kept.append((self.leaping.pop(clock), int(block.value[rows[0]])))
                    del kept[:-LEAPS]
        self._judge_late()
        if "timer" in self.header.logs:
            self._missed()

    def _due(self, timer: Armed) -> int:
        """What its clock showed when it could expire: its deadline, or beyond it where its clock leapt over that."""
        landed = (after for before, after in self.leaps.get(timer.clock, ()) if before < timer.due <= after)
        return max(timer.due, *landed, timer.due)

    def _judge_late(self) -> None:
        for timer, event, value in self.late:
            late = value - self._due(timer) - self.header.late_ns
            if late > 0:
                self._wrong("expires late", timer, event, late)
        self.late.clear()

    def _missed(self) -> None:
        """What should have expired by now; the record of an expiry may follow the readings of its time."""
        for name, timer in list(self.armed.items()):
            reached, at = self.reached.get(timer.clock, (0, ""))
            over = reached - self._due(timer) - 2 * self.header.late_ns
            if not timer.fired and over > 0:
                said = f"timer {name} on {CLOCKS[timer.clock]} does not expire"
                self.violate(Finding(said, (timer.event.at, at), over, "ns", {"due": timer.due}))
                del self.armed[name]

    def end(self) -> None:
        self._judge_late()
        if "timer" in self.header.logs:
            self._missed()

    def _timer(self, event: Event) -> Armed:
        timer = self.armed.get(event.word("id"))
        if timer is None:
            raise UserError(f"{event.at}: {event.kind} of timer {event.word('id')!r}, which was never armed")
        return timer

    def _wrong(self, what: str, timer: Armed, event: Event, amount: int) -> None:
        name, clock = event.word("id"), CLOCKS[timer.clock]
        about = {"clock": clock, "due": timer.due, "after": event.get("value")}
        unit = "ns" if amount else ""
        self.violate(Finding(f"timer {name} on {clock} {what}", (timer.event.at, event.at), amount, unit, about))
