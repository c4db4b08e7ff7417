"""perf's mapped page: it is sched_clock while it is fresh, and wrong by the ratio when the frequency has changed."""

from __future__ import annotations

from random import Random

import pytest

from guestclock.linux.perf_page import PerfPage
from guestclock.linux.sched_clock import NativeSchedClock

SECOND = 10**9


@pytest.mark.parametrize("khz", [1_000_000, 2_400_000, 2_596_122, 3_999_999])
def test_a_fresh_page_is_sched_clock(khz: int):
    rng = Random(khz)
    clock = NativeSchedClock.start(khz, rng.randrange(2**50))
    for _ in range(300):
        tsc = rng.randrange(2**55)
        page = PerfPage.of(clock, now_ns=clock.ns(tsc))
        later = tsc + rng.randrange(2**40)
        assert page.timestamp_ns(later) == clock.ns(later)
        assert page.since_update_ns(later) == clock.ns(later) - clock.ns(tsc)


@pytest.mark.parametrize(("target", "wrong_ns"), [(2_900_000, 208_333_333), (2_100_000, -125_000_000)])
def test_a_page_that_nobody_writes_after_a_move_goes_on_by_the_old_factors(target: int, wrong_ns: int):
    """One second after it, where the TSC went on; fresh again, it is right."""
    clock, stop = NativeSchedClock.start(2_400_000, 0), 10**12
    page = PerfPage.of(clock, now_ns=clock.ns(stop))
    clock.rebase(target, stop, stop)
    later = stop + target * 1000
    assert page.since_update_ns(later) - SECOND == pytest.approx(wrong_ns, abs=2)
    assert PerfPage.of(clock, now_ns=clock.ns(stop)).since_update_ns(later) == pytest.approx(SECOND, abs=2)


def test_rebase_takes_any_tsc():
    """It shows the same on both sides of the move, and runs at the new rate."""
    rng = Random(17)
    for _ in range(300):
        khz, target = rng.sample((1_000_000, 2_100_000, 2_596_122, 2_999_999), 2)
        clock = NativeSchedClock.start(khz, rng.randrange(2**50))
        stop, begins = 2**50 + rng.randrange(2**50), rng.randrange(2**55)
        shown = clock.ns(stop)
        clock.rebase(target, stop, begins)
        assert clock.ns(begins) == shown
        assert clock.ns(begins + target * 1000) - shown == pytest.approx(SECOND, abs=2)
