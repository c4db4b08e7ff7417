"""A Linux kernel's own time: clocksources, the timekeeper, the timer wheel. Hosts and guests alike."""

from guestclock.linux.clocksource import (
    CLOCKSOURCES,
    VCLOCK_ARCHTIMER,
    VCLOCK_HVCLOCK,
    VCLOCK_NONE,
    VCLOCK_PVCLOCK,
    VCLOCK_TSC,
    Clocksource,
    arch_sys_counter,
    clocksource,
)
from guestclock.linux.ntp import Ntp, Timex, TimexAnswer, adjtimex_freq, tick_length
from guestclock.linux.timekeeper import TK_CLEAR_NTP, TK_CLOCK_WAS_SET, TK_MIRROR, Timekeeper
from guestclock.linux.timer_wheel import jiffies_at, wheel_expiry

__all__ = [
    "CLOCKSOURCES", "TK_CLEAR_NTP", "TK_CLOCK_WAS_SET", "TK_MIRROR", "VCLOCK_ARCHTIMER", "VCLOCK_HVCLOCK",
    "VCLOCK_NONE", "VCLOCK_PVCLOCK", "VCLOCK_TSC", "Clocksource", "Ntp", "Timekeeper", "Timex", "TimexAnswer",
    "adjtimex_freq", "arch_sys_counter", "clocksource", "jiffies_at", "tick_length", "wheel_expiry",
]  # fmt: skip
