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


SUSPEND = "threads/2021-suspend"


@pytest.mark.parametrize(
    "case", ["sleep@25s@2893202kHz", "reset@300ms", "faster@1h@3000001kHz", "arm64@90min@24000kHz"]
)
def test_a_sleep_and_a_rate_of_ones_own_hold_where_the_listed_ones_do(case: str) -> None:
    of = thread(SUSPEND)
    held = check_case(of, "inhibitor", case)
    assert not held.never
    assert {v.status for v in held.verdicts if v.asked} == {HOLDS}


@pytest.mark.parametrize(("case", "seconds"), [("sleep@25s", 25), ("sleep@2h@3000001kHz", 7200)])
def test_stock_counts_as_long_a_sleep_as_was_named(case: str, seconds: int) -> None:
    worst = {v.property: v.worst for v in check_case(thread(SUSPEND), "stock", case).verdicts}
    assert worst["I6"] == pytest.approx(seconds * 10**9, abs=60_000_000)


def test_a_guest_whose_tsc_is_scaled_is_scaled_alike_on_a_host_of_another_rate() -> None:
    of = thread(SUSPEND)
    listed, own = of.find("v3", "faster"), of.find("v3", "faster@2000000kHz")
    assert listed is not None
    assert own is not None
    assert own.setting.khz * listed.setting.host_khz == pytest.approx(listed.setting.khz * 2_000_000, rel=1e-6)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("sleep@25", "'25' has no unit, expected a duration like '300 ms'; or a rate, as 2893202kHz"),
        ("sleep@-3s", "negative"),
        ("sleep@10kHz", "10 kHz: expected 500000 to 10000000 kHz"),
        ("arm64@2893202kHz", "2893202 kHz: expected 1000 to 1000000 kHz"),
        ("sleep@40d", "a sleep of 40d: expected 1 ms to 30 days"),
        ("slep@25s", "has no 'slep@25s'"),
    ],
)
def test_what_is_no_sleep_and_no_rate_is_told(case: str, said: str) -> None:
    with pytest.raises(UserError) as told:
        thread(SUSPEND).case("inhibitor", case)
    assert said in str(told.value)
