"""A scenario before three judges, with the model in the kernel's place: they agree; whoever is altered is told."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from guestclock.check import Span
from guestclock.checks.verdict import VIOLATED, Result
from guestclock.compare import session
from guestclock.compare.aligned import HostCounter
from guestclock.errors import UserError
from guestclock.judges import scenario as judges
from guestclock.judges.scenario import Judged, defaults, in_true_time, judge_scenario
from guestclock.judges.window import WINDOW
from guestclock.report import agree as report
from guestclock.scenario import load, parse
from guestclock.sim import Event, Trace
from tests.judges.model_lab import TSC_KHZ, played_by

S = 10**9
HOTPLUG = "threads/2023-masterclock"
KERNEL = HostCounter(0, TSC_KHZ * 1000, 10**9)


@pytest.fixture(autouse=True)
def counter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's host counts what its kernel believes, unlike a lab's."""
    monkeypatch.setattr(session, "LAB_TSC_HZ", TSC_KHZ * 1000)


def judged(monkeypatch: pytest.MonkeyPatch, name: str, kernel: str, real: str = "", change: Any = None) -> Judged:
    """The first variation. real: the profile that plays the kernel; change: what each of its events becomes."""
    play = played_by(real or f"linux-{kernel}")

    def run_lab(variations: Any, *rest: Any) -> list[Trace]:
        return [_altered(trace, change) for trace in play(variations, *rest)] if change else play(variations, *rest)

    monkeypatch.setattr(judges, "run_lab", run_lab)
    return next(iter(judge_scenario(load(name), kernel)))


def _altered(trace: Trace, change: Any) -> Trace:
    other = Trace(dict(trace.meta))
    for event in trace.events:
        other.emit(change(event))
    return other


def test_all_three_agree_on_a_step_and_on_what_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged(monkeypatch, HOTPLUG, "6.1")
    assert found.agree
    (row,) = [row for row in found.rows if row.property == "kvmclock-never-back"]
    assert row.kernel is not None
    assert row.model is not None
    assert row.kernel.meets(Span(-4990, -4980))
    assert row.model.meets(row.kernel)
    assert row.bound is not None
    assert 4980 < row.bound < 5000
    assert "tsc-never-back" in found.holds
    assert not any(name.endswith("-policy") for name in found.holds), "a scenario has no two halves to ask a policy of"


def test_a_kernel_that_does_something_else_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged(monkeypatch, HOTPLUG, "6.12", real="linux-6.1")
    assert not found.agree
    assert any("tracepoints" in difference for difference in found.differences)


def test_a_page_that_was_altered_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(event: Event) -> Event:
        if event.kind == "peek" and event.data["page"]:
            page = {**event.data["page"], "system_time": event.data["page"]["system_time"] + 10**6}
            return replace(event, data={**event.data, "page": page})
        return event

    found = judged(monkeypatch, HOTPLUG, "6.12", change=change)
    assert any("system_time" in difference for difference in found.differences)


