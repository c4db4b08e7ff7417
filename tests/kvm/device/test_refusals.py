"""What the device says when it cannot or will not: one clear line, before anything is done."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from guestclock.errors import UserError
from guestclock.kvm.device import ioctls, machine, native, open_device
from guestclock.kvm.device.ioctls import IoctlError, open_kvm
from guestclock.vmm.on_device import run_program


def test_no_device(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"kvm: no such device"):
        open_kvm(str(tmp_path / "kvm"))


def test_no_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UserError, match=r"/dev/kvm: permission denied: read and write access is needed"):
        open_kvm()


def test_not_a_kvm_device() -> None:
    fds = os.listdir("/proc/self/fd")
    with pytest.raises(UserError, match=r"/dev/null: not a KVM device \(ENOTTY\)"):
        open_kvm("/dev/null")
    assert os.listdir("/proc/self/fd") == fds


def test_another_api_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ioctls, "call", lambda *_: ioctls.Answer(13, (0, 0)))
    with pytest.raises(UserError, match="API version 13, expected 12"):
        open_kvm("/dev/null")


def test_another_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.platform, "machine", lambda: "riscv64")
    for open_it in (native._code.__wrapped__, lambda: open_device(lambda event: None)):
        with pytest.raises(UserError, match=r"this machine is riscv64: guestclock\.kvm\.device needs x86_64"):
            open_it()


def test_an_ioctl_that_fails_says_errno_and_when() -> None:
    with pytest.raises(IoctlError) as caught:
        ioctls.call(-1, 0xAE00)
    assert caught.value.errno == "EBADF"
    before, after = caught.value.stamps
    assert 0 < before < after


@pytest.mark.parametrize(
    ("options", "message"),
    [({"speed": 1}, "unknown option 'speed'"), ({"trace": "yes"}, "option trace: 'yes', expected true or false")],
)
def test_options_of_a_program_are_checked_first(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_program({"program": "steps", "steps": [], "options": options}, lambda line: None)
