"""A scenario's variations on a lab: each in a machine of its own, on the host that it asks for."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from guestclock.runs import real, run
from guestclock.scenario import parse

VARIED = """
about = "x"
[vm]
vcpus = 1
[vary]
delay = ["0 s", "1 s", "2 s"]
[[step]]
wait = "$delay"
"""


class FakeLab:
    asked: list[tuple[str, int, int, int]]

    def __init__(self, kernel: str, *, smp: int, tsc_khz: int, progress: Callable[[str], None]) -> None:
        self.host = kernel, smp, tsc_khz

    def run_many(self, programs):
        FakeLab.asked.append((*self.host, len(programs)))
        assert all(p["program"] == "steps" and p["options"]["host_ops_allowed"] for p in programs)
        return [[{"guestclock_trace": 1, "tsc_khz": self.host[2], "waited": p["steps"][0]["value"]}] for p in programs]


@pytest.fixture(autouse=True)
def fake_lab(monkeypatch) -> None:
    FakeLab.asked = []
    monkeypatch.setattr(real, "Lab", FakeLab)


def test_each_variation_gets_its_own_trace():
    traces = run(parse(VARIED, "f.toml"), on=["lab:6.12"])
    assert FakeLab.asked == [("6.12", 1, 2_596_122, 3)]
    assert [t.meta["variation"]["delay"] for t in traces] == ["0 s", "1 s", "2 s"]
    assert [t.meta["waited"][0][1] for t in traces] == [0, 10**9, 2 * 10**9]


def test_one_lab_per_host_and_kernel():
    text = VARIED.replace("[vm]", "[host]\ntsc_khz = '$khz'\n[vm]").replace(
        "[[step]]", "khz = [2000000, 3000000]\n[[step]]"
    )
    traces = run(parse(text, "f.toml"), on=["lab:6.12", "lab:6.1"])
    assert sorted(FakeLab.asked) == [(k, 1, khz, 3) for k in ("6.1", "6.12") for khz in (2_000_000, 3_000_000)]
    assert all(t.meta["tsc_khz"] == t.meta["variation"]["khz"] for t in traces)


def test_as_many_cpus_as_a_step_speaks_of():
    run(parse(VARIED + "[[step]]\nvmm = 'move-to-cpu'\ncpu = 2\n", "f.toml"), on=["lab:6.12"])
    assert FakeLab.asked == [("6.12", 3, 2_596_122, 3)]
