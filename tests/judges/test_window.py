"""The edge of KVM's window for TSC writes, by three judges: found by all, and by none of them believed alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from guestclock.compare import session
from guestclock.compare.session import Session
from guestclock.judges import window
from guestclock.judges.window import FINE_NS, judge_window
from tests.judges.model_lab import TSC_KHZ, lines_by

S = 10**9


@pytest.fixture(autouse=True)
def counter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model's host counts what its kernel believes, unlike a lab's."""
    for module in (session, window):
        monkeypatch.setattr(module, "LAB_TSC_HZ", TSC_KHZ * 1000)


def test_all_three_find_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "real", lines_by("linux-6.12"))
    edges, agree = judge_window("6.12")
    assert agree
    assert [edge.judge.partition(" ")[0] for edge in edges] == ["lab:6.12", "model", "check"]
    for edge in edges:
        assert edge.ns.lo <= S + 1_000
        assert edge.ns.hi >= S - 1_000
        assert edge.ns.width <= FINE_NS + 10_000


def test_a_kernel_with_another_window_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "half_a_second.py"
    other.write_text(
        "from guestclock.kvm.model.x86.kernels import LINUX_6_12\n"
        "def within_half_a_second(vm, vcpu, write):\n"
        '    "Whatever the value."\n'
        "    return write.data == 0 or write.elapsed_ns < 500_000_000\n"
        'PROFILE = LINUX_6_12.but(name="half", about="a test\'s", tsc_matching=within_half_a_second)\n'
    )
    monkeypatch.setattr(Session, "real", lines_by(str(other)))
    edges, agree = judge_window("6.12")
    assert not agree
    kernel, model, check = (edge.ns for edge in edges)
    assert kernel.hi < 0.6 * S < model.lo
    assert model.meets(check)
