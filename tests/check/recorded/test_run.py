"""A run's own trace is judged by the same code, from the model or from its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from guestclock.check.recorded import HOLDS, VIOLATED, judge_files, judge_rows, judge_run
from guestclock.errors import UserError
from guestclock.runs import run
from guestclock.scenario import load
from guestclock.sim import Trace
from guestclock.sim.trace import Event
from tests.check.recorded.test_invariants import flagged
from tests.check.recorded.test_source import told
from tests.check.recorded.world import whole


def ran(scenario: str, kernel: str) -> Trace:
    (trace,) = run(load(scenario), on=["model"], kernels=[kernel])
    return trace


def test_the_step_of_2023_is_found_in_a_run_of_the_model() -> None:
    """kvmclock of the vCPUs that were there is 4 986 ns ahead until they get the new snapshot."""
    judged = judge_run(ran("threads/2023-masterclock", "linux-6.7"))
    assert flagged(judged) == {2, 3}
    worst = judged.checks[2].worst
    assert worst is not None
    assert worst.about["clock"] == "KVMCLOCK"
    assert abs(worst.amount - 4_986) <= 2
    assert judge_run(ran("threads/2023-masterclock", "linux-6.8")).status == HOLDS


def test_a_stale_cntvoff_is_found_in_a_run_on_arm64() -> None:
    judged = judge_run(ran("bugs/arm64-stale-cntvoff", "linux-6.12-arm64"))
    assert flagged(judged) == {8}


def test_a_saved_run_is_read_as_a_file(tmp_path: Path) -> None:
    trace = ran("threads/2023-masterclock", "linux-6.7")
    path = tmp_path / "run.jsonl"
    with path.open("w") as out:
        trace.save(out)
    judged = judge_files([str(path)])
    assert judged.status == VIOLATED
    assert told(judged) == told(judge_run(trace))
    worst = judged.checks[1].worst
    assert worst is not None
    for place in worst.at:
        assert '"kvmclock_ns"' in path.read_text().splitlines()[int(place.rsplit(" ", 1)[1]) - 1]


def test_rows_that_a_run_notes_are_judged_as_they_stand() -> None:
    world = whole()
    notes = [Event("note", "row", 0, 0, None, row) for row in world.rows]
    trace = Trace({"on": "model", "recorded": {**world.header, "logs": ["inject", "set", "timer"]}}, notes)
    assert told(judge_run(trace)) == told(judge_rows(world.rows, world.header))


def test_a_run_with_an_unknown_header_key_is_refused() -> None:
    with pytest.raises(UserError, match="recorded: unknown key 'hz'"):
        judge_run(Trace({"recorded": {"hz": 5}}))
