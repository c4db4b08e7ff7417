"""threads/2017-freeze: what is wrong with each design, by how much, and that nothing is with the corrected ones."""

from __future__ import annotations

import pytest

from guestclock.checks.freeze.cases import FAMILIES, MUST, PAIRS, SINGLE_FAULTS
from guestclock.checks.freeze.thread import THREAD
from guestclock.checks.protocol import LISTED, check_case, thread
from guestclock.checks.verdict import HOLDS, VIOLATED

BROKEN = {
    "no-closing": {"never-back", "getters-blocked", "counts-what-ran", "counts-downtime"},
    "own-stop": {"never-back", "getters-blocked", "counts-what-ran", "counts-downtime"},
    "no-drain": {"never-back", "one-epoch", "none-while-moved", "counts-downtime"},
    "ungated": {"never-back", "one-epoch", "none-while-moved", "counts-downtime"},
    "all-at-once": {"never-back", "one-epoch", "counts-downtime"},
    "factors-alone": {"never-back", "getters-blocked", "counts-what-ran", "counts-downtime"},
    "stale-downtime": {"counts-downtime"},
    "halted-vdso-open": {"never-back"},
    "cntfrq-untold": {"counts-what-ran", "counts-downtime"},
    "sched-clock-left": {"sched-clock"},
    "sched-clock-left-going-on": {"sched-clock"},
    "sched-clock-outside": {"sched-clock"},
    "offsets-apart": {"counts-what-ran", "counts-downtime"},
    "no-fence": {"one-owner"},
    "no-token": {"one-owner"},
    "copied-early": {"image-kept"},
    "suspected-unfenced": {"one-owner"},
    "image-left": {"one-owner", "goes-on"},
    "gate-for-ever": {"gate-bounded"},
    "nmi-passes": {"gate-bounded", "nmi-after-thaw"},
    "generation-plus-one": {"generations-differ"},
    "generation-late": {"generations-differ"},
    "late-exit-ignored": {"goes-on"},
    "freezes-twice": {"goes-on"},
    "deadlines-move": {"timers"},
    "no-time-outs": {"one-owner", "goes-on", "answered"},
    "stops-first": {"goes-on", "answered"},
    "downtime-by-monotonic": {"counts-downtime"},
    "reset-unadmitted": {"counts-downtime"},
    "outer-first": {"last-in-first-out"},
    "outer-first-clocks": {"one-epoch", "none-while-moved", "counts-downtime"},
    "l0-downtime": {"counts-downtime"},
    "two-looks": {"counts-downtime"},
    "frozen-forgotten": {"goes-on"},
    "impatient": {"patient"},
    "l2-unscaled": {"never-back", "one-epoch", "counts-downtime"},
    "l2-scaled-late": {"never-back", "one-epoch", "counts-downtime"},
    "l2-placed-by-32-bits": {"never-back", "counts-downtime"},
    "l0-forgets-its-ratio": {"counts-downtime", "handed-down"},
    "emulation-ends-first": {"never-back", "one-epoch"},
}
"""Each negative control, and exactly what it breaks."""

KEPT = [
    ("corrected-gate", "2400000-1920000"),
    ("corrected-gate", "2596122-2336507"),
    ("corrected-gate", "nmi-then-vdso"),
    ("corrected-gate", "aborted-stop"),
    ("corrected-gate", "a-tick-faster"),
    ("corrected-halted", "a-tick-slower"),
    ("corrected-going-on", "2000003-2500001"),
    ("corrected-halted", "vdso-then-nmi"),
    ("corrected-halted", "downtime-runs"),
    ("corrected-gate", "arm64-62500-25000"),
    ("corrected-going-on", "arm64-24000-1000000"),
    ("corrected-halted", "arm64-62500-25000"),
    ("corrected-gate", "sched-clock"),
    ("corrected-gate", "sched-clock-aborted"),
    ("corrected-going-on", "sched-clock-slower"),
    ("corrected-gate", "interrupt-lost"),
    ("corrected-gate", "loaded-lost"),
    ("corrected-gate", "commit-always-lost"),
    ("corrected-gate", "exit-always-lost"),
    ("corrected-gate", "source-dies"),
    ("corrected-gate", "source-suspected"),
    ("corrected-gate", "commit-lost-source-dies"),
    ("corrected-gate", "image-lost-source-dies"),
    ("corrected-gate", "nmi-needed"),
    ("corrected-gate", "nmi-needed-commit-always-lost"),
    ("corrected-gate", "restored-twice"),
    ("corrected-gate", "restored-twice-one-dies"),
    ("corrected-gate", "aborted-reset-run"),
    ("corrected-gate", "l2-to-another-l1"),
    ("corrected-gate", "l2-to-a-host-asleep"),
    ("corrected-gate", "l2-handed-down-asleep"),
    ("corrected-gate", "l2-unaware"),
    ("corrected-gate", "l2-unaware-32-bits"),
    ("corrected-gate", "l2-unaware-asleep"),
    ("corrected-gate", "l2-unaware-trapped"),
    ("old-rate-emulated", "2400000-2900000-any-tsc"),
    ("old-rate-emulated", "2400000-2100000-going-on"),
    ("corrected-gate", "l1-with-l2-slower"),
    ("corrected-gate", "l1-with-l2-asleep"),
    *(("corrected-gate", name) for name in FAMILIES),
]


