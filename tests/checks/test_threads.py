"""The threads as checks: what breaks, by how much at worst, from which delay on, and that the fix holds."""

from __future__ import annotations

import pytest

from guestclock.checks.spec import Spec
from guestclock.checks.sweep import sweep
from guestclock.checks.target import targets
from guestclock.checks.verdict import HOLDS, VIOLATED, check

S = 10**9
KHZ = 2_596_122
SECTION = 25_961  # 10 us in cycles


def tsc_agrees(**changes):
    """The verdict on vCPUs' TSCs after a restore by value."""
    spec = Spec(recipe="by-value-restore", properties=("tsc-agrees",)).but(**changes)
    (verdict,) = check(spec).verdicts
    assert verdict.asked > 0
    return verdict


# ---- 2010: robust matching of TSC writes


@pytest.mark.parametrize("vcpus", [2, 4])
def test_by_value_holds_within_the_window(vcpus):
    verdict = tsc_agrees(vcpus=vcpus, delay_ns=9 * S // 10)
    assert (verdict.status, verdict.bound) == (HOLDS, 0)


@pytest.mark.parametrize("vcpus", [2, 4])
def test_by_value_breaks_beyond_the_window_by_all_delays_together(vcpus):
    verdict = tsc_agrees(vcpus=vcpus, delay_ns=5 * S)
    assert verdict.status == VIOLATED
    # One call's 5 s for each vCPU after the first, and what clock reads in each one's section can be apart.
    assert verdict.worst == verdict.bound == (vcpus - 1) * (5 * S * KHZ // 10**6) + vcpus * SECTION


def test_the_smallest_delay_that_breaks_it_is_a_second_less_two_sections():
    verdict = tsc_agrees(delay_ns=5 * S)
    assert verdict.breaks.safe_ns < verdict.breaks.delay_ns < verdict.breaks.safe_ns + 100
    assert S - 21_000 < verdict.breaks.delay_ns < S - 19_000
    assert verdict.breaks.value == verdict.short.value > 0
    assert verdict.breaks.proved
    assert tsc_agrees(delay_ns=verdict.breaks.safe_ns).status == HOLDS
    assert tsc_agrees(delay_ns=verdict.breaks.delay_ns).status == VIOLATED


def test_p2_has_a_window_of_five_seconds_and_p0_none():
    # A guest younger than that would match the writes with which its vCPUs were created, and break sooner.
    old = {"kernel": "linux-2.6.37", "life_min_ns": 10 * S}
    p2 = {d: tsc_agrees(**old, delay_ns=d).status for d in (49 * S // 10, 6 * S)}
    assert p2 == {49 * S // 10: HOLDS, 6 * S: VIOLATED}
    assert tsc_agrees(kernel="linux-2.6.37", delay_ns=49 * S // 10).status == VIOLATED
    p0 = tsc_agrees(kernel="linux-6.12+no-matching", delay_ns=1000)
    assert p0.status == VIOLATED
    assert p0.breaks.delay_ns == 0


def grid(recipe, kernel="linux-6.12"):
    spec = Spec(recipe=recipe, kernel=kernel, properties=("tsc-agrees",))
    cells = sweep(spec, {"save_delay_ns": [S // 10, 2 * S], "restore_delay_ns": [S // 10, 2 * S]})
    return [cell.result.verdicts[0].status == HOLDS for cell in cells]


def test_2010_assistances_cure_the_save_side_or_both():
    # (save, restore) delays: short and short, short and long, long and short, long and long.
    assert grid("by-value-restore") == [True, False, False, False]
    assert grid("highest-tsc") == [True, False, True, False]
    assert grid("stop-all-tscs", "linux-6.12+stop-all-tscs") == [True, True, True, True]


# ---- 2021: idempotent, offset-based


def test_offsets_do_not_mind_preemption_where_values_do():
    offset = Spec(recipe="offset-restore", properties=("tsc-agrees",))
    assert [c.result.verdicts[0].status for c in sweep(offset, {"delay_ns": [S // 10, 2 * S, 20 * S]})] == [HOLDS] * 3
    value = Spec(recipe="by-value-restore", properties=("tsc-agrees",))
    worst = [c.result.verdicts[0].worst for c in sweep(value, {"delay_ns": [S // 10, 2 * S, 20 * S]})]
    assert worst == [None, 2 * S * KHZ // 10**6 + 2 * SECTION, 20 * S * KHZ // 10**6 + 2 * SECTION]


# ---- 2023: when the masterclock may be re-snapshotted


def hotplug(kernel, *lives_s):
    spec = Spec(
        recipe="vcpu-hotplug", kernel=kernel, properties=("kvmclock-never-back",), delay_ns=10**6, away_ns=10**6
    )
    cells = sweep(spec, {"life_ns": [life * S for life in lives_s]})
    assert all(cell.result.verdicts[0].asked for cell in cells)
    return [cell.result.verdicts[0] for cell in cells]


def test_hotplug_steps_back_by_the_drift_since_boot_until_6_7():
    for life_s, verdict in zip((10, 100, 3600), hotplug("linux-6.7", 10, 100, 3600), strict=True):
        drift_ns = 49.868 * (life_s + 0.05)
        assert verdict.status == VIOLATED
        assert drift_ns - 4 < verdict.worst <= float(verdict.bound) < drift_ns + 4


def test_hotplug_steps_no_more_since_6_8():
    assert [v.status for v in hotplug("linux-6.8", 10, 3600)] == [HOLDS, HOLDS]


def test_the_smallest_story_is_no_longer_than_it_must_be():
    (verdict,) = check(Spec(recipe="by-value-restore", properties=("tsc-agrees",))).verdicts
    labels = [label for actor, label in verdict.short.schedule.steps if actor == "VMM"]
    assert labels.count("SetMsr") == 2


PERIODIC = """
about   = "The masterclock is taken anew every 300 s. How far does it step?"
kernels = ["linux-6.7+periodic-masterclock=300s", "linux-6.8"]
[host]
tsc_khz = 2_596_122
[vm]
vcpus = 1
[[step]]
vmm = "start"
[[step]]
wait = "320 s"
[[step]]
wait = "330 s"
"""


def test_the_periodic_masterclock_of_2023_steps_by_a_period_s_drift(tmp_path):
    (tmp_path / "periodic.toml").write_text(PERIODIC)
    found = targets(
        str(tmp_path / "periodic.toml"), properties=["kvmclock-never-back"], bounds=[("--max-delay", "1ms")]
    )
    periodic, without = [check(target.spec, stories=False).verdicts[0] for target in found]
    # The timer wheel makes 300 s of 300 to 316.4 s; 49.868 ns drift in each.
    assert periodic.status == VIOLATED
    assert 15_700 < periodic.worst <= float(periodic.bound) < 15_800
    assert (without.status, without.asked > 0) == (HOLDS, True)
