"""What a run prints: on a page of 80 and 120 columns, piped, one run, several, a grid."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from guestclock.check import PROPERTIES
from guestclock.errors import UserError
from guestclock.report import save
from guestclock.report.json_ import document
from guestclock.report.show import columns, show
from guestclock.sim import Trace
from tests.check.hand import Hand, clean

S = 10**9


def hotplug(kernel: str, *, steps: bool, sandwich: int = 0, **meta: Any) -> Trace:
    hand = Hand(sandwich=sandwich)
    hand.trace.meta |= {"scenario": "by hand", "about": "Does kvmclock step?", "kernel": kernel, **meta}
    hand.snapshot()
    hand.look()
    hand.step("100 s pass")
    hand.wait(100 * S)
    hand.look()
    hand.step(
        "a vCPU is plugged in and all run, which is told in a sentence that is longer than one line of a terminal"
    )
    hand.new_vcpu()
    hand.snapshot() if steps else hand.snapshot(2, ahead_ns=4987)
    hand.look()
    return hand.trace


def varied(value: str, apart: int) -> Trace:
    hand = clean()
    hand.trace.meta |= {"scenario": "by hand", "variation": {"delay": value}}
    hand.step("the end")
    hand.offset[1] += apart
    hand.snapshot()
    hand.look()
    return hand.trace


def printed(*traces: Trace, width: int = 80, terminal: bool = True) -> str:
    out = io.StringIO()
    console = Console(
        file=out, width=width, force_terminal=terminal, highlight=False, color_system="truecolor" if terminal else None
    )
    show(console, columns(traces))
    return out.getvalue()


def plain(text: str) -> list[str]:
    import re

    return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("sandwich", [0, 20_000])
def test_nothing_is_wider_than_the_terminal(width: int, sandwich: int) -> None:
    one = hotplug("linux-6.7", steps=True, sandwich=sandwich)
    several = [hotplug(f"linux-6.{n}", steps=n == 7, sandwich=sandwich) for n in (7, 8, 12)]
    for text in (printed(one, width=width), printed(*several, width=width)):
        assert max(map(len, plain(text))) <= width


def test_one_run_is_told_step_by_step() -> None:
    lines = plain(printed(hotplug("linux-6.7", steps=True)))
    step = next(i for i, line in enumerate(lines) if line.startswith(" 2 a vCPU"))
    assert any("steps back 4 98" in line and line.startswith(" !") for line in lines[step:])
    assert any("kvmclock-never-back" in line and "step 2" in line for line in lines)
    assert any(line.startswith("   vcpu0-2  TSC") for line in lines)


def test_marks_are_words_not_colours_alone() -> None:
    trace = hotplug("linux-6.7", steps=True)
    assert plain(printed(trace)) == plain(printed(trace, terminal=True, width=80))
    piped = printed(trace, terminal=False, width=160)
    assert "\x1b" not in piped
    assert " ! vcpu0,1 kvmclock steps back" in piped


def test_piped_lines_are_never_folded() -> None:
    piped = printed(hotplug("linux-6.7", steps=True), terminal=False, width=80)
    assert any("a vCPU is plugged in" in line and "line of a terminal" in line for line in piped.splitlines())


def test_several_runs_stand_side_by_side_and_differ_where_they_differ() -> None:
    lines = plain(printed(hotplug("linux-6.7", steps=True), hotplug("linux-6.8", steps=False), width=120))
    head = next(line for line in lines if "model linux-6.7" in line and "model linux-6.8" in line)
    left = head.index("model linux-6.8")
    back = [line for line in lines if "steps back" in line]
    assert len(back) == 1
    assert back[0].index("steps back") < left
    assert any(line.startswith("No clock stepped back or jumped") for line in lines)


def test_a_clean_run_says_so() -> None:
    text = "\n".join(plain(printed(clean().trace)))
    assert "No clock stepped back or jumped, vCPUs agreed, flags told the truth (4 looks)." in text
    assert not any(p.name in text for p in PROPERTIES)


def test_what_could_not_be_judged_does_not_hold() -> None:
    trace = clean(vcpus=1).trace
    text = "\n".join(plain(printed(trace, width=160)))
    assert "No clock stepped back" not in text
    assert "nothing to judge     tsc-agrees, kvmclock-agrees, flags-honest" in text
    (run,) = document(columns([trace]))["runs"]
    assert run["properties"]["flags-honest"] == "nothing to judge"
    assert run["properties"]["tsc-runs"] == "holds"


def test_a_run_like_another_is_not_told_again() -> None:
    text = printed(*(hotplug(f"linux-6.{n}", steps=True) for n in (1, 7)))
    assert "all as on model linux-6.1" in text


def test_variations_are_a_grid() -> None:
    text = "\n".join(plain(printed(varied("0 s", 0), varied("1.1 s", 1_100_000_000))))
    assert "0=1" in text
    assert "0≠1 +1.100 s" in text


def test_a_grid_says_nothing_of_clocks_that_are_not_there() -> None:
    def bare(value: str) -> Trace:
        hand = Hand(vcpus=1)
        hand.trace.meta |= {"scenario": "by hand", "variation": {"delay": value}}
        hand.look()
        return hand.trace

    text = "\n".join(plain(printed(bare("0 s"), bare("1 s"), width=120)))
    assert "No vCPU has a kvmclock in any variation." in text
    assert "stepped" not in text
    assert "read the same" not in text


def test_a_grid_wider_than_the_page_goes_on_below() -> None:
    traces = [varied(f"{n} s", n * 10**9 + 1) for n in range(12)]
    lines = plain(printed(*traces, width=60))
    assert max(map(len, lines)) <= 60
    assert sum("+" in line and "0≠1" in line for line in lines) > 1
    assert all(any(f"{n} s" in line for line in lines) for n in range(12))


# ---- JSON


def test_json_has_what_the_tables_say() -> None:
    told = json.loads(json.dumps(document(columns([hotplug("linux-6.7", steps=True)]))))
    (run,) = told["runs"]
    assert run["meta"]["kernel"] == "linux-6.7"
    assert [s["step"] for s in run["steps"]] == [-1, 0, 1]
    last = run["steps"][-1]
    assert {r["vcpu"] for r in last["readings"]} == {0, 1, 2}
    back = [m for m in last["marks"] if m["name"] == "kvmclock-never-back"]
    assert [m["vcpus"] for m in back] == [[0], [1]]
    assert back[0]["amount"][0] == back[0]["amount"][1] < -4_980
    assert last["told"] == [line for line in last["told"] if line]


# ---- files


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_figure_of_each_kind(tmp_path: Path, suffix: str) -> None:
    place = tmp_path / f"clocks{suffix}"
    runs = columns([hotplug("linux-6.7", steps=True), hotplug("linux-6.8", steps=False)])
    assert save.save(runs, None, place) == [f"figure: {place}"]
    assert place.stat().st_size > 5_000


def test_the_same_runs_draw_the_same_svg(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        save.save(columns([hotplug("linux-6.7", steps=True)]), None, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_a_figure_says_its_steps_and_amounts() -> None:
    from matplotlib.text import Text

    from guestclock.report.figure import lines_figure

    figure = lines_figure(columns([hotplug("linux-6.7", steps=True), hotplug("linux-6.8", steps=False)]))
    texts = [text.get_text() for text in figure.findobj(Text)]
    for expected in ("kvmclock − true time", "100 s pass", "model linux-6.8", "vcpu2"):
        assert any(expected in text for text in texts), expected
    assert [text for text in texts if text.startswith("−4.98")] == ["−4.987 µs"]


def test_orders_of_magnitude_bend_the_axis(tmp_path: Path) -> None:
    import matplotlib

    hand = clean()
    hand.step()
    hand.snapshot(ahead_ns=-50)
    hand.look()
    hand.step()
    hand.snapshot(ahead_ns=5 * S)
    hand.look()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        save.save(columns([hand.trace]), None, tmp_path / "a.svg")
    assert "symlog" in (tmp_path / "a.svg").read_text()


def test_a_grid_of_many_runs_is_drawn_as_a_grid(tmp_path: Path) -> None:
    import matplotlib

    runs = columns([varied(f"{n} s", n * 10**8) for n in range(12)])
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        save.save(runs, None, tmp_path / "grid.svg")
    assert "0≠1 +1.100 s" in (tmp_path / "grid.svg").read_text()


def test_too_many_panels_are_refused_in_one_line(tmp_path: Path) -> None:
    runs = columns([hotplug(f"linux-{n}", steps=True) for n in range(9)])
    with pytest.raises(UserError, match="9 runs, at most 8"):
        save.save(runs, None, tmp_path / "a.png")


def test_traces_are_saved_as_they_can_be_read_again(tmp_path: Path) -> None:
    one = columns([hotplug("linux-6.7", steps=True)])
    two = columns([hotplug("linux-6.7", steps=True), hotplug("linux-6.8", steps=False)])
    save.save(one, tmp_path / "one.jsonl", None)
    save.save(two, tmp_path / "two.jsonl", None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.jsonl", "two-1-linux-6.7.jsonl", "two-2-linux-6.8.jsonl"]
    again = Trace.load((tmp_path / "one.jsonl").read_text().splitlines())
    assert document(columns([again])) == document(one)


@pytest.mark.parametrize(
    ("trace", "figure", "expected"),
    [
        (None, Path("x.txt"), r"--figure x.txt: expected a name that ends in .png, .svg, .pdf"),
        (Path("/"), None, r"--save-trace /: is a directory"),
        (Path("/dev/null/x"), None, r"--save-trace /dev/null/x: /dev/null is no directory"),
        (Path("a/x.svg"), Path("a/../a/x.svg"), r"--figure a/../a/x.svg: --save-trace writes there"),
    ],
)
def test_a_path_that_will_not_do_is_found_before_anything_runs(
    trace: Path | None, figure: Path | None, expected: str
) -> None:
    with pytest.raises(UserError, match=expected):
        save.check_paths(trace, figure)


def test_paths_that_will_do_make_nothing_yet(tmp_path: Path) -> None:
    save.check_paths(tmp_path / "a" / "b" / "t.jsonl", tmp_path / "c" / "f.svg")
    assert list(tmp_path.iterdir()) == []


def test_a_place_without_permission_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(UserError, match=rf"cannot be written: no permission for {tmp_path}$"):
        save.check_paths(tmp_path / "a" / "t.jsonl", None)
