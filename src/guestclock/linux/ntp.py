"""NTP as far as the timekeeper sees it: how long one tick should be.

Frequency alone: no phase slew, no adjtime(), no leap second, no PPS.
"""

from __future__ import annotations

from guestclock.sim.field import s64, u64
from guestclock.sim.state import State

NTP_SCALE_SHIFT = 32
MAX_FREQ_PPB = 500_000
_NSEC_PER_SEC = 1_000_000_000


class Ntp(State):
    """What kernel/time/ntp.c remembers, v6.12 (file-scope variables there, struct ntp_data since 6.14)."""

    time_freq = s64("frequency correction, ns per second << 32")
    tick_length_base = u64("length of one tick at that frequency, ns << 32")
    tick_length = u64("length of one tick now, ns << 32; without phase slew equal to tick_length_base")


def adjtimex_freq(ppb: int) -> int:
    """`timex.freq` for a frequency in parts per 10^9: units of 2^-16 ppm (0.0153 ppb), rounded to nearest."""
    return (ppb * 65536 + 500) // 1000


def tick_length(freq: int, hz: int) -> int:
    """ntp_tick_length() for a `timex.freq` (signed, 2^-16 ppm): ns << 32 per tick, truncated.

    At HZ=300 a tick is 3 333 333.3 ns here and 3 333 333 ns to the clocksource: such a kernel slews all the time.
    Source: kernel/time/ntp.c ntp_update_frequency(), process_adjtimex_modes(), v6.12.
    """
    return ((_NSEC_PER_SEC << NTP_SCALE_SHIFT) + time_freq(freq)) // hz


def time_freq(freq: int) -> int:
    """The kernel's time_freq for a `timex.freq`: ns per second << 32."""
    return freq * 1000 << NTP_SCALE_SHIFT - 16
