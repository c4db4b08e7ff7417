"""What an L2 that takes no part is given: how wrong its counter's rate and place are, on numbers."""

from __future__ import annotations

from random import Random

import pytest

from guestclock.arith import scale_tsc
from guestclock.checks.freeze.cases import PAIRS, STAYS_SILENT
from guestclock.checks.freeze.clock_states import MOST_CYCLES
from guestclock.checks.freeze.unaware import Unaware, build, misplaced_cycles, ratio_for, slow_cycles
from tests.explore.integers import IntegerWorld, OutOfBounds

DAY = 86_400


@pytest.mark.parametrize("bits", [32, 48])
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_the_rate_is_wrong_by_what_the_ratio_is_rounded_by(source: int, target: int, bits: int):
    ratio = ratio_for(source, target, bits)
    lost, whole = slow_cycles(source, target, bits)
    assert 0 <= lost < target * 1000  # of 2^bits a second: less than the target's frequency
    counted = scale_tsc(target * 1000 * DAY, ratio, bits)
    assert abs(source * 1000 * DAY - counted - lost * DAY // whole) <= 1


def test_the_worst_of_the_listed_pairs():
    """ns per second: below 0.3 with 32 bits, 16 bits less with 48."""
    worst = {
        bits: max(slow_cycles(s, t, bits)[0] / slow_cycles(s, t, bits)[1] * 10**6 / s for s, t in PAIRS)
        for bits in (32, 48)
    }
    assert worst[32] == pytest.approx(0.232, abs=0.1)
    assert worst[48] < 5e-6


@pytest.mark.parametrize("bits", [32, 48])
def test_a_scaled_l1_is_wrong_by_the_hosts_tsc_over_the_fraction(bits: int):
    rng, worst = Random(bits), 0
    for _ in range(2000):
        host = rng.randrange(MOST_CYCLES)
        khz = {"l1_khz": rng.randrange(1_000_000, 4_000_000), "host_khz": rng.randrange(1_000_000, 4_000_000)}
        behind = misplaced_cycles(host, rng.randrange(2**45), 2**50, **khz, bits=bits)
        assert -4 * (host >> bits) - 3 <= behind <= 4 * (host >> bits) + 3
        worst = max(worst, abs(behind))
    assert worst > MOST_CYCLES >> bits + 2


def test_no_random_run_steps_back_or_is_off_by_more_than_rounding():
    ended = 0
    for seed in range(300):
        try:
            outcome = IntegerWorld(build(Unaware(), STAYS_SILENT), STAYS_SILENT.bounds, Random(seed)).run()
        except OutOfBounds:
            continue
        if len(outcome.readings) < 2:
            continue
        first, second = outcome.readings
        ended += "vdso at site 1" in outcome.reached
        assert second.ns >= first.ns
        assert abs(second.ns - first.ns - (second.ps - first.ps) // 1000) < 800
    assert ended > 100
