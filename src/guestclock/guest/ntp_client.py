"""A guest whose NTP client has just been at it: what an injection, or a move, has to forget and to keep."""

from __future__ import annotations

from guestclock.linux.ntp import NTP_SCALE_SHIFT, STA_PLL, Ntp, adjtimex_freq, time_freq

FREQ_PPB, PHASE_NS, MAXERROR_US = 50, 250_000, 10_000
"""A frequency of less than a step of the multiplier, so that the rate is the nominal one, and a phase still to slew."""


def synchronise(ntp: Ntp) -> None:
    """In sync to 10 ms, and steered."""
    ntp.time_freq = time_freq(adjtimex_freq(FREQ_PPB))
    ntp.ntp_clear()
    ntp.time_status = STA_PLL
    ntp.time_maxerror_us = ntp.time_esterror_us = MAXERROR_US
    ntp.time_offset = (PHASE_NS << NTP_SCALE_SHIFT) // ntp.hz


__all__ = ["FREQ_PPB", "MAXERROR_US", "PHASE_NS", "synchronise"]
