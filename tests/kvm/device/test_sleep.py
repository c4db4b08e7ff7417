"""Suspend-to-idle and suspend-to-RAM, on a sysfs of our own."""

from __future__ import annotations

from pathlib import Path

import pytest

from guestclock.errors import UserError
from guestclock.kvm.device import host


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel that has s2idle, an idle state and an RTC."""
    files = {"mem_sleep": "[s2idle] deep\n", "state": "freeze mem\n", "wakealarm": "", "driver": "psci_idle\n"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(host, "POWER", f"{tmp_path}/")
    monkeypatch.setattr(host, "WAKE_ALARM", f"{tmp_path}/wakealarm")
    monkeypatch.setattr(host, "IDLE_DRIVER", f"{tmp_path}/driver")
    return tmp_path


def test_the_alarm_is_set_and_the_kernel_told_to_freeze(sysfs: Path) -> None:
    host.sleep_s2idle(7 * 10**9)
    assert (sysfs / "wakealarm").read_text() == "+7"
    assert (sysfs / "state").read_text() == "freeze"


@pytest.mark.parametrize("ns", [0, -(10**9), 10**9 + 1, 5 * 10**8])
def test_the_rtc_knows_whole_seconds(sysfs: Path, ns: int) -> None:
    with pytest.raises(UserError, match=f"HostSleep: {ns} ns: expected whole seconds"):
        host.sleep_s2idle(ns)
    assert (sysfs / "wakealarm").read_text() == ""


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("mem_sleep", "[deep]\n", "this kernel has no s2idle"),
        ("mem_sleep", None, "this kernel has no s2idle"),
        ("driver", "none\n", "no idle state to sleep in"),
        ("driver", None, "no idle state to sleep in"),
        ("wakealarm", None, "wakealarm: Is a directory"),
    ],
)
def test_what_would_not_be_a_sleep_is_refused(sysfs: Path, name: str, text: str | None, message: str) -> None:
    (sysfs / name).unlink()
    if text is not None:
        (sysfs / name).write_text(text)
    elif name == "wakealarm":
        (sysfs / name).mkdir()
    with pytest.raises(UserError, match=message):
        host.sleep_s2idle(10**9)
    assert (sysfs / "state").read_text() == "freeze mem\n"


# ---- suspend-to-RAM


@pytest.mark.parametrize(("ns", "alarm"), [(7 * 10**9, "+7"), (7 * 10**9 + 1, "+8"), (1, "+1")])
def test_s3_lasts_until_the_rtc_has_counted_so_many_seconds(sysfs: Path, ns: int, alarm: str) -> None:
    host.sleep_s3(ns)
    assert (sysfs / "wakealarm").read_text() == alarm
    assert (sysfs / "mem_sleep").read_text() == "deep"
    assert (sysfs / "state").read_text() == "mem"


@pytest.mark.parametrize("ns", [0, -(10**9), 24 * 3600 * 10**9])
def test_what_an_alarm_cannot_be_set_to_is_refused(sysfs: Path, ns: int) -> None:
    with pytest.raises(UserError, match="expected at least 1 and less than a day"):
        host.sleep_s3(ns)
    assert (sysfs / "state").read_text() == "freeze mem\n"


def test_a_kernel_without_s3_is_told(sysfs: Path) -> None:
    (sysfs / "mem_sleep").write_text("[s2idle]\n")
    with pytest.raises(UserError, match="this kernel has no S3"):
        host.sleep_s3(10**9)