def worst(design: str, case: str) -> dict[str, int]:
    """What is violated, and by how much at worst."""
    result = check_case(THREAD, design, case)
    assert result.complete
    for verdict in result.verdicts:
        assert verdict.status != VIOLATED or verdict.confirmed is not None or verdict.why == LISTED
    return {v.property: v.worst or 0 for v in result.verdicts if v.status == VIOLATED}


def test_the_thread_is_found_by_its_name():
    assert thread("threads/2017-freeze") is THREAD


@pytest.mark.parametrize("name", [design.name for design in THREAD.designs if design.broken])
def test_a_corrected_design_with_one_line_broken_is_flagged(name: str):
    (case,) = THREAD.design(name).cases()
    assert set(worst(name, case.name)) == BROKEN[name]


@pytest.mark.parametrize(("design", "case"), KEPT)
def test_a_corrected_design_keeps_everything(design: str, case: str):
    result = check_case(THREAD, design, case)
    assert result.never == ()
    assert {v.status for v in result.verdicts if v.asked} == {HOLDS}
    assert sum(v.asked > 0 for v in result.verdicts) >= min(2, len(result.verdicts))
    if "tick" in case or (case[0].isdigit() and design.startswith("corrected")):
        never_back = next(v for v in result.verdicts if v.property == "never-back")
        assert never_back.bound == 0, "MONOTONIC is continuous to the nanosecond"


def test_every_branch_of_the_failure_table_is_asked_of_the_corrected_design():
    names = {case.name for case in THREAD.design("corrected-gate").cases()}
    assert set(SINGLE_FAULTS) <= names
    assert set(MUST) <= names
    assert min(t / s for s, t in PAIRS) == pytest.approx(0.8)
    assert max(t / s for s, t in PAIRS) == pytest.approx(1.25)


def test_as_written_it_steps_back_by_the_time_from_freeze_to_stop():
    """10 us to the exit, 1 ms until the VMM stops V1, 1 us of a section; rounded down twice."""
    assert worst("as-written-v0-first", "2400000-2900000") == {
        "never-back": 1_010_998, "getters-blocked": 1, "counts-what-ran": 1_012_000, "counts-downtime": 2_023_000,
        "ntp-state": 1,
    }  # fmt: skip


def test_as_written_a_pending_nmi_reads_the_new_counter_by_the_old_factors():
    found = worst("as-written-v0-first", "nmi-then-vdso")
    assert found["never-back"] > 10**15  # any TSC, of up to 87 days
    assert found["one-epoch"] == found["none-while-moved"] == 1


def test_as_written_a_target_that_dies_leaves_nobody():
    found = worst("as-written", "target-dies")
    assert (found["one-owner"], found["goes-on"], found["timers"]) == (1, 1, 1)


def test_a_clock_snapshot_steps_back_where_l1_comes_late():
    """4 ms of a tick and more at 2.9 instead of 2.4 GHz; and what the counter counted while L1's clock stood still."""
    faster, slower = (worst("clock-snapshot", f"2400000-{khz}-going-on") for khz in (2_900_000, 2_100_000))
    assert (faster["never-back"], slower["never-back"]) == (2_459_540, 875_875)


def test_a_scaled_l1_cannot_place_its_l2_by_32_bits():
    """2^22 cycles at a host TSC of 2^54 and 2.4 GHz are 1.7 ms; 48 bits are off by 64 cycles."""
    assert worst("l2-placed-by-32-bits", "l2-unaware-l1-scaled") == {
        "never-back": 1_698_416,
        "counts-downtime": 1_699_416,
    }


def test_a_sched_clock_that_is_left_runs_wrong_by_the_ratio():
    """Up to 9 s at 2.9 GHz by the factors of 2.4: where the counter goes on, nothing steps."""
    assert worst("sched-clock-left-going-on", "sched-clock") == {"sched-clock": 1_874_999_784}
