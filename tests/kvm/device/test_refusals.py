"""What the device says when it cannot or will not: one clear line, before anything is done."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from guestclock.errors import UserError
from guestclock.kvm import api
from guestclock.kvm.device import DeviceKvm, ioctls, native
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
    monkeypatch.setattr(native.platform, "machine", lambda: "aarch64")
    with pytest.raises(UserError, match="this machine is aarch64"):
        native._code.__wrapped__()


def test_an_ioctl_that_fails_says_errno_and_when() -> None:
    with pytest.raises(IoctlError) as caught:
        ioctls.call(-1, 0xAE00)
    assert caught.value.errno == "EBADF"
    before, after = caught.value.host_tsc
    assert 0 < before < after


@pytest.mark.parametrize(
    ("options", "message"),
    [({"speed": 1}, "unknown option 'speed'"), ({"trace": "yes"}, "option trace: 'yes', expected true or false")],
)
def test_options_of_a_program_are_checked_first(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_program({"program": "steps", "steps": [], "options": options}, lambda line: None)


VM = [api.CreateVm(), api.CreateVcpu(0)]


@pytest.mark.kvm
@pytest.mark.parametrize(
    ("op", "message"),
    [
        (api.SetTscKhz(0, 1, 0), "SetTscKhz: 1 kHz: expected 0"),
        (api.SetTscKhz(0, 99_999), "SetTscKhz: 99999 kHz: expected 0"),
        (api.SetTscKhz(0, 2**32 + 1, 0), "SetTscKhz: 4294967297 kHz: expected 0"),  # KVM would take it for 1
        (api.GetClock(1), "GetClock: no VM 1"),
        (api.GetMsr(0, 7, 0x10), "GetMsr: VM 0 has no vCPU 7"),
        (api.MoveToCpu(0, 0, 4096), "MoveToCpu: no CPU 4096"),
        (api.ReadHostClock("tai"), "ReadHostClock: unknown clock 'tai'"),
        (api.SetClocksource("hpet"), "SetClocksource: changes the whole host"),
        (api.StepRealtime(1), "StepRealtime: changes the whole host"),
        (api.AdjustFrequency(1), "AdjustFrequency: changes the whole host"),
        (api.HostSleep(1), "HostSleep: changes the whole host"),
        (api.MarkTscUnstable(), "MarkTscUnstable: host-wide and permanent"),
        (api.StopAllTscs(0), "StopAllTscs: no kernel has this call"),
        (api.Run(0, 0, (api.EnterL2(0),)), "EnterL2: this guest is no hypervisor"),
        (api.Run(0, 0, (api.ReadClocks(),) * 62), "Run: 62 actions, the guest's mailbox holds 61"),
    ],
)
def test_what_is_refused_is_refused_before_anything_is_done(kvm: DeviceKvm, op: api.Op, message: str) -> None:
    for step in VM:
        kvm.execute(step)
    khz = kvm.execute(api.GetTscKhz(0, 0))
    with pytest.raises(UserError, match=message):
        kvm.execute(op)
    assert kvm.execute(api.GetTscKhz(0, 0)) == khz
    assert kvm.execute(api.Run(0, 0)) == []


@pytest.mark.kvm
def test_a_vcpu_in_the_guest_takes_nothing_but_kick_and_peek(kvm: DeviceKvm) -> None:
    for step in (*VM, api.Start(0, 0)):
        kvm.execute(step)
    with pytest.raises(UserError, match="vCPU 0 is in KVM_RUN since Start: Kick it first"):
        kvm.execute(api.GetMsr(0, 0, 0x10))
    kvm.execute(api.Peek(0, 0))
    kvm.execute(api.Kick(0, 0))
    kvm.execute(api.GetMsr(0, 0, 0x10))
