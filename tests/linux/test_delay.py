"""Delay loops: how long they are on the frequency that they were made for, and on another."""

from __future__ import annotations

import pytest

from guestclock.linux.delay import delay_is_over, loops_per_jiffy, udelay_cycles


@pytest.mark.parametrize("hz", [100, 250, 300, 1000])
@pytest.mark.parametrize("khz", [1_000_000, 2_400_000, 2_596_122, 3_999_999])
@pytest.mark.parametrize("us", [0, 1, 10, 100, 1000, 20_000])
def test_a_delay_is_as_long_as_asked(khz: int, us: int, hz: int):
    """But for HZ / 4, which is 62 with HZ 250."""
    cycles = udelay_cycles(us, loops_per_jiffy(khz, hz), hz)
    asked = us * khz * (hz // 4 * 4) // hz // 1000
    assert asked - us * hz // 10**6 - 1 <= cycles <= asked + asked * 8 // 10**6 + 2


@pytest.mark.parametrize(
    ("target", "waited_ns"),
    [(1_920_000, 125_003), (2_100_000, 114_288), (2_900_000, 82_761), (3_000_000, 80_002)],
)
def test_on_another_frequency_it_is_wrong_by_the_ratio(target: int, waited_ns: int):
    """100 us that were computed for 2.4 GHz."""
    cycles = udelay_cycles(100, loops_per_jiffy(2_400_000, 1000), 1000)
    assert cycles * 10**6 // target == pytest.approx(waited_ns, abs=3)


def test_a_delay_that_is_moved_ends_at_once_where_the_tsc_is_lower():
    assert not delay_is_over(10**12, 10**12 + 100, 240_000)
    assert delay_is_over(10**12, 10**12 + 240_000, 240_000)
    assert delay_is_over(10**12, 10**12 - 1, 240_000)
