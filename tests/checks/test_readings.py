"""Two judges of one run: the explorer's asks, and the checker of recorded traces, which knows nothing of the worlds.

Runs are random ones with integers, which owe nothing to the explorer either (tests.explore.integers).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from guestclock.check.recorded import HOLDS, VIOLATED, Judgement, judge_files, judge_rows
from guestclock.checks import protocol_replay
from guestclock.checks.freeze import clocks as freeze_clocks
from guestclock.checks.freeze.clock_states import Move
from guestclock.checks.freeze.readings import recorder as freeze_recorder
from guestclock.checks.freeze.thread import GATE
from guestclock.checks.protocol import Case, check_case, thread
from guestclock.checks.readings import Readings, of_replay, save
from guestclock.checks.suspend.readings import recorder as suspend_recorder
from guestclock.checks.suspend.setting import Setting
from guestclock.checks.suspend.thread import CORRECTED, case
from guestclock.errors import UserError
from guestclock.guest.freeze import CORRECTED as CORRECTED_GUEST
from guestclock.guest.suspend_time import HandlerCorrected
from tests.checks import toy_thread
from tests.explore.integers import IntegerWorld, OutOfBounds

SUSPEND, FREEZE = "threads/2021-suspend", "threads/2017-freeze"
RUNS = 4

EXCEPTED = {
    ("inhibitor", "uninformed"), ("inhibitor", "arm64-uninformed"), ("guest-first", "uninformed"),
    ("guest-first", "arm64-uninformed"), ("guest-first", "arm64-plugged"), ("detect", "idle"), ("detect", "arm64-idle"),
    ("inhibitor", "arm64-guest-asleep"), ("gate", "arm64-guest-asleep"),
}  # fmt: skip
"""Where a design that else keeps everything does not: nobody was asked, there is nothing that it could detect, or a new
vCPU sets the others' counters back. A guest of arm64's that slept itself injects twice for one sleep, and has to."""

WIDER: Mapping[tuple[str, str], str] = {
    ("I10", "reset"): "a TSC below 0 is 2^64 and less, and sched_clock leaps; the explorer asks it of MONOTONIC",
    ("I10", "stopped"): "the same",
    ("I21", "halted"): "the explorer asks whether too many were injected, the trace's checker also whether none was",
}
"""(invariant, case) in which the trace's checker asks more by that number than the explorer."""


BETWEEN = {("I6", "again"), ("I8", "again")}
"""A guest that does not come in between two sleeps: its clocks run there, and that is no part of either stop."""


def runs(of: Case, recorder: Any, count: int = RUNS) -> Iterator[Judgement]:
    ended = 0
    assert of.build is not None
    assert of.bounds is not None
    for seed in range(count):
        world = IntegerWorld(of.build, of.bounds, Random(seed))
        beside = recorder(world, world.made)
        try:
            world.run()
        except OutOfBounds:
            continue
        ended += 1
        readings = beside.readings()
        yield judge_rows(readings.rows, readings.header)
    assert ended, of.name


def flagged(judged: Judgement) -> dict[str, str]:
    return {check.label: check.worst.said for check in judged.of(VIOLATED) if check.worst is not None}


# ---- designs that keep everything


@pytest.mark.parametrize("design", ["corrected", "gate", "inhibitor", "detect", "guest-first"])
def test_a_trace_of_a_design_that_keeps_everything_has_nothing_that_the_explorer_was_asked_about(design: str) -> None:
    about = thread(SUSPEND)
    for of in about.design(design).cases():
        asked = {question.name for question in about.asked(of)}
        for judged in runs(of, suspend_recorder):
            wrong = {label: said for label, said in flagged(judged).items() if label in asked or not of.invariants}
            wrong = {label: said for label, said in wrong.items() if (label, of.name) not in BETWEEN}
            assert (not wrong) == ((design, of.name) not in EXCEPTED), (of.name, wrong)


def test_a_vcpu_that_is_plugged_in_may_read_a_stale_boottime_until_one_that_is_told_runs() -> None:
    """What the second judge found: the interrupt goes to the vCPUs that were there, and the new one enters first."""
    found = [flagged(judged) for judged in runs(thread(SUSPEND).case("inhibitor", "plugged"), suspend_recorder, 60)]
    assert {label for one in found for label in one} == {"I13"}


def test_most_invariants_are_judged() -> None:
    judged = {
        check.number
        for name in ("sleep", "rtc", "abort", "plugged")
        for one in runs(thread(SUSPEND).case("corrected", name), suspend_recorder, 2)
        for check in one.of(HOLDS)
    }
    assert judged == set(range(1, 25)) - {15, 19}, "no freeze, no vmclock; I25 is the freeze's"


