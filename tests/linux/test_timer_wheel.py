"""The timer wheel: never early, late by less than a level's granularity."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestclock.linux import jiffies_at, wheel_expiry

HZ = st.sampled_from([100, 250, 300, 1000])
JIFFIES = st.integers(2**32 - 300_000, 2**34)


def granularity(delay, hz):
    """Of the level that holds a delay, straight from the table in the kernel's comment (63, 504, 4032, ...)."""
    levels = [1, 8, 64, 512, 4096, 32768, 262144, 2097152, 16777216][: 9 if hz > 100 else 8]
    return next((g for g in levels if delay < 504 * g // 8), levels[-1])


def is_legal(now, delay, hz, fires):
    """After the expiry, on a slot of the level, in the first such slot."""
    grain = granularity(delay, hz)
    return now + delay < fires <= now + delay + grain and fires % grain == 0


@given(JIFFIES, st.integers(0, 10_000_000), HZ)
def test_a_timer_fires_in_the_first_slot_after_its_expiry(now, delay, hz):
    assert is_legal(now, delay, hz, wheel_expiry(now, delay, hz))


@given(JIFFIES, st.integers(0, 10_000_000), HZ)
def test_the_check_refuses_a_slot_earlier_or_later(now, delay, hz):
    grain = granularity(delay, hz)
    for shift in (-grain, grain, 1 if grain > 1 else 2):
        assert not is_legal(now, delay, hz, wheel_expiry(now, delay, hz) + shift)


@pytest.mark.parametrize(("hz", "latest_s"), [(250, 316.4), (1000, 332.8)])
def test_300_seconds(hz, latest_s):
    """kvmclock_sync_work: 300..316.4 s at HZ=250, 300..332.8 s at HZ=1000, and both ends are reached."""
    start = 2**32
    late = [wheel_expiry(start + phase, 300 * hz, hz) - start - phase for phase in range(0, 32768, 1)]
    assert min(late) == 300 * hz + 1
    assert latest_s - 0.1 < max(late) / hz <= latest_s


def test_the_measured_intervals_are_possible():
    """[X] 306.8 s, then 311.3 s at HZ=250: successive rounds of one work that re-arms itself when it runs.

    The work runs a little after its slot, so its phase is free; what two rounds have in common is the slot.
    """
    slot = 2**32
    possible = sorted({wheel_expiry(slot + lag, 75_000, 250) - slot - lag for lag in range(0, 4096)})
    assert possible[0] <= 306.8 * 250 <= possible[-1]
    assert possible[0] <= 311.3 * 250 <= possible[-1]
    # Control: not every interval is possible.
    assert possible[0] > 299.9 * 250
    assert possible[-1] < 317 * 250


@pytest.mark.parametrize(("hz", "last"), [(250, 64 * 8**8), (100, 64 * 8**7)])
def test_delays_beyond_the_wheel_end_at_its_end(hz, last):
    now = 2**32
    cap = wheel_expiry(now, last, hz)
    assert cap == wheel_expiry(now, 10 * last, hz)
    assert cap <= now + last
    assert cap > now + last * 9 // 10


def test_jiffies_begin_five_minutes_before_they_wrap():
    assert jiffies_at(0, 250) == 2**32 - 75_000
    assert jiffies_at(300 * 10**9, 250) == 2**32
    assert jiffies_at(4_000_000 - 1, 250) == jiffies_at(0, 250)
    assert jiffies_at(4_000_000, 250) == jiffies_at(0, 250) + 1
