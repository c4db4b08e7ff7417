"""Scenarios on real kernels, on the model and under check: what the five threads argued about."""

from __future__ import annotations

import pytest

from guestclock.judges.scenario import Judged, judge_scenario
from guestclock.lab.arch import arch_of
from guestclock.lab.setup import setup
from guestclock.scenario import load

pytestmark = pytest.mark.lab
S = 10**9


def agreed(name: str, kernel: str) -> list[Judged]:
    scenario = load(name)
    setup([kernel], arch=arch_of(scenario.arch))
    found = list(judge_scenario(scenario, kernel))
    for one in found:
        assert one.agree, [*one.differences, *(row.why for row in (*one.rows, *one.shown) if row.why)]
    return found


def test_a_hotplugged_vcpu_steps_kvmclock_by_what_check_proves_to_be_the_most() -> None:
    (found,) = agreed("threads/2023-masterclock", "6.1")
    (row,) = [row for row in found.rows if row.property == "kvmclock-never-back"]
    assert row.kernel is not None
    assert row.bound is not None
    assert 0 <= row.bound + row.kernel.middle < 20


@pytest.mark.parametrize(("kernel", "steps"), [("6.1", True), ("6.12", False)])
def test_what_each_clock_gained_while_the_host_slept(kernel: str, steps: bool) -> None:
    (found,) = agreed("bugs/suspend-running-tsc", kernel)
    gained = {row.clock: row.kernel.middle for row in found.shown}
    assert gained["host's monotonic"] == pytest.approx(-3600.5 * S, abs=S)
    assert abs(gained["host's boottime"]) < S
    assert all(abs(gained[clock]) < 10_000 for clock in ("tsc of vcpu0", "kvmclock of vcpu0", "GET_CLOCK"))
    apart = [row for row in found.rows if row.property == "kvmclock-agrees"]
    assert bool(apart) == steps
    assert all(row.bound is not None and row.bound > S for row in apart)


def test_by_value_a_delay_is_lost_by_offset_nothing_is_and_a_running_vcpu_forbids_it() -> None:
    for found, delay_ns in zip(agreed("threads/2021-idempotent-arm64", "6.12"), (0, 3 * S // 10, 5 * S), strict=True):
        told = {row.step: row.kernel for row in found.shown if row.clock == "cntvct of vcpu0"}
        assert told[12].middle == pytest.approx(-delay_ns, abs=S // 100)
        assert 0 in told[27]
        assert "step 25: SetCounterOffset refused: EBUSY" in found.refused
