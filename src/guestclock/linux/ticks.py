"""Ticks when they really come: at multiples of CLOCK_MONOTONIC, a little late.

`Timekeeper.tick_until` takes each tick where its interval of cycles is complete. A kernel's tick is a timer of
MONOTONIC's: if NTP slews, or time was forwarded in the middle of an interval, a tick finds none complete, or two, or
one and a rest. MONOTONIC then differs by what the multiplier changed by, times up to a tick: 2 us where a slew of
500 ppm begins. Who predicts a real kernel takes real ticks.
"""

from __future__ import annotations

from guestclock.linux.timekeeper import Timekeeper
from guestclock.sim.field import integer, s64
from guestclock.sim.state import State


class Ticks(State):
    """A periodic tick (nohz=off, or a CPU that is never idle), high-resolution timers: tick_nohz_handler()."""

    due_ns = s64("when the next one is due, ns of MONOTONIC")
    period_ns = s64("1 / HZ, ns: TICK_NSEC")
    late_cycles = integer("from when one is due until it reads the clocksource, cycles")

    def until(self, tk: Timekeeper, cycles: int) -> None:
        """Takes the ticks of `tk` that have read the clocksource where it is at `cycles`."""
        while True:
            at = cycles_at(tk, self.due_ns) + self.late_cycles
            if at > cycles:
                return
            tk.advance(at)
            self.due_ns += self.period_ns


def cycles_at(tk: Timekeeper, monotonic_ns: int) -> int:
    """The counter at which MONOTONIC first shows monotonic_ns, as long as the multiplier stays."""
    return tk.cycle_last - (tk.mono_snsec - (monotonic_ns << tk.clock.shift)) // tk.mono_mult
