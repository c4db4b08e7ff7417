"""Timers of the guest in an integer run of the suspend thread: armed at boot, due before, in and after the sleep.

Each is on a CPU of its own, idle and without a tick, so that nothing else brings the interrupt that it needs: the worst
case for a timer that is not told of a step, and all that I9 is about. Whether one fires changes no clock, so this is
reckoned after the run, by the same `linux.timers` as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from guestclock.checks.readings import Row
from guestclock.checks.suspend.setting import MS, Outcome, S
from guestclock.checks.suspend.states import GuestState
from guestclock.checks.suspend.views import Reader, View
from guestclock.linux.timers import CLOCK_SET_BOOT, CLOCK_SET_WALL, CpuBase, Hrtimer, Timerfd, clock_was_set

Placed = tuple[int, float, Row]
Stretch = tuple[View, int, int, int]
"""A view, its ends in units, and the number of the step after which it can be read."""

CANCELLED = "wall"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A timer: after_ns from when it is armed, by its clock."""

    name: str
    clock: str
    after_ns: int
    period_ns: int = 0


WANTED = (
    Wanted("soon", "monotonic", 300 * MS),
    Wanted("after", "monotonic", 1500 * MS),
    Wanted("often", "monotonic", 100 * MS, 100 * MS),
    Wanted("boot-soon", "boottime", 300 * MS),
    Wanted("boot-asleep", "boottime", 60 * S),
    Wanted("boot-every", "boottime", 7 * S, 7 * S),
    Wanted("real-asleep", "realtime", 60 * S),
    Wanted(CANCELLED, "realtime", 10**6 * S),
)
"""60 s: in the shortest sleep. The last one asks to be cancelled where the wall clock is set."""


def timer_rows(outcome: Outcome, reader: Reader, stretches: Sequence[Stretch]) -> Iterator[Placed]:
    """arm, fire and cancel rows of a guest with one vCPU: of several, one may be kept out by its host alone."""
    if stretches and outcome.setting.most_vcpus == 1 and not reader.mono_is_boot:
        for wanted in WANTED:
            yield from _Alone(outcome, reader, stretches, wanted).rows()


class _Alone:
    def __init__(self, outcome: Outcome, reader: Reader, stretches: Sequence[Stretch], wanted: Wanted) -> None:
        self.states: list[GuestState] = outcome.states.seen
        self.reader, self.stretches, self.wanted = reader, stretches, wanted
        tk = stretches[0][0].tk
        self.cpu = CpuBase.start(tk)
        now = tk.read_ns(wanted.clock, self._cycles(stretches[0][0], stretches[0][1]))
        self.due = now + wanted.after_ns
        self.timer = Hrtimer(
            clock=wanted.clock, expires_ns=self.due, period_ns=wanted.period_ns, restarts=bool(wanted.period_ns)
        )
        self.fd = Timerfd.set(self.cpu, tk, self.timer, cancel_on_set=wanted.name == CANCELLED)

    def _cycles(self, view: View, t: int) -> Any:
        return self.reader.kvmclock(view.cpu, t) if self.reader.kvm_clock else self.reader.clock_counter(view.cpu, t)

    def rows(self) -> Iterator[Placed]:
        (_, began, _, since), wanted = self.stretches[0], self.wanted
        row: Row = {"event": "arm", "id": wanted.name, "clock": wanted.clock.upper(), "ns": self.due}
        yield began, since + 0.55, row | ({"interval_ns": wanted.period_ns} if wanted.period_ns else {})
        seen = since
        for view, opened, closed, number in self.stretches:
            yield from self._told(view, opened, seen, number)
            seen = max(seen, number)
            yield from self._fires(view, opened, closed, number)

    def _told(self, view: View, at: int, seen: int, number: int) -> Iterator[Placed]:
        """clock_was_set() calls in the steps between, with the bases that they were made with."""
        for before, state in zip(self.states, self.states[1:], strict=False):
            if not seen < state.number <= number or state.kernel != view.kernel or state.kernel != before.kernel:
                continue
            bases: tuple[str, ...] = CLOCK_SET_WALL if state.wall_bases != before.wall_bases else ()
            bases += CLOCK_SET_BOOT if state.boot_bases != before.boot_bases else ()
            woke = before.asleep and not state.asleep
            if bases:
                clock_was_set(view.tk, (self.cpu,), bases)
            if woke:  # hrtimers_resume_local()
                self.cpu.update_base(view.tk)
                self.cpu.reprogram()
            if bases or woke:
                self.fd.clock_was_set(view.tk)
                if self.fd.read(self.cpu, view.tk, self._cycles(view, at)) < -100:
                    yield at, number + 0.55, {"event": "cancel", "id": self.wanted.name}

    def _fires(self, view: View, opened: int, closed: int, number: int) -> Iterator[Placed]:
        """The interrupt comes when MONOTONIC reaches what was programmed, on a vCPU that is in the guest."""
        at = opened
        while self.cpu.timers:
            wanted_ns = self.cpu.expires_next_ns
            if self._monotonic(view, closed) < wanted_ns:
                return
            low, high = at, closed
            while low < high:
                middle = (low + high) // 2
                low, high = (low, middle) if self._monotonic(view, middle) >= wanted_ns else (middle + 1, high)
            at = low
            missed = self.timer.overrun
            if self.cpu.interrupt(view.tk, self._cycles(view, at)):
                value = view.tk.read_ns(self.wanted.clock, self._cycles(view, at))
                row = {"event": "fire", "id": self.wanted.name, "value": value}
                yield (
                    at,
                    number + 0.55,
                    row | ({"overruns": self.timer.overrun - missed} if self.timer.restarts else {}),
                )
            assert self.cpu.expires_next_ns > wanted_ns, "an interrupt that changes nothing comes again and again"

    def _monotonic(self, view: View, t: int) -> int:
        return int(view.tk.read_ns("monotonic", self._cycles(view, t)))


__all__ = ["WANTED", "timer_rows"]
