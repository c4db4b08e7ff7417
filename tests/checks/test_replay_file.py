"""A violation kept, read again, replayed; and files that are not what they should be."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from guestclock.checks import replay_file
from guestclock.checks.replay_file import PACKAGE
from guestclock.errors import UserError
from tests.report.violations import CASES, retold, violation


@pytest.mark.parametrize("name", CASES)
def test_a_file_says_what_was_kept_and_its_run_shows_the_same_value(name: str, tmp_path: Path) -> None:
    file = violation(name)
    replay_file.save(file, tmp_path / "out" / "x.json")
    again = replay_file.load(tmp_path / "out" / "x.json")
    assert again == file
    assert retold(again).value == again.value


def test_a_file_of_the_programs_own_is_kept_without_its_place(tmp_path: Path) -> None:
    own = PACKAGE / "corpus"
    recipe, kernel = own / "recipes" / "paused_only.py", own / "kernels" / "clear_pending_update.py"
    file = violation("pause")
    file = replace(file, spec=file.spec.but(recipe=str(recipe), kernel=f"{kernel}+exact5"))
    replay_file.save(file, tmp_path / "x.json")
    kept = json.loads((tmp_path / "x.json").read_text())["spec"]
    assert kept["recipe"] == "guestclock:corpus/recipes/paused_only.py"
    assert kept["kernel"] == "guestclock:corpus/kernels/clear_pending_update.py+exact5"
    assert str(PACKAGE) not in (tmp_path / "x.json").read_text()
    assert replay_file.load(tmp_path / "x.json") == file


def test_a_file_of_ones_own_is_kept_by_its_path(tmp_path: Path) -> None:
    file = violation("pause")
    file = replace(file, spec=file.spec.but(recipe=str(tmp_path / "mine.py")))
    replay_file.save(file, tmp_path / "x.json")
    assert replay_file.load(tmp_path / "x.json") == file


@pytest.mark.parametrize("name", ["corpus/recipes/nothing.py", "../../setup.py", "corpus"])
def test_a_file_that_the_program_does_not_have_is_told(name: str) -> None:
    document = changed()
    document["spec"] = {**document["spec"], "recipe": f"guestclock:{name}"}
    with pytest.raises(UserError, match="which this guestclock does not have"):
        replay_file.parse(document, "x.json")


def changed(**changes: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(asdict(violation("pause")))), **changes}


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ([], "no guestclock replay file"),
        ({"guestclock": "0.1"}, "'guestclock_replay' is missing"),
        ({"guestclock_replay": 2}, "replay file version 2, this program reads 1"),
        ({"guestclock_replay": 1}, "damaged: Object missing required field"),
    ],
)
def test_what_is_no_replay_file_is_told(document: Any, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        replay_file.parse(document, "x.json")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"value": "many"}, r"x.json: damaged: Expected `int`, got `str` - at `\$.value`"),
        ({"property": "nice"}, "property 'nice', which this guestclock does not have"),
        ({"unit": "miles"}, "unit 'miles', expected one of"),
        ({"steps": []}, "damaged: the schedule is empty"),
        ({"mood": 1}, "unknown key 'mood': written by another guestclock"),
    ],
)
def test_what_is_wrong_in_a_replay_file_is_told(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        replay_file.parse(changed(**changes), "x.json")


def test_a_run_that_goes_another_way_is_told() -> None:
    file = violation("pause")
    other = replace(file, spec=file.spec.but(recipe="by-value-restore"))
    with pytest.raises(UserError, match="this run goes another way than the file's"):
        retold(other)


def test_a_schedule_without_a_time_is_told() -> None:
    file = violation("pause")
    without = dict(list(file.values.items())[:-5])
    with pytest.raises(UserError):
        retold(replace(file, values=without))


def test_another_time_shows_another_value() -> None:
    """The value comes from the run, not from the file."""
    file = violation("pause")
    assert retold(replace(file, value=file.value + 1)).value == file.value