# ---- designs that do not


@pytest.mark.parametrize("design", ["stock", "v1", "v2", "v3", "sysfs"])
@pytest.mark.parametrize("case_", ["sleep", "reset", "kvm-clock", "idle", "abort", "halted", "guest-asleep"])
def test_what_the_explorer_proved_to_hold_is_never_flagged(design: str, case_: str) -> None:
    about = thread(SUSPEND)
    if case_ not in {each.name for each in about.design(design).cases()}:
        return
    holds = {v.property for v in check_case(about, design, case_, budget_s=20).verdicts if v.status == HOLDS}
    holds -= {label for label, of in WIDER if of == case_}
    for judged in runs(about.case(design, case_), suspend_recorder, 3):
        assert not {label: said for label, said in flagged(judged).items() if label in holds}


@pytest.mark.parametrize(
    ("thread_", "design", "case_", "property_", "labels"),
    [
        (SUSPEND, "v3", "reset", "I1", {"I1", "I6", "I8", "I9"}),
        (SUSPEND, "v3", "sleep", "I6", {"I6", "I8"}),
        (SUSPEND, "v3", "rtc", "I7", {"I6", "I8"}),
        (SUSPEND, "v3", "plugged", "I22", {"I22", "I2"}),
        (SUSPEND, "v3", "moved", "I11", {"I14", "I20"}),
        (SUSPEND, "v3", "guest-asleep", "I21", {"I21", "I20"}),
        (SUSPEND, "v2", "sleep", "I16", {"I16", "I18"}),
        (SUSPEND, "v1", "sleep", "I9", {"I9"}),
        (SUSPEND, "stock", "sleep", "I6", {"I6", "I10"}),
        (SUSPEND, "stock", "reset", "I20", {"I14", "I20"}),
        (SUSPEND, "stock", "idle", "I10", {"I10"}),
        (SUSPEND, "inhibitor", "uninformed", "I10", {"I6", "I10", "I24"}),
        (FREEZE, "as-written", "2400000-2900000", "never-back", {"I1", "I2"}),
        (FREEZE, "as-written", "2400000-2900000", "getters-blocked", {"I15"}),
        (FREEZE, "as-written-v0-first", "2400000-2900000", "never-back", {"I1", "I6"}),
        (FREEZE, "factors-alone", "2400000-2900000", "never-back", {"I1"}),
        (FREEZE, "ungated", "nmi-then-vdso", "none-while-moved", {"I15"}),
        (FREEZE, "no-fence", "commit-lost", "one-owner", {"I25"}),
        (FREEZE, "no-token", "loaded-lost", "one-owner", {"I25"}),
    ],
)  # fmt: skip
def test_the_trace_of_a_violations_replay_is_flagged(
    thread_: str, design: str, case_: str, property_: str, labels: set[str]
) -> None:
    assert labels <= set(flagged(of_violation(thread_, design, case_, property_)))


def of_violation(thread_: str, design: str, case_: str, property_: str) -> Judgement:
    result = check_case(thread(thread_), design, case_, properties=[property_], budget_s=60)
    (verdict,) = result.verdicts
    assert verdict.status == VIOLATED, verdict.why
    file = protocol_replay.of(thread_, result, verdict)
    assert file is not None
    readings = of_replay(file, "a replay")
    return judge_rows(readings.rows, readings.header)


def test_read_more_densely_a_run_steps_back_no_less_than_the_explorer_showed_and_no_more_than_it_proved() -> None:
    result = check_case(thread(FREEZE), "as-written", "2400000-2900000", properties=["never-back"])
    (verdict,) = result.verdicts
    file = protocol_replay.of(FREEZE, result, verdict)
    assert file is not None
    readings = of_replay(file, "a replay")
    (worst,) = [check.worst for check in judge_rows(readings.rows, readings.header).checks if check.number == 1]
    assert worst is not None
    assert verdict.worst is not None
    assert verdict.bound is not None
    assert verdict.worst <= worst.amount <= verdict.bound


# ---- timers


class NobodyTold(HandlerCorrected):
    """Timers hear of nothing."""

    @staticmethod
    def interrupt(guest: Any, cycles: int) -> None:
        bases = guest.wall_bases, guest.boot_bases
        HandlerCorrected.interrupt(guest, cycles)
        guest.wall_bases, guest.boot_bases = bases


def timers(design: str) -> list[str]:
    """What I9 says of a run of the plain sleep."""
    return [flagged(judged).get("I9", "") for judged in runs(thread(SUSPEND).case(design, "sleep"), suspend_recorder)]


