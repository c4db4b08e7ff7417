"""perf's mapped page: what a program computes sched_clock and an event's times from, without asking the kernel.

The kernel copies sched_clock's factors there (cap_user_time, cap_user_time_zero) when the event goes to or leaves a
CPU, and at no other time: an event that stays on its CPU keeps the page that it has.
Source: arch/x86/events/core.c arch_perf_update_userpage(), include/uapi/linux/perf_event.h, v6.12.
"""

from __future__ import annotations

from dataclasses import dataclass

from guestclock.arith import u64
from guestclock.linux.sched_clock import NativeSchedClock


@dataclass(frozen=True, slots=True)
class PerfPage:
    """struct perf_event_mmap_page, as far as time depends on it. Offsets: u64, ns."""

    time_mult: int
    time_shift: int
    time_offset: int
    time_zero: int

    @classmethod
    def of(cls, clock: NativeSchedClock, now_ns: int) -> PerfPage:
        """As the kernel writes it where the event's own time is now_ns."""
        return cls(clock.mul, clock.shift, u64(clock.offset_ns - now_ns), clock.offset_ns)

    def since_update_ns(self, cycles: int) -> int:
        """What a program adds to time_enabled and time_running where the TSC is `cycles`; u64."""
        return u64(self.time_offset + self._converted(cycles))

    def timestamp_ns(self, cycles: int) -> int:
        """What a program takes for sched_clock there; u64."""
        return u64(self.time_zero + self._converted(cycles))

    def _converted(self, cycles: int) -> int:
        quot, rem = cycles >> self.time_shift, cycles & (1 << self.time_shift) - 1
        return quot * self.time_mult + (rem * self.time_mult >> self.time_shift)
