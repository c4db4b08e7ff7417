"""Kernel, model and checker on one migration, with the model in the kernel's place; and what is wrong is told."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from guestclock.judges.migration import NOT_UP, JudgedMigration, MovedRow, judge_migration, spec_of
from guestclock.judges.migration import halves_of as halves
from guestclock.report import migration as report
from guestclock.runs import migrate as runs_migrate
from guestclock.runs.migrate import Migration, migrate
from guestclock.runs.on import On
from guestclock.sim import Event, Trace
from tests.runs.model_lab import READ_NS, ModelLab

S, MS = 10**9, 10**6
TICK_NS = 16


@cache
def moved(recipe: str, source: str, destination: str, skew_ns: int = 0, vcpus: int = 1) -> Migration:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs_migrate, "Lab", ModelLab)
        how: dict[str, Any] = {"skew_ns": skew_ns, "life_ns": 10 * S, "vcpus": vcpus}
        return migrate(recipe, On("lab", source), On("lab", destination), **how)


@cache
def judged(recipe: str, source: str, destination: str, skew_ns: int = 0, vcpus: int = 1) -> JudgedMigration:
    return judge_migration(moved(recipe, source, destination, skew_ns, vcpus))


def rows(found: JudgedMigration) -> list[MovedRow]:
    assert found.agree, "\n".join([*found.differences, *(row.why for row in found.rows if row.why)])
    return found.rows


@pytest.mark.parametrize("skew_ns", [0, 5 * MS])
def test_the_documented_way_is_off_by_the_same_on_all_three_to_a_few_ns(skew_ns: int) -> None:
    for row in rows(judged("kernel-doc-migrate", "6.1", "6.12", skew_ns)):
        assert row.model is not None
        assert row.bound_ns is not None
        assert row.kernel.off_ns == pytest.approx(skew_ns + READ_NS, abs=5)
        assert row.model.off_ns == pytest.approx(row.kernel.off_ns, abs=3)
        assert row.model.within_ns == 0, "answers give every instant away"
        assert 0 <= row.bound_ns - row.kernel.off_ns < 8, "what is proved to be the most is what came"


@pytest.mark.parametrize("skew_ns", [0, 5 * MS])
def test_arm64_by_offset_is_off_by_the_skew_and_what_lies_between_two_reads(skew_ns: int) -> None:
    for row in rows(judged("arm64-by-offset-migrate", "6.12", "6.12", skew_ns, vcpus=2)):
        assert row.model is not None
        assert row.model.within_ns == 0, "the hypercall gives every instant away"
        assert row.model.off_ns == pytest.approx(row.kernel.off_ns, abs=2 * TICK_NS)
        assert row.kernel.off_ns == pytest.approx(skew_ns, abs=2_000)
        assert row.bound_ns is not None
        assert abs(row.kernel.off_ns) <= row.bound_ns < skew_ns + 10_000


@pytest.mark.parametrize(
    ("recipe", "source", "destination"),
    [("arm64-by-value", "6.12", "6.12"), ("arm64-by-value", "6.1", "6.12"), ("arm64-by-value", "6.1", "6.1")],
)
def test_arm64_by_value_is_off_by_what_its_calls_took(recipe: str, source: str, destination: str) -> None:
    for row in rows(judged(recipe, source, destination, vcpus=2)):
        if row.kernel.clock == "cntpct" and source == "6.1":
            assert row.check == NOT_UP, "6.1 has no physical counter to save"
            continue
        assert 0 < row.kernel.off_ns < 100_000
        assert row.bound_ns is not None
        assert row.kernel.off_ns <= row.bound_ns < 10 * row.kernel.off_ns


@pytest.mark.parametrize("recipe", ["qemu-migrate", "firecracker-restore", "best-before-5.16"])
def test_ways_by_value_agree_within_what_readings_leave_open(recipe: str) -> None:
    for row in rows(judged(recipe, "6.12", "6.12")):
        assert row.model is not None
        assert row.model.within_ns < 2_000
        assert row.bound_ns is not None


# ---- what is wrong is told


def why(wrong: JudgedMigration) -> list[str]:
    assert not wrong.agree
    return [row.why for row in wrong.rows if row.why]


def test_a_bound_for_wall_clocks_that_agree_does_not_hold_for_a_skew() -> None:
    for recipe, kernel in (("kernel-doc-migrate", "6.12"), ("arm64-by-offset-migrate", "6.12")):
        wrong = judge_migration(moved(recipe, kernel, kernel, 5 * MS), skew_ns=0)
        assert len(why(wrong)) == len(wrong.rows)
        assert all("on the kernel, check proved at most" in text for text in why(wrong))


def test_a_model_with_another_rule_is_told(tmp_path: Path) -> None:
    """A KVM_SET_CLOCK that does not look at REALTIME, as before 5.16."""
    patch = tmp_path / "forgetful.py"
    patch.write_text(
        "from guestclock.kvm.model.x86.kernels import LINUX_6_12\n"
        "from guestclock.kvm.model.x86.kvmclock import offset_from_snapshot\n"
        'PROFILE = LINUX_6_12.but(name="forgetful", about="a test\'s", set_clock=offset_from_snapshot)\n'
    )
    wrong = judge_migration(moved("kernel-doc-migrate", "6.1", "6.12"), profiles=("linux-6.1", str(patch)))
    assert any("GetClock" in difference for difference in wrong.differences)
    assert any("on the model cannot be one" in text for text in why(wrong))
    assert all("lab:6.12" in difference for difference in wrong.differences), "the source is as it should be"


def changed(done: Migration, kind: str, key: str, by: int) -> Migration:
    """The destination's readings of one clock, by so much more."""
    there = Trace(dict(done.there.meta))
    for event in done.there.events:
        there.emit(_more(event, key, by) if event.kind == kind else event)
    before, after = (runs_migrate.readings(trace) for trace in (done.here, there))
    return replace(done, there=there, off=runs_migrate.offs(done.recipe, before, after, done.skew_ns))


