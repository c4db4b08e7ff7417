"""Every operation of kvm.api on every kernel: an answer, or a refusal that says why."""

from __future__ import annotations

import pytest
from tests.kvm.model.x86.bench import TSC, Bench, vm_with

from guestclock.errors import UserError
from guestclock.kvm import api
from guestclock.kvm.api import Host, KvmError, Op
from guestclock.kvm.model import names
from guestclock.kvm.model.x86 import X86Kvm

KERNELS = [name for name in names("x86_64") if not name.startswith("+")]

OPS: tuple[Op, ...] = (
    api.CheckExtension(39),
    api.CreateVm(),
    api.CreateVcpu(0),
    api.GetClock(0),
    api.SetClock(0, 5),
    api.SetClock(0, 5, 4, 7),
    api.SetTscKhz(0, 2_596_200),
    api.SetTscKhz(0, 2_596_200, 0),
    api.GetTscKhz(0),
    api.GetTscKhz(0, 0),
    api.StopAllTscs(0),
    api.StartAllTscs(0, 5),
    api.XenSharedInfoInit(0),
    api.SetMsr(0, 0, TSC, 5),
    api.GetMsr(0, 0, TSC),
    api.SetTscOffset(0, 0, 5),
    api.GetTscOffset(0, 0),
    api.EnableKvmclock(0, 0),
    api.KvmclockCtrl(0, 0),
    api.Run(0, 0),
    api.Start(0, 0),
    api.Kick(0, 0),
    api.Peek(0, 0),
    api.MoveToCpu(0, 0, 1),
    api.Wait(5),
    api.ReadHostClock("realtime"),
    api.SetClocksource("tsc"),
    api.MarkTscUnstable(),
    api.StepRealtime(5),
    api.AdjustFrequency(5),
    api.HostSleep(5),
    api.Note("a note"),
)

REFUSALS = {"EINVAL", "ENXIO", "ENOTTY"}


def test_the_list_is_complete():
    assert {type(op) for op in OPS} == set(X86Kvm.handlers)


def test_an_operation_of_arm64_is_none_of_x86():
    async def recipe(host: Host) -> None:
        await vm_with(host, 1)
        await api.SetCounterOffset(0, 5)

    with pytest.raises(UserError, match="SetCounterOffset: X86Kvm has no such operation"):
        Bench("linux-6.12").run(recipe)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_op_is_answered_or_refused(kernel):
    async def recipe(host: Host) -> list[KvmError]:
        await vm_with(host, 1)
        refused = []
        for op in OPS:
            try:
                await op
            except KvmError as error:
                refused.append(error)
        return refused

    refused = Bench(kernel).run(recipe)
    assert {error.errno for error in refused} <= REFUSALS
    assert all(error.why for error in refused)
    called = {error.op.name for error in refused}
    assert called >= {"StopAllTscs", "StartAllTscs"}
    if kernel == "linux-7.2":
        assert called == {"StopAllTscs", "StartAllTscs", "SetTscKhz"}


def test_a_kernel_without_kvmclock_ctrl():
    async def recipe(host: Host) -> str:
        vm = await vm_with(host, 1)
        try:
            await vm.vcpus[0].kvmclock_ctrl()
        except KvmError as error:
            return error.errno
        return ""

    assert [Bench(kernel).run(recipe) for kernel in ("linux-3.4", "linux-3.8")] == ["EINVAL", ""]
