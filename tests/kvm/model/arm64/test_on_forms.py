"""The arm64 model on values that are not ints: what it does on them is what it does on ints."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.kvm.model.arm64.bench import S, tried
from tests.kvm.model.unknown import Unknown, World, known

from guestclock.abi.arm64 import (
    ARM_SMCCC_HV_PV_TIME_ST,
    ARM_SMCCC_VENDOR_HYP_KVM_PTP_FUNC_ID,
    GUEST_SYSREGS,
    KVM_ARM_VCPU_PVTIME_CTRL,
    KVM_ARM_VCPU_TIMER_CTRL,
    KVM_ARM_VCPU_TIMER_OFFSET_PTIMER,
    KVM_ARM_VCPU_TIMER_OFFSET_VTIMER,
    KVM_ARM_VCPU_TIMER_PHYS_OFFSET,
    KVM_REG_ARM_TIMER_CVAL,
    KVM_REG_ARM_TIMER_OFFSET,
    TIMER_REGS,
)
from guestclock.kvm import api
from guestclock.kvm.api import (
    EnterL2,
    ExitL2,
    Host,
    Hvc,
    ReadCounters,
    ReadHostClock,
    ReadSysreg,
    Vcpu,
    Vm,
    WriteSysreg,
    serve,
)
from guestclock.kvm.model import lookup, names
from guestclock.kvm.model.arm64 import KvmOptions
from guestclock.machine import Arm64Spec

KERNELS = [name for name in names("arm64") if not name.startswith("+")]
OVERLAYS = [name for name in names("arm64") if name.startswith("+") and name != "+sleep-gate"]
"""After a sleep the gate stays closed until a VMM opens it: nobody does in these recipes."""
HOSTS = {
    "vhe": Arm64Spec(),
    "nvhe": Arm64Spec(vhe=False),
    "ecv": Arm64Spec(ecv=True, counter_hz=1_000_000_000),
    "nvhe-ecv": Arm64Spec(vhe=False, ecv=True, counter_hz=24_000_000),
}

Recipe = Callable[[Host], Awaitable[list[Any]]]


async def vm_with(host: Host, vcpus: int) -> Vm:
    vm = await host.create_vm()
    for _ in range(vcpus):
        await vm.create_vcpu()
        await host.wait(1_003)
    return vm


async def looks(vm: Vm) -> list[Any]:
    shown: list[Any] = []
    for vcpu in vm.vcpus:
        shown += [await vcpu.peek(), *[await tried(vcpu.get_one_reg(reg)) for reg in TIMER_REGS.values()]]
        shown.append(await tried(vcpu.get_one_reg(KVM_REG_ARM_TIMER_OFFSET)))
    return shown


async def offsets(vcpu: Vcpu, value: int) -> None:
    """Every way to set an offset that some kernel has."""
    for attr in (
        KVM_ARM_VCPU_TIMER_OFFSET_VTIMER, KVM_ARM_VCPU_TIMER_OFFSET_PTIMER, KVM_ARM_VCPU_TIMER_PHYS_OFFSET
    ):  # fmt: skip
        await tried(vcpu.set_attr(KVM_ARM_VCPU_TIMER_CTRL, attr, value))
    await tried(vcpu.set_one_reg(KVM_REG_ARM_TIMER_OFFSET, value + 5))


async def restore(host: Host) -> list[Any]:
    """Registers by value, offsets by each way there is, a vCPU plugged in."""
    vm = await vm_with(host, 2)
    a, b = vm.vcpus
    got: list[Any] = []
    for vcpu in vm.vcpus:
        got += await vcpu.run(ReadCounters())
    await host.wait(3 * S)
    for vcpu in vm.vcpus:
        saved = [(reg, await vcpu.get_one_reg(reg)) for reg in await vcpu.get_reg_list()]
        await host.wait(S // 3)
        for reg, value in saved:
            await vcpu.set_one_reg(reg, value)
        got += saved
    got += await looks(vm)
    await offsets(a, 2**63 + 7)
    await offsets(b, saved[1][1])
    for vcpu in vm.vcpus:
        got += await vcpu.run(ReadCounters(), *[ReadSysreg(name) for name in GUEST_SYSREGS])
    got.append(await tried(vm.set_counter_offset(saved[1][1])))
    await vm.create_vcpu()
    await host.wait(S)
    for vcpu in vm.vcpus:
        got += await vcpu.run(ReadCounters(), Hvc(ARM_SMCCC_VENDOR_HYP_KVM_PTP_FUNC_ID, 0))
    await b.init()
    return got + await looks(vm)


async def running(host: Host) -> list[Any]:
    """vCPUs that spin while others write, are moved, preempted, slept over; timers that are due meanwhile."""
    vm = await vm_with(host, 2)
    a, b = vm.vcpus
    await a.set_attr(KVM_ARM_VCPU_PVTIME_CTRL, 0, 0x4000_0000)
    now = await a.get_one_reg(TIMER_REGS["TIMER_CNT"])
    got = await a.run(
        Hvc(ARM_SMCCC_HV_PV_TIME_ST),
        WriteSysreg("CNTP_CVAL_EL0", 2**63),
        WriteSysreg("CNTP_CTL_EL0", 1),
        WriteSysreg("CNTV_CVAL_EL0", now + 20_000_000),
        WriteSysreg("CNTV_CTL_EL0", 1),
    )
    await a.start()
    await b.start()
    await host.wait(S)
    await a.move_to_cpu(2)
    await api.Preempt(0, 0, 12_345)
    await host.wait(S)
    got += [await vcpu.peek() for vcpu in vm.vcpus]
    await api.HostSleep(40 * S, kind="s2idle")
    await host.wait(S)
    got += [await vcpu.peek() for vcpu in vm.vcpus]
    await b.kick()
    await offsets(b, 12_345_678)
    await b.set_one_reg(TIMER_REGS["TIMER_CNT"], 99)
    await tried(b.set_one_reg(TIMER_REGS["PTIMER_CNT"], 77))
    got += await b.run(
        ReadCounters(), WriteSysreg("CNTP_TVAL_EL0", 1_000), WriteSysreg("CNTP_CTL_EL0", 1), ReadSysreg("CNTP_CTL_EL0"),
        ReadSysreg("CNTP_TVAL_EL0"), WriteSysreg("CNTV_TVAL_EL0", 2**32 - 5), ReadSysreg("CNTV_CVAL_EL0"),
    )  # fmt: skip
    await host.wait(S)
    got += await b.run(ReadCounters(), ReadSysreg("CNTP_CTL_EL0"))
    await a.kick()
    return [*got, *await looks(vm), await ReadHostClock("boottime"), await ReadHostClock("counter")]


async def far_deadlines(host: Host) -> list[Any]:
    """hrtimers of emulated timers that the conversion cannot hold."""
    vm = await vm_with(host, 1)
    (vcpu,) = vm.vcpus
    got: list[Any] = []
    for seconds in (1, 1_000, 1_200, 2_500, 10_000):
        now = (await vcpu.run(ReadSysreg("CNTPCT_EL0")))[0]
        await vcpu.run(WriteSysreg("CNTP_CVAL_EL0", now + seconds * 24_000_000 + 7), WriteSysreg("CNTP_CTL_EL0", 1))
        await host.wait(seconds * S // 2)
        got += await vcpu.run(ReadSysreg("CNTP_CTL_EL0"))
        await host.wait(seconds * S)
        got += await vcpu.run(ReadSysreg("CNTP_CTL_EL0"))
    return got + await looks(vm)


async def nested(host: Host) -> list[Any]:
    vm = await vm_with(host, 1)
    (vcpu,) = vm.vcpus
    await vm.set_counter_offset(2**64 - 5)
    got = await vcpu.run(ReadCounters(), EnterL2(2**63), ReadCounters(), ExitL2(), ReadCounters())
    await vcpu.set_one_reg(KVM_REG_ARM_TIMER_OFFSET, 1_000)
    await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CVAL, 5)
    return got + await looks(vm)


def life(recipe: Recipe, kernel: str, wrap: Callable[[int], Any], **world: Any) -> tuple[Any, list[Any], int]:
    """What a recipe was answered, what KVM remembers, and when it ended."""
    answers: list[Any] = []

    async def keep() -> None:
        answers.extend(known(await serve(recipe(Host()), made.kvm.execute)))  # type: ignore[arg-type]

    made = World(kernel, wrap, **world)
    made.spawn("VMM", keep())
    made.run()
    return answers, made.remembered(), made.timeline.true_ps


def same_on_both(recipe: Recipe, kernel: str, **world: Any) -> None:
    on_unknowns = life(recipe, kernel, Unknown, **world)
    assert on_unknowns == life(recipe, kernel, lambda ps: ps, **world)
    answers, remembered, _ = on_unknowns
    assert len(answers) > 3
    assert len(remembered) > 50


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("recipe", [restore, running])
def test_unknown_times_do_what_known_ones_do(recipe, kernel, host):
    same_on_both(recipe, kernel, spec=HOSTS[host])


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("recipe", [restore, running])
def test_under_every_overlay(recipe, overlay, host):
    same_on_both(recipe, f"linux-6.12-arm64{overlay}", spec=HOSTS[host])


@pytest.mark.parametrize("kernel", KERNELS)
def test_far_deadlines(kernel):
    same_on_both(far_deadlines, kernel, spec=HOSTS["nvhe-ecv"])


def test_guest_hypervisors():
    same_on_both(nested, "linux-6.18-arm64", options=KvmOptions(nested=True))


def test_times_were_really_unknown():
    """Else the comparison would be of two equal worlds."""
    world = World("linux-6.12-arm64", Unknown)

    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].set_one_reg(TIMER_REGS["PTIMER_CNT"], 5)
        await vm.vcpus[0].run(WriteSysreg("CNTP_TVAL_EL0", 5), WriteSysreg("CNTV_TVAL_EL0", 5))

    world.spawn("VMM", serve(recipe(Host()), world.kvm.execute))
    world.run()
    vm = world.kvm.vms[0]
    timers = vm.vcpus[0].timers
    held = [vm.voffset.value, vm.poffset.value, timers[0].cval, timers[1].cval]
    assert [type(value) for value in held] == [Unknown] * len(held)


def test_a_rule_that_forces_an_int_is_caught():
    """The comparison's own negative control."""
    from guestclock.kvm.model.arm64.kernels import KERNELS as PROFILES

    async def rounded(vcpu, timer, value):
        vcpu.vm.voffset.value = vcpu.vm.kvm.phys_timer_read() % 1000

    PROFILES["rounded-arm64"] = lookup("linux-6.12-arm64").but(write_counter=rounded)
    try:
        with pytest.raises(TypeError, match="unsupported operand"):
            same_on_both(restore, "rounded-arm64")
    finally:
        del PROFILES["rounded-arm64"]
