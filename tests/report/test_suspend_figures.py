"""The pictures of a host's sleep: what they are drawn from is the runs', and what they show is that."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from benchmarks import suspend_figures

from guestclock.checks.suspend.setting import TICK_NS
from guestclock.guest.suspend_time import NoHandler
from guestclock.report import suspend_clocks, suspend_run
from guestclock.report.suspend_run import DESIGNS, SuspendRun, gains_told

S, NS_PER_S, PS_PER_NS = 600 * 10**9, 10**9, 1000
LATE = 100
"""ns: multipliers are rounded, which is up to 0.1 ppm of the time awake, and three readings lose one each."""


@pytest.fixture(scope="module")
def runs() -> dict[tuple[str, str], SuspendRun]:
    return {(design, tsc): suspend_run.suspend_run(design, tsc) for design in DESIGNS for tsc in ("running", "reset")}


def awake_ns(run: SuspendRun, *, at_once: bool = False) -> int:
    """True time from the guest's last instruction to its first one after, or to the end, without the sleep."""
    lines = run.guest["kvmclock"]
    after = next(line[0][0] for line in lines if line[0][0] > run.sleep_ps[1])
    last = max(line[-1][0] for line in lines if line[-1][0] < run.sleep_ps[0])
    return ((after if at_once else run.end_ps) - last - (run.sleep_ps[1] - run.sleep_ps[0])) // PS_PER_NS


def near(**gains: int) -> Any:
    return {clock: pytest.approx(ns, abs=LATE) for clock, ns in gains.items()}


def all_three(ns: int) -> Any:
    return near(monotonic=ns, boottime=ns, kvmclock=ns)


