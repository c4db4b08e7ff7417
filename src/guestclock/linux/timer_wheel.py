"""When a timer of the timer wheel really fires: never early, up to an eighth of its delay late.

KVM's kvmclock_sync_work is one: its "300 s" are 300.0 to 316.4 s at HZ=250 and 300.0 to 332.8 s at HZ=1000.
"""

from __future__ import annotations

_SHIFT_PER_LEVEL = 3  # each level is 8 times coarser than the one before
_SLOTS = 64
_NSEC_PER_SEC = 1_000_000_000


def wheel_expiry(jiffies: int, delay: int, hz: int) -> int:
    """The jiffy at which a timer armed now fires.

    jiffies: now, as the kernel counts (see jiffies_at): the slots of a level lie on absolute multiples of its
    granularity. delay: jiffies, not negative, concrete. hz: CONFIG_HZ.
    Returns a jiffy after jiffies + delay, by at most the level's granularity (1, 8, 64, ... jiffies); a delay beyond
    the last level fires at its end. Assumes that the wheel's own clock has caught up with jiffies when the timer is
    armed, which forward_timer_base() sees to unless another timer is overdue.
    Source: kernel/time/timer.c calc_wheel_index(), calc_index(), v6.12. The wheel is that of 4.8 (500462a9de65).
    """
    assert delay >= 0, delay
    levels = 9 if hz > 100 else 8
    level = 0
    while level < levels - 1 and delay >= (_SLOTS - 1) << level * _SHIFT_PER_LEVEL:
        level += 1
    last = _SLOTS << (levels - 1) * _SHIFT_PER_LEVEL  # WHEEL_TIMEOUT_CUTOFF
    if delay >= last:
        delay = last - (1 << (levels - 1) * _SHIFT_PER_LEVEL)
    bits = level * _SHIFT_PER_LEVEL
    return ((jiffies + delay >> bits) + 1) << bits


def jiffies_at(monotonic_ns: int, hz: int) -> int:
    """jiffies_64 at a CLOCK_MONOTONIC, for a tick that keeps up.

    monotonic_ns: ns since boot. hz: CONFIG_HZ, concrete.
    Counted from INITIAL_JIFFIES, five minutes before 32 bits wrap; the tick's phase within a jiffy is taken as 0.
    """
    return 2**32 - 300 * hz + monotonic_ns * hz // _NSEC_PER_SEC
