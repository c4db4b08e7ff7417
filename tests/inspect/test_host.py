"""Hosts of every kind are told apart by what they do; every one of them is played by an executor here."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import pytest
from tests.inspect.fake_kvm import FakeKvm

from guestclock.errors import UserError
from guestclock.inspect.host import KERNELS, Behaviour, classify, conclude, drift_ppb
from guestclock.inspect.probe import WriteProbe, observe
from guestclock.kvm.api import Host, drive
from guestclock.kvm.device import ioctls
from guestclock.kvm.model import names

LINUX_6_12 = KERNELS["linux-6.12"]


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_kernel_is_known_by_its_behaviour(kernel: str) -> None:
    report = classify(FakeKvm(KERNELS[kernel]).execute)
    assert report.behaviour == KERNELS[kernel]
    assert report.fits == [k for k, b in KERNELS.items() if b == KERNELS[kernel]]
    assert {e.kernel for e in report.excluded} == {*KERNELS, "pvm"} - set(report.fits)
    assert report.unknown == []


@pytest.mark.parametrize("mode", ["ignored", "ignored-but-said"])
def test_a_host_that_ignores_tsc_writes_is_pvm_whatever_it_says(mode: str) -> None:
    report = classify(FakeKvm(KERNELS["linux-6.18"], mode).execute)
    assert (report.tsc_writes, report.fits, report.rules_like) == ("ignored", ["pvm"], ["linux-6.18"])
    assert {e.kernel for e in report.excluded} == set(KERNELS)
    assert "A guest's TSC is the host's" in report.follows[0]


@pytest.mark.parametrize(("mode", "verdict"), [("refused", "refused"), ("half", "astray")])
def test_a_host_that_refuses_or_errs_fits_nothing(mode: str, verdict: str) -> None:
    report = classify(FakeKvm(LINUX_6_12, mode).execute)
    assert (report.tsc_writes, report.fits) == (verdict, [])
    assert report.rules_like == [k for k, b in KERNELS.items() if b == LINUX_6_12]
    assert verdict in report.follows[0]


def test_a_host_that_honours_is_not_pvm() -> None:
    report = classify(FakeKvm(LINUX_6_12).execute)
    assert report.tsc_writes == "honoured"
    [pvm] = [e for e in report.excluded if e.kernel == "pvm"]
    assert pvm.evidence == ["writes to a guest's TSC are honoured"]


def test_without_a_masterclock_less_is_known_and_less_excluded() -> None:
    report = classify(FakeKvm(LINUX_6_12, masterclock=False).execute)
    assert [u.split(":")[0] for u in report.unknown] == [
        "guest_write_unmatches", "young_write_matched", "hotplug_resnapshots", "delayed_update",
    ]  # fmt: skip
    assert set(report.fits) == {"linux-6.1", "linux-6.7", "linux-6.8", "linux-6.12"}
    assert any("No masterclock" in line for line in report.follows)


@pytest.mark.parametrize("name", [f.name for f in fields(Behaviour)])
def test_each_behaviour_alone_can_exclude_a_kernel(name: str) -> None:
    """A host that differs from 6.12 in one answer is not taken for 6.12, and the evidence names that answer only."""
    other = {"clock_flags": 2, "vm_khz": "absent"}.get(name, not getattr(LINUX_6_12, name))
    report = classify(FakeKvm(replace(LINUX_6_12, **{name: other})).execute)
    [exclusion] = [e for e in report.excluded if e.kernel == "linux-6.12"]
    assert len(exclusion.evidence) == 1


@pytest.mark.parametrize(
    ("moved", "verdict"),
    [((95, 105), "honoured"), ((-5, 5), "ignored"), ((40, 60), "astray"), (None, "refused"), ((106, 200), "astray")],
)
def test_a_write_is_judged_by_how_far_the_tsc_moved(moved: tuple[int, int] | None, verdict: str) -> None:
    assert WriteProbe(100, "EPERM" if moved is None else None, 100, moved).verdict == verdict


def test_the_report_is_data_and_lines() -> None:
    report = classify(FakeKvm(KERNELS["linux-6.7"]).execute)
    assert json.loads(json.dumps(report.as_json()))["fits"] == ["linux-6.7"]
    lines = report.lines()
    assert lines[0] == "this host  linux-6.7"
    assert "  Plugging in a vCPU takes such a snapshot (until 6.7)." in lines
    assert any(line.startswith("  linux-6.8, linux-6.12: a new vCPU gives") for line in lines)


def test_meta_is_shown_and_decides_nothing() -> None:
    seen = drive(observe(Host()), FakeKvm(KERNELS["linux-6.1"]).execute)
    report = conclude(seen, {"kernel": "7.2.0"})
    assert report.fits == conclude(seen).fits == ["linux-6.1"]
    assert "kernel  7.2.0" in report.lines()


@pytest.mark.parametrize(
    ("khz", "ns_per_s"),
    [(1_000_000, 0), (2_100_000, -59.407), (2_400_000, 47.777), (2_596_122, -49.868), (3_000_000, -59.372),
     (24_000, 0.715)],
)  # fmt: skip
def test_the_drift_told_is_that_of_the_reference(khz: int, ns_per_s: float) -> None:
    assert round(drift_ppb(khz), 3) == ns_per_s


def test_without_kvm_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(ioctls.os, "open", refuse)
    with pytest.raises(UserError, match="/dev/kvm: no such device"):
        classify()


@pytest.mark.kvm
def test_this_host_is_of_some_kind() -> None:
    try:
        report = classify()
    except UserError as missing:
        pytest.skip(str(missing))
    assert report.tsc_writes in ("honoured", "ignored", "refused")
    assert report.observations.tsc_khz > 100_000
    assert report.rules_like or report.excluded
    assert classify().behaviour == report.behaviour


def test_every_kernel_told_is_a_profile_of_the_model():
    assert set(KERNELS) <= set(names())
