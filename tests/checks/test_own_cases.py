"""Cases of threads that somebody names, and nobody has listed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from guestclock.checks.protocol import check_case, thread
from guestclock.checks.protocol_replay import load, retold
from guestclock.checks.verdict import HOLDS, VIOLATED
from guestclock.cli import app
from guestclock.errors import UserError

FREEZE = "threads/2017-freeze"


@pytest.mark.parametrize(
    "pair", ["2893437-3100004", "999983-1200007", "3500000-2800001", "1844602-2014376", "807444-999253"]
)
def test_frequencies_that_nobody_listed_are_a_case(pair: str) -> None:
    of = thread(FREEZE)
    held = {v.property: v for v in check_case(of, "corrected-gate", pair).verdicts}
    assert {name for name, v in held.items() if v.status != HOLDS} == set()
    assert held["never-back"].bound == 0
    broken = {v.property for v in check_case(of, "as-written-v0-first", pair).verdicts if v.status == VIOLATED}
    assert "never-back" in broken


def test_what_breaks_in_it_has_a_replay_that_runs_again(tmp_path: Path) -> None:
    told = CliRunner().invoke(
        app, ["check", FREEZE, "--design", "as-written-v0-first", "--case", "2893437-3100004", "--out", str(tmp_path)]
    )
    assert told.exit_code == 1
    assert "one-owner" not in told.output, "a row of what was not asked"
    [path] = tmp_path.glob("*never-back*")
    file = load(path)
    assert retold(file, path.name).value == file.value > 0


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("20-3000000", "--case 20-3000000: 20 kHz: expected 100000 to 10000000 kHz"),
        ("2400000-99999999", "99999999 kHz: expected 100000 to 10000000 kHz"),
        ("2400000:2900000", "did you mean '2400000-2900000'"),
        ("fast-slow", "or two frequencies in kHz, as 2893437-3100004"),
    ],
)
def test_what_is_no_frequency_is_told(case: str, said: str) -> None:
    with pytest.raises(UserError, match=said.replace("?", r"\?")):
        thread(FREEZE).case("corrected-gate", case)
