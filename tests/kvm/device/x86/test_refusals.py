"""What the device will not do on x86: one clear line, before anything is done."""

from __future__ import annotations

import pytest

from guestclock.errors import UserError
from guestclock.kvm import api
from guestclock.kvm.device.x86 import X86DeviceKvm

pytestmark = pytest.mark.kvm

VM = [api.CreateVm(), api.CreateVcpu(0)]


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
def test_what_is_refused_is_refused_before_anything_is_done(kvm: X86DeviceKvm, op: api.Op, message: str) -> None:
    for step in VM:
        kvm.execute(step)
    khz = kvm.execute(api.GetTscKhz(0, 0))
    with pytest.raises(UserError, match=message):
        kvm.execute(op)
    assert kvm.execute(api.GetTscKhz(0, 0)) == khz
    assert kvm.execute(api.Run(0, 0)) == []


def test_a_vcpu_in_the_guest_takes_nothing_but_kick_and_peek(kvm: X86DeviceKvm) -> None:
    for step in (*VM, api.Start(0, 0)):
        kvm.execute(step)
    with pytest.raises(UserError, match="vCPU 0 is in KVM_RUN since Start: Kick it first"):
        kvm.execute(api.GetMsr(0, 0, 0x10))
    kvm.execute(api.Peek(0, 0))
    kvm.execute(api.Kick(0, 0))
    kvm.execute(api.GetMsr(0, 0, 0x10))
