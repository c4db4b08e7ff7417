"""Random runs with integers, which owe nothing to the explorer: none is worse than what it says."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from guestclock.checks.checker import OrderChecker
from guestclock.checks.freeze import clocks, faults
from guestclock.checks.freeze.cases import GATE, GOING_ON, HALTED, WRITTEN_V0_FIRST
from guestclock.checks.freeze.clock_questions import CLOCK_QUESTIONS
from guestclock.checks.freeze.clock_states import Move
from guestclock.checks.freeze.fault_states import BOUNDS, Faults
from guestclock.checks.freeze.protocol import Protocol
from tests.explore.integers import IntegerWorld, OutOfBounds

RUNS = 400


def steps_back(protocol: Protocol, move: Move, runs: int = RUNS) -> list[int]:
    """How far MONOTONIC stepped back in each run that came to its end, ns; negative: it went on."""
    found = []
    for seed in range(runs):
        try:
            outcome = IntegerWorld(clocks.build(protocol, move), move.bounds, Random(seed)).run()
        except OutOfBounds:
            continue
        if len(outcome.readings) == 2:
            found.append(outcome.readings[0].ns - outcome.readings[1].ns)
    assert len(found) > runs // 2
    return found


@pytest.mark.parametrize("readers", [("vdso", "vdso"), ("vdso", "nmi"), ("fast", "syscall")])
@pytest.mark.parametrize(("protocol", "continuous"), [(GATE, False), (HALTED, False), (GOING_ON, True)])
def test_no_random_run_of_a_corrected_design_steps_back(protocol: Protocol, continuous: bool, readers: tuple[str, str]):
    back = steps_back(protocol, Move(readers=readers, continuous=continuous))
    assert max(back) <= 0
    assert min(back) < -1_000_000  # time passes in them


def test_random_runs_as_written_step_back_by_no_more_than_was_proved():
    move = Move(life_ns=5_000_000, away_ns=1_000_000, delay_ns=2_000_000)  # so that readers often meet the gap
    checker = OrderChecker(clocks.build(WRITTEN_V0_FIRST, move), move.bounds, CLOCK_QUESTIONS[:1], "as written")
    checker.search.run(lambda run: checker.look(run, checker.search.trail()))
    proved = checker.tell.worst["never-back"].upper
    assert 1_500_000 < max(steps_back(WRITTEN_V0_FIRST, move, 1000)) <= proved


@pytest.mark.parametrize("what", [Faults(), Faults(target_dies=True), Faults(lost=("commit",)), Faults(twice=True)])
def test_no_random_run_with_faults_leaves_two_owners_or_none(what: Faults):
    reached: set[str] = set()
    ended = 0
    for seed in range(RUNS):
        try:
            outcome = IntegerWorld(faults.build(GATE, what), BOUNDS, Random(seed)).run()
        except OutOfBounds:
            continue
        ended += 1
        reached |= outcome.reached
        assert (outcome.executing, outcome.split, outcome.standstill, outcome.torn) == (1, 0, 0, 0), seed
    assert ended > RUNS // 2
    assert "goes on here" in reached
    assert "moved" in reached or what.target_dies  # it seldom lives that long


@pytest.mark.parametrize(
    "what", [Faults(source_dies=True), Faults(suspected=True), Faults(lost=("commit",), source_dies=True)]
)
def test_no_random_run_without_a_source_leaves_two_owners_or_none_of_an_image(what: Faults):
    reached: set[str] = set()
    for seed in range(RUNS):
        try:
            outcome = IntegerWorld(faults.build(GATE, what), BOUNDS, Random(seed)).run()
        except OutOfBounds:
            continue
        reached |= outcome.reached
        assert (outcome.executing, outcome.split, outcome.torn) == (outcome.owed, 0, 0), seed
        assert not outcome.standstill, seed
    assert {"taken over", "nothing to take over"} <= reached


def test_random_runs_without_a_fence_run_on_two_hosts_at_once():
    """The moment itself, and not only that two are left in the end."""
    ended = []
    for seed in range(RUNS):
        try:
            run = IntegerWorld(
                faults.build(replace(GATE, fences=False), Faults(gone=("running",))), BOUNDS, Random(seed)
            )
            ended.append(run.run())
        except OutOfBounds:
            continue
    assert any(outcome.split for outcome in ended)
    assert all(outcome.split or outcome.executing == 1 for outcome in ended)
