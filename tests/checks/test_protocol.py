"""The base of threads with several designs: verdicts of cases, the table, replay files, what a user sees."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from guestclock.checks import protocol, protocol_replay
from guestclock.checks.protocol import check_case, table
from guestclock.checks.verdict import HOLDS, UNDECIDED, VACUOUS, VIOLATED, Verdict
from guestclock.cli import app
from guestclock.errors import UserError
from guestclock.report import protocol as report
from tests.checks import toy_thread

NAME = toy_thread.THREAD.name


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(protocol.THREADS, NAME, "tests.checks.toy_thread")


def verdicts(design: str, case: str) -> dict[str, Any]:
    return {v.property: v for v in check_case(protocol.thread(NAME), design, case).verdicts}


def test_a_lock_makes_the_latest_stamp_stay_and_without_it_an_older_one_may() -> None:
    assert verdicts("locked", "race")["older"].status == HOLDS
    unlocked = verdicts("unlocked", "race")["older"]
    assert (unlocked.status, unlocked.worst) == (VIOLATED, 300)


def test_what_holds_where_nothing_happened_is_undecided() -> None:
    alone = verdicts("locked", "alone")["older"]
    assert (alone.status, alone.why) == (UNDECIDED, "in no order: written twice")


def test_what_is_never_asked_does_not_hold() -> None:
    assert verdicts("locked", "race")["nothing"].status == VACUOUS


def test_listed_runs_say_that_they_are_listed() -> None:
    assert verdicts("locked", "runs")["older"].why == protocol.LISTED
    assert verdicts("unlocked", "runs")["older"].worst == 3


def test_a_cell_is_the_worst_of_all_cases() -> None:
    thread = protocol.thread(NAME)
    results = [check_case(thread, d, c) for d in ("locked", "unlocked") for c in ("race", "alone", "runs")]
    rows = table(thread, results)
    assert (rows["locked"]["older"].status, rows["locked"]["older"].case) == (UNDECIDED, "alone")
    assert (rows["unlocked"]["older"].status, rows["unlocked"]["older"].case) == (VIOLATED, "race")
    assert rows["locked"]["nothing"].status == VACUOUS
    assert protocol.exit_status(results) == 1


def test_cells_of_counters_with_different_rates_are_compared_in_time() -> None:
    """Two hosts: 6 s of a slow counter are more than 2 s of a fast one, though they are fewer cycles."""
    thread = protocol.thread(NAME)

    def result(case: str, cycles: int, unit: str, khz: int) -> protocol.CaseResult:
        verdict = Verdict("older", VIOLATED, unit, "back", "", cycles, Fraction(cycles), Fraction(0), 1)
        return protocol.CaseResult("locked", case, [verdict], khz=khz)

    fast, slow = result("fast", 2 * 10**9, "cycles", 10**6), result("slow", 6 * 10**7, "ticks", 10**4)
    for results in ([fast, slow], [slow, fast]):
        assert table(thread, results)["locked"]["older"].case == "slow"
        shown = "\n".join(text for text, _ in report.lines(thread, results, {}, 200))
        assert "60 000 000 ticks (6.000 s) back" in shown
        assert "2 000 000 000 cycles (2.000 s) back" in shown


def test_a_replay_shows_the_value_again_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    thread = protocol.thread(NAME)
    result = check_case(thread, "unlocked", "race")
    verdict = next(v for v in result.verdicts if v.status == VIOLATED)
    file = protocol_replay.of(NAME, result, verdict)
    assert file is not None
    path = tmp_path / "older.json"
    protocol_replay.save(file, path)
    assert protocol_replay.retold(protocol_replay.load(path), str(path)).value == verdict.worst
    told = json.loads(path.read_text())
    for change, words in (
        ({"guestclock_protocol_replay": 9}, "this program reads 1"),
        ({"steps": []}, "the schedule is empty"),
        ({"design": "unlockd"}, "did you mean 'unlocked'"),
        ({"steps": [*told["steps"][:-1], ["writer 9", "start"]]}, "goes another way"),
        ({"value": "much"}, "damaged"),
    ):
        path.write_text(json.dumps({**told, **change}))
        with pytest.raises(UserError, match=words):
            protocol_replay.retold(protocol_replay.load(path), str(path))


def test_the_command_prints_a_table_and_writes_replays(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["check", NAME, "--out", str(tmp_path), "--case", "race"])
    assert done.exit_code == 1, done.output
    assert "locked  unlocked" in done.output
    assert "300 ns older: what is left" in done.output
    (path,) = tmp_path.iterdir()
    again = CliRunner().invoke(app, ["replay", str(path)])
    assert (again.exit_code, "as recorded" in again.output) == (0, True), again.output
    held = CliRunner().invoke(app, ["check", NAME, "--out", str(tmp_path), "--case", "race", "--design", "locked"])
    assert held.exit_code == 0, held.output
    listed = json.loads(CliRunner().invoke(app, ["check", NAME, "--json", "--out", str(tmp_path)]).output)
    assert {(c["design"], c["case"]) for c in listed["cases"]} == {
        (d, c) for d in ("locked", "unlocked") for c in ("race", "alone", "runs")
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--design", "lock"], "did you mean 'locked'"),
        (["--case", "rase"], "did you mean 'race'"),
        (["--property", "old"], "did you mean 'older'"),
        (["--kernel", "linux-6.12"], "--kernel: is a recipe's"),
        (["--max-delay", "5s"], "--max-delay: is a recipe's"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["check", NAME, *arguments])
    assert isinstance(done.exception, UserError), done.output
    assert words in str(done.exception)


def test_designs_and_cases_are_a_threads() -> None:
    done = CliRunner().invoke(app, ["check", "firecracker-restore", "--design", "locked"])
    assert done.exit_code == 2
    assert "are a thread's" in done.output


def test_two_processes_say_the_same_as_one(tmp_path: Path) -> None:
    thread = protocol.thread(NAME)
    what = report.chosen(thread, (), ())
    told = [
        [(r.design, r.case, [(v.property, v.status, v.worst) for v in r.verdicts]) for r in done]
        for done, _ in (report.run(thread, what, (), tmp_path, lambda line: None, jobs=jobs) for jobs in (1, 2))
    ]
    assert told[0] == told[1]