def test_stock_counts_the_sleep_where_the_tsc_runs_on(runs: dict[tuple[str, str], SuspendRun]):
    run = runs["stock", "running"]
    for at_once in (True, False):
        gained = run.gained_ns(at_once=at_once)
        # A multiplier that is rounded down loses 0.05 ppm of a sleep, too.
        assert gained["kvmclock"] == pytest.approx(S + awake_ns(run, at_once=at_once), abs=2 * LATE)
        assert gained["monotonic"] == gained["boottime"] == pytest.approx(gained["kvmclock"], abs=S // 10**7)


def test_v3_hides_the_sleep_and_the_handler_gives_boottime_its_part(runs: dict[tuple[str, str], SuspendRun]):
    run = runs["v3", "running"]
    assert run.gained_ns(at_once=True) == all_three(awake_ns(run, at_once=True))
    awake = awake_ns(run)
    assert run.gained_ns() == near(monotonic=awake, boottime=S + awake, kvmclock=awake)


def test_v3_on_a_tsc_that_began_anew_steps_back_and_stands(runs: dict[tuple[str, str], SuspendRun]):
    run = runs["v3", "reset"]
    assert run.gained_ns(at_once=True) == near(
        monotonic=-TICK_NS, boottime=-TICK_NS, kvmclock=awake_ns(run, at_once=True)
    )
    (_, first), (_, last) = run.guest["monotonic"][1]
    assert first == last


def test_corrected_hides_the_whole_stop_and_gives_it_all_back(runs: dict[tuple[str, str], SuspendRun]):
    for tsc in ("running", "reset"):
        run = runs["corrected", tsc]
        at = {step.label: step.ps for step in run.steps}
        adjusted_to_entry = (at["VM entry"] - at["notifiers, POST"]) // PS_PER_NS
        assert run.gained_ns(at_once=True) == all_three(adjusted_to_entry)
        assert run.gained_ns()["boottime"] == pytest.approx(S + awake_ns(run), abs=LATE)


def test_the_hosts_monotonic_stands_while_it_sleeps(runs: dict[tuple[str, str], SuspendRun]):
    for run in runs.values():
        for clock, slept in (("monotonic", 0), ("boottime", S)):
            before, after = run.host[clock]
            assert (before[-1][0], after[0][0]) == run.sleep_ps
            assert after[0][1] - before[-1][1] == slept
            for line in (before, after):
                (t0, ns0), (t1, ns1) = line[0], line[-1]
                assert ns1 - ns0 == pytest.approx((t1 - t0) // PS_PER_NS, abs=LATE)


def test_lanes_tell_what_each_step_changed(runs: dict[tuple[str, str], SuspendRun]):
    steps = runs["v3", "running"].steps
    changed = {step.label for step in steps if step.needs and steps[step.needs[0]].label == "KVM_RUN goes on"}
    assert changed >= {"the request is served", "kvmclock −600.000 s", "TSC offset −600.000 s"}
    assert steps[-1].label == "takes the interrupt: BOOTTIME +600.000 s"
    assert all(n < at for at, step in enumerate(steps) for n in step.needs)


def test_another_run_is_told_as_it_was(monkeypatch: pytest.MonkeyPatch):
    """A sleep of another length, and a guest that does not listen."""
    told = [step.label for step in suspend_run.suspend_run("v3", slept_ns=130 * NS_PER_S).steps]
    assert "TSC offset −130.000 s" in told
    assert "takes the interrupt: BOOTTIME +130.000 s" in told
    monkeypatch.setitem(DESIGNS, "corrected", (DESIGNS["corrected"][0], NoHandler))
    deaf = suspend_run.suspend_run("corrected")
    assert deaf.gained_ns()["boottime"] == deaf.gained_ns()["monotonic"]


def test_gains_that_look_alike_are_told_together():
    told = gains_told({"monotonic": 1_000_000, "boottime": 600 * NS_PER_S, "kvmclock": 1_000_000})
    assert told.replace("\u00a0", " ") == "M, K +1.000 ms, B +600.000 s"


# ---- the pictures


def words(path: Path) -> list[str]:
    """An SVG's texts: they are drawn as shapes, and stand beside them."""
    return re.findall(r"<!-- (.*?) -->", path.read_text(), re.DOTALL)


def test_the_pages_pictures_are_what_the_command_draws(runs: dict[tuple[str, str], SuspendRun], tmp_path: Path):
    suspend_figures.main(tmp_path)
    drawn = {path.name: words(path) for path in tmp_path.iterdir()}
    assert drawn == {name: words(suspend_figures.OUT / name) for name in drawn}
    page = (suspend_figures.OUT / "suspend.md").read_text()
    assert all(f"]({name})" in page for name in drawn)
    clocks = " ".join(" ".join(drawn["suspend-clocks.svg"]).split())
    for run in runs.values():
        for at_once in (True, False):
            assert " ".join(gains_told(run.gained_ns(at_once=at_once)).split()) in clocks


@pytest.fixture(scope="module")
def clocks(runs: dict[tuple[str, str], SuspendRun]) -> Any:
    return suspend_clocks._figure({
        title: {name: runs[design, tsc] for tsc, name in suspend_figures.ROWS.items()}
        for design, title in suspend_figures.COLUMNS.items()
    })  # fmt: skip


def test_lines_are_where_the_clocks_are(runs: dict[tuple[str, str], SuspendRun], clocks: Any):
    """In each panel, across and down: the time awake and the sleep's width; the gain, above the break or below it."""
    room = suspend_clocks.Room(max(run.end_ps - run.begin_ps for run in runs.values()) // PS_PER_NS - S)
    assert room.apart_ns > room.awake_ns, "a gain below the break is drawn above it"
    shown = [(runs[design, tsc], "guest") for tsc in ("running", "reset") for design in DESIGNS]
    shown += [(runs[design, "running"], "host") for design in DESIGNS]
    for panel, (run, whose) in zip(clocks.axes, shown, strict=True):
        drawn = {(float(x), float(y)) for line in panel.get_lines() for x, y in line.get_xydata()}
        for lines in getattr(run, whose).values():
            for ps, ns in (point for line in lines for point in line):
                gain = ns - lines[0][0][1]
                x = (ps - run.begin_ps) / PS_PER_NS - (S - suspend_clocks.BAND_NS if ps >= run.sleep_ps[1] else 0)
                assert (x, gain - S + room.apart_ns if gain > 599 * NS_PER_S else gain) in drawn


def test_no_text_lies_on_another(clocks: Any):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    figure = clocks
    canvas = FigureCanvasAgg(figure)
    figure.set_dpi(150)
    canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    boxes = {text: text.get_window_extent() for text in texts}
    assert len(boxes) > 60
    lying = [(a.get_text(), b.get_text()) for a, b in combinations(boxes, 2) if boxes[a].overlaps(boxes[b])]
    assert not lying
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes.values())