@pytest.mark.parametrize("design", ["v1", "v2", "v3", "sysfs"])
def test_a_boottime_timer_that_came_due_in_the_sleep_waits_for_something_else_to_happen(design: str) -> None:
    assert timers(design) == ["timer boot-asleep on BOOTTIME does not expire"] * RUNS


@pytest.mark.parametrize("design", ["stock", "corrected", "inhibitor", "gate", "guest-first"])
def test_where_all_timers_are_told_none_is_late_or_early_or_fires_twice(design: str) -> None:
    assert timers(design) == [""] * RUNS


def test_a_guest_that_tells_no_timer_is_flagged_by_those_of_the_wall_clock_too() -> None:
    broken = case("x", "", Setting(kernel=CORRECTED, handler=NobodyTold, vcpus=1))
    for judged in runs(broken, suspend_recorder):
        check = judged.checks[8]
        assert check.violations >= 2
        assert check.first is not None
        assert "does not expire" in check.first.said


# ---- the freeze


@pytest.mark.parametrize("design", ["corrected-gate", "corrected-going-on", "corrected-halted"])
def test_a_trace_of_a_corrected_freeze_has_nothing(design: str) -> None:
    of = thread(FREEZE)
    for each in of.design(design).cases():
        if each.build is None or each.name.startswith(("l1-", "one-", "three-", "l2s-")):
            continue
        for judged in runs(each, lambda w, o: freeze_recorder(w, o) or _NoClocks(), 2):
            assert not flagged(judged), each.name


class _NoClocks:
    """A world of guests in guests."""

    def readings(self) -> Readings:
        return Readings({}, [{"clock": "MONOTONIC", "value": 0}])


def test_the_freezes_own_invariants_are_judged() -> None:
    moved = thread(FREEZE).case("corrected-gate", "2596122-2596122")
    lost = thread(FREEZE).case("corrected-gate", "commit-lost")
    clocks = {check.number for judged in runs(moved, freeze_recorder) for check in judged.of(HOLDS)}
    assert {1, 2, 3, 4, 8, 13, 15, 16, 18, 20, 25} <= clocks
    assert {16, 25} == {check.number for judged in runs(lost, freeze_recorder) for check in judged.of(HOLDS)}


def test_a_frequency_that_is_kept_over_a_move_is_an_ntp_state_that_is_not_the_clocks() -> None:
    keeps = replace(GATE, rules=replace(CORRECTED_GUEST, keeps_frequency=True))
    cleared = replace(GATE, rules=replace(CORRECTED_GUEST, ntp_at_freeze=True))
    question = next(q for q in thread(FREEZE).invariants if q.name == "ntp-state")
    for protocol, move, bad in (
        (GATE, Move(), 0), (GATE, Move(status="same-host", target_khz=2_400_000), 0),
        (keeps, Move(), 1), (cleared, Move(status="same-host", target_khz=2_400_000), 1),
    ):  # fmt: skip
        outcome = IntegerWorld(freeze_clocks.build(protocol, move), move.bounds, Random(1)).run()
        assert [ask.value(lambda _: 0) for ask in question.asks(outcome)] == [bad]


# ---- files


def test_a_trace_is_the_same_file_each_time_and_is_read_again(tmp_path: Path) -> None:
    result = check_case(thread(SUSPEND), "v3", "reset", properties=["I1"])
    file = protocol_replay.of(SUSPEND, result, result.verdicts[0])
    assert file is not None
    paths = [tmp_path / name for name in ("one.csv.gz", "two.csv.gz", "plain.csv")]
    for path in paths:
        save(of_replay(file, "a replay"), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    readings = of_replay(file, "a replay")
    by_rows = flagged(judge_rows(readings.rows, readings.header))
    assert {"I1", "I6", "I8"} <= set(by_rows)
    for path in paths:
        assert flagged(judge_files([str(path)])) == by_rows
    with pytest.raises(UserError, match="No such file"):
        save(readings, tmp_path / "nowhere" / "x.csv")


def test_a_thread_without_clocks_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from guestclock.checks import protocol

    monkeypatch.setitem(protocol.THREADS, toy_thread.THREAD.name, "tests.checks.toy_thread")
    result = check_case(thread(toy_thread.THREAD.name), "unlocked", "race")
    verdict = next(v for v in result.verdicts if v.status == VIOLATED)
    file = protocol_replay.of(toy_thread.THREAD.name, result, verdict)
    assert file is not None
    with pytest.raises(UserError, match="has no clocks to read"):
        of_replay(file, "a replay")