def _more(event: Event, key: str, by: int) -> Event:
    return replace(event, data={**event.data, key: event.data[key] + by})


def test_a_kernel_that_shows_another_kvmclock_is_told() -> None:
    there = judge_migration(changed(moved("kernel-doc-migrate", "6.12", "6.12"), "guest", "kvmclock_ns", 40))
    assert [row.kernel.clock for row in there.rows if row.why] == ["kvmclock"]
    assert "cannot be one" in why(there)[0]


def test_what_check_cannot_be_asked_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "sleeper.py"
    text = (Path(runs_migrate.__file__).parents[1] / "vmm/recipes/kernel_doc_migrate.py").read_text()
    own.write_text(
        text.replace("import Vm\n", "import AdjustFrequency, Vm\n").replace(
            "    src = await vm", "    await AdjustFrequency(0)\n    src = await vm"
        )
    )
    monkeypatch.setattr(runs_migrate, "Lab", ModelLab)
    found = judge_migration(migrate(str(own), On("lab", "6.12"), On("lab", "6.12")))
    assert {row.check for row in found.rows} == {
        "not asked: check: the host's frequency is already any within its slew; leave 'adjust-frequency' out"
    }
    assert all(row.model is not None and row.bound_ns is None for row in rows(found))


# ---- what the checker is asked


def test_the_two_hosts_of_the_checker_are_the_two_labs() -> None:
    done = moved("kernel-doc-migrate", "6.1", "6.12", 5 * MS)
    spec = spec_of(done, halves("x86_64", done.source, done.destination), done.skew_ns)
    assert [site.kernel or spec.kernel for site in spec.sites] == ["linux-6.1", "linux-6.12"]
    assert [site.skew_ns for site in spec.sites] == [0, 5 * MS]
    assert [name for name, _ in spec.calls_ns] == [
        "GetClock", "GetTscOffset", "GetTscKhz",
        "CreateVm", "CreateVcpu", "EnableKvmclock", "SetClock", "GetClock", "SetTscOffset",
    ]  # fmt: skip


# ---- what is shown


def test_the_table() -> None:
    lines = list(report.lines(judged("kernel-doc-migrate", "6.1", "6.12", 5 * MS)))
    assert lines[1].startswith("lab:6.1 to lab:6.12, whose wall clock is 5.000 ms ahead; the guest was away for 2.000")
    assert lines[3] == "AGREE  kernel, model and check (linux-6.1 to linux-6.12)"
    assert lines[5].split() == ["meant", "to", "kernel", "model", "check:", "at", "most"]
    name, vcpu, meant, *numbers = lines[6].split()
    assert (name, vcpu, meant, "".join(numbers[:2])[:6]) == ("tsc", "vcpu0", "advance", "+5.000")


def test_the_table_says_what_does_not_agree_and_what_was_not_asked() -> None:
    wrong = judge_migration(moved("kernel-doc-migrate", "6.12", "6.12", 5 * MS), skew_ns=0)
    lines = list(report.lines(wrong))
    assert lines[3].startswith("DISAGREE  ")
    assert lines[4].startswith("  tsc of vcpu0: 50000")
    lines = list(report.lines(judged("arm64-by-value", "6.1", "6.12", vcpus=2)))
    assert f"cntpct: {NOT_UP}" in lines


def test_the_document() -> None:
    told: dict[str, Any] = report.as_json(judged("kernel-doc-migrate", "6.1", "6.12", 5 * MS))
    assert json.loads(json.dumps(told)) == told
    assert told["agree"] is True
    assert told["snapshot"]["guestclock_snapshot"] == 1
    assert {off["clock"] for off in told["off"]} == {"tsc", "kvmclock"}
    for off in told["off"]:
        assert off["model"]["off_ns"] == pytest.approx(off["off_ns"], abs=3)
        assert off["bound_ns"] >= off["off_ns"]
