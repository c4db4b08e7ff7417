"""Delay loops on x86: udelay() spins for so many cycles of the TSC as loops_per_jiffy makes of the time.

loops_per_jiffy is computed once, of the frequency at boot. A kernel that runs on another one waits too short or too
long by the ratio until somebody computes it anew.

Limits: a delay that the vCPU's thread, a preemption or an interrupt makes longer is not here; nor is tpause, which
takes the same cycles.
Source: arch/x86/lib/delay.c, arch/x86/kernel/tsc.c get_loops_per_jiffy(), v6.12.
"""

from __future__ import annotations

from guestclock.arith import u32, u64

_PER_US = 0x10C7
"""2^32 / 1 000 000, rounded up."""


def loops_per_jiffy(tsc_khz: int, hz: int) -> int:
    """lpj_fine: cycles in a jiffy."""
    return tsc_khz * 1000 // hz


def udelay_cycles(us: int, lpj: int, hz: int) -> int:
    """For how many cycles udelay(us) spins at least. us: at most 20 000, as the kernel allows.

    HZ / 4 is an integer: with HZ 250 that is 62, and every delay is 0.8 % short.
    """
    assert 0 <= us <= 20_000, us
    return (u32(us * _PER_US * 4) * u32(lpj * (hz // 4)) >> 32) + 1


def delay_is_over(began: int, now: int, cycles: int) -> bool:
    """delay_tsc()'s comparison. A TSC that is below where the delay began ends it at once: the difference is u64."""
    return u64(now - began) >= cycles