def test_a_model_that_shows_another_step_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every event is as it should be, and yet a property comes out otherwise."""
    modelled = session.Session.modelled

    def other(self: Any, program: Any, real: Trace) -> Trace:
        def change(event: Event) -> Event:
            if event.kind in ("peek", "guest") and event.vcpu == 1 and event.start_ps > 100 * 10**12:
                page = {**event.data["page"], "system_time": event.data["page"]["system_time"] + 9_000}
                shown = {"page": page, "kvmclock_ns": event.data["kvmclock_ns"] + 9_000}
                return replace(event, data={**event.data, **shown})
            return event

        return _altered(modelled(self, program, real), change)

    monkeypatch.setattr(session.Session, "modelled", other)
    found = judged(monkeypatch, HOTPLUG, "6.12")
    assert found.differences == []
    assert any("on the model alone" in row.why for row in found.rows)
    assert not found.agree


def test_a_bound_that_is_too_small_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    check = judges.check

    def less(spec: Any, **how: Any) -> Result:
        result = check(spec, **how)
        for verdict in result.verdicts:
            if verdict.property == "kvmclock-never-back":
                verdict.bound = Fraction(4_000)
        return result

    monkeypatch.setattr(judges, "check", less)
    found = judged(monkeypatch, HOTPLUG, "6.1")
    told = {row.property: row.why for row in found.rows if row.why}
    assert told == {"kvmclock-never-back": "the kernel shows 4986, the checker proved at most 4000"}
    assert not found.agree


def test_a_sleep_of_the_host_is_judged_by_all_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """The RTC is 0.2 s ahead and its grain a second: that is what check proves; this sleep was off by less."""
    found = judged(monkeypatch, "bugs/suspend-running-tsc", "6.1")
    assert found.agree
    (row,) = [row for row in found.rows if row.property == "kvmclock-agrees"]
    assert row.kernel is not None
    assert row.bound is not None
    assert S // 10 < abs(row.kernel.middle) < S < 1.199 * S < row.bound < 1.21 * S
    assert set(found.could) & set(found.holds) == set()
    assert {"host's boottime", "tsc of vcpu0", "GET_CLOCK"} <= {shown.clock for shown in found.shown}


def test_what_only_check_says_can_break_does_not_hold_by_all_three(monkeypatch: pytest.MonkeyPatch) -> None:
    check = judges.check

    def more(spec: Any, **how: Any) -> Result:
        result = check(spec, **how)
        for verdict in result.verdicts:
            if verdict.property == "tsc-never-back":
                verdict.status, verdict.bound = VIOLATED, Fraction(1)
        return result

    monkeypatch.setattr(judges, "check", more)
    found = judged(monkeypatch, HOTPLUG, "6.1")
    assert found.agree
    assert "tsc-never-back" in found.could
    assert "tsc-never-back" not in found.holds


def test_what_check_cannot_be_asked_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Result:
        raise UserError("check: not explored")

    monkeypatch.setattr(judges, "check", refuse)
    found = judged(monkeypatch, HOTPLUG, "6.1")
    assert found.agree
    assert {row.check for row in found.rows} == {"not asked: check: not explored"}
    assert found.holds == []


def test_a_scenario_that_this_lab_cannot_show_is_refused() -> None:
    with pytest.raises(UserError, match=r"arm64-writes-ignored: cannot be shown on lab:6\.1, expected one of"):
        next(iter(judge_scenario(load("bugs/arm64-writes-ignored"), "6.1")))


def test_what_is_asked_if_nothing_is_named_can_be_shown() -> None:
    assert WINDOW in defaults("x86_64", "6.1")
    assert "bugs/arm64-writes-ignored" in defaults("arm64", "6.12")
    assert "bugs/arm64-writes-ignored" not in defaults("arm64", "6.1")
    for arch in ("x86_64", "arm64"):
        for kernel in ("6.1", "6.12"):
            names = [name for name in defaults(arch, kernel) if name != WINDOW]
            assert len(names) >= 3
            assert {load(name).arch for name in names} == {arch}


# ---- what the checker is asked


def test_a_kernel_waits_by_its_own_clock() -> None:
    (variation,) = load(HOTPLUG).variations
    (wait,) = [step for step in in_true_time(variation, KERNEL)["steps"] if step["do"] == "wait"]
    assert wait["value"] == [["ns", 259_612_200_000, 1]], "100 s of a kernel that takes 1 GHz for 2.596"
    exact = HostCounter(0, 10**9, 10**9)
    assert in_true_time(variation, exact) == variation.program


def test_on_hpet_a_second_is_a_second() -> None:
    steps = ['host = "clocksource"\nto = "hpet"', 'wait = "1 s"', 'host = "clocksource"\nto = "tsc"', 'wait = "1 s"']
    text = 'about = "a"\n[vm]\nvcpus = 1\n' + "".join(f"[[step]]\n{step}\n" for step in steps)
    (variation,) = parse(text, "mine.toml").variations
    waits = [step["value"] for step in in_true_time(variation, KERNEL)["steps"] if step["do"] == "wait"]
    assert waits == [[["ns", S, 1]], [["ns", 2_596_122_000, 1]]]


def test_the_document_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    told = report.document([judged(monkeypatch, "bugs/suspend-running-tsc", "6.1")], [])
    (one,) = told["scenarios"]
    assert one["agree"] is True
    assert {"clock", "step", "kernel", "model", "why"} == set(one["shown"][0])
