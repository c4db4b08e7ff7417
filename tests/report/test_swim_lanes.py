"""Swim lanes: the steps of a run, who needed whom, and a picture of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from guestclock.checks import protocol_replay
from guestclock.checks.freeze.thread import THREAD
from guestclock.checks.protocol import check_case
from guestclock.cli import app
from guestclock.errors import UserError
from guestclock.explore.replay import Schedule
from guestclock.report.swim_lanes import LaneStep, draw, lane_steps, usual


@pytest.fixture(scope="module")
def lanes() -> list[LaneStep]:
    case = THREAD.case("corrected-gate", "interrupt-lost")
    return lane_steps(case, usual(case, "moved"))


def test_each_step_names_whom_it_needed(lanes: list[LaneStep]):
    needed = {step.label: [lanes[n].label for n in step.needs] for step in lanes}
    assert needed["3 takes the interrupt"] == ["5 has waited for the guest"]  # where it was injected once more
    assert needed["6 loads the image"] == ["6 sends the image"]
    assert needed["6 has the token"] == ["6 hands the token over"]
    assert needed["9 reconfigures"] == []  # what it needs, the step before needed already
    assert all(n < at for at, step in enumerate(lanes) for n in step.needs)


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_it_is_drawn(lanes: list[LaneStep], tmp_path: Path, suffix: str):
    path = tmp_path / f"lanes.{suffix}"
    draw(lanes, "a title", path)
    assert path.stat().st_size > 5_000


def test_an_svg_of_the_same_run_is_the_same_file(lanes: list[LaneStep], tmp_path: Path):
    one, two = tmp_path / "1.svg", tmp_path / "2.svg"
    draw(lanes, "a title", one)
    draw(lanes, "a title", two)
    assert one.read_bytes() == two.read_bytes()


def test_a_violation_of_a_threads_is_drawn_with_what_its_readers_saw(tmp_path: Path):
    result = check_case(THREAD, "as-written-v0-first", "2400000-2900000")
    verdict = next(v for v in result.verdicts if v.property == "never-back")
    file = protocol_replay.of(THREAD.name, result, verdict)
    assert file is not None
    path, picture = tmp_path / "back.json", tmp_path / "back.svg"
    protocol_replay.save(file, path)
    done = CliRunner().invoke(app, ["replay", str(path), "--figure", str(picture)])
    assert done.exit_code == 0, done.output
    assert picture.stat().st_size > 5_000
    steps = lane_steps(THREAD.case(file.design, file.case), Schedule(file.steps, dict(file.values)))
    reads = [step.label for step in steps if step.label.startswith("vdso reads")]
    first, second = (int(label.split()[-2].replace(".", "")) for label in reads)
    assert first - second == 1_010_998


def test_what_is_no_picture_is_refused(lanes: list[LaneStep], tmp_path: Path):
    with pytest.raises(UserError, match="expected a name that ends in"):
        draw(lanes, "", tmp_path / "lanes.txt")
