"""Every operation of kvm.api on every arm64 kernel: an answer, or a refusal with its reason, in the kernel's order.

Reference: kvm-arm64.md 2.2, 2.3, 2.6, 2.7, 4.1.
"""

from __future__ import annotations

from functools import partial

import pytest
from tests.kvm.model.arm64.bench import Bench, S, errno, vm_with

from guestclock.abi import arm64 as abi
from guestclock.abi.arm64 import (
    KVM_ARM_VCPU_PVTIME_CTRL,
    KVM_ARM_VCPU_PVTIME_IPA,
    KVM_ARM_VCPU_TIMER_CTRL,
    KVM_REG_ARM_TIMER_CNT,
)
from guestclock.errors import UserError
from guestclock.kvm import api
from guestclock.kvm.api import Host, KvmError, Op
from guestclock.kvm.model import names
from guestclock.kvm.model.arm64 import Arm64Kvm, KvmOptions
from guestclock.machine import Arm64Spec

KERNELS = [name for name in names("arm64") if not name.startswith("+")]
OVERLAYS = [f"linux-6.12-arm64{name}" for name in names("arm64") if name.startswith("+")]
WITH_PHYSICAL = ["linux-6.4-arm64", "linux-6.12-arm64", "linux-6.18-arm64", "linux-6.12-arm64+sleep-gate"]
TIMERS, PVTIME = KVM_ARM_VCPU_TIMER_CTRL, KVM_ARM_VCPU_PVTIME_CTRL
VIRTUAL, PHYSICAL = 0, 1
MEMORY = 0x4000_0000

OPS: tuple[Op, ...] = (
    api.CheckExtension(227),
    api.CreateVm(),
    api.CreateVcpu(0),
    api.SetCounterOffset(0, 5),
    api.SetOneReg(0, 0, KVM_REG_ARM_TIMER_CNT, 5),
    api.GetOneReg(0, 0, KVM_REG_ARM_TIMER_CNT),
    api.GetOneReg(0, 0, abi.KVM_REG_ARM_PTIMER_CNT),
    api.GetRegList(0, 0),
    api.VcpuInit(0, 0),
    api.SetVcpuAttr(0, 0, TIMERS, 0, 20),
    api.GetVcpuAttr(0, 0, TIMERS, 0),
    api.CreateIrqchip(0),
    api.Run(0, 0),
    api.Start(0, 0),
    api.Peek(0, 0),
    api.MoveToCpu(0, 0, 1),
    api.Preempt(0, 0, 5),
    api.Kick(0, 0),
    api.Wait(5),
    api.ReadHostClock("counter"),
    api.SetClocksource("arch_sys_counter"),
    api.StepRealtime(5),
    api.AdjustFrequency(5),
    api.HostSleep(5, kind="s2idle"),
    api.Note("a note"),
)


def test_the_list_is_complete():
    assert {type(op) for op in OPS} == set(Arm64Kvm.handlers)


@pytest.mark.parametrize("kernel", KERNELS + OVERLAYS)
@pytest.mark.parametrize("vhe", [True, False])
def test_every_op_is_answered_or_refused(kernel, vhe):
    async def recipe(host: Host) -> list[KvmError]:
        await vm_with(host, 1)
        refused = []
        for op in OPS:
            try:
                await op
            except KvmError as error:
                refused.append(error)
        return refused

    refused = Bench(kernel, Arm64Spec(vhe=vhe)).run(recipe)
    assert all(error.why for error in refused)
    physical = kernel in WITH_PHYSICAL
    told = [(error.op.name, error.errno) for error in refused]
    assert told == [
        *([] if physical else [("SetCounterOffset", "EINVAL"), ("GetOneReg", "ENOENT")]), ("SetVcpuAttr", "EINVAL")
    ]  # fmt: skip


def test_an_operation_of_x86_is_none_of_arm64():
    async def recipe(host: Host) -> None:
        await vm_with(host, 1)
        await api.GetClock(0)

    with pytest.raises(UserError, match="GetClock: Arm64Kvm has no such operation: it is of another architecture"):
        Bench().run(recipe)


@pytest.mark.parametrize(
    ("action", "told"),
    [
        (api.Wrmsr(0x10, 5), "Run: Wrmsr is nothing that an arm64 guest does"),
        (api.ReadClocks(), "Run: ReadClocks is nothing that an arm64 guest does"),
        (api.EnterL2(5, 1), "EnterL2: a ratio, expected None: arm64 scales no counter"),
        (api.EnterL2(5), r"EnterL2: this vCPU has no EL2, expected a VM with nested = true"),
        (api.ExitL2(), "ExitL2: vCPU 0 runs no L2"),
        (api.Hvc(0x8400_0000), "HVC 0x84000000 is not modelled, expected a function of PV time or of PTP"),
        (api.Hvc(0x8000_0001, 0x8000_8000), "HVC ARCH_FEATURES of 0x80008000 is not modelled, expected PV_TIME_FEA"),
    ],
)
def test_what_no_guest_here_does_is_told(action, told):
    async def recipe(host: Host) -> None:
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.run(action)

    with pytest.raises(UserError, match=told):
        Bench().run(recipe)


@pytest.mark.parametrize(
    ("op", "told"),
    [
        (api.Peek(1, 0), "Peek: VM 1 does not exist, expected one of 1"),
        (api.Peek(0, 2), "Peek: vCPU 2 of VM 0 does not exist, expected one of 1"),
        (api.MoveToCpu(0, 0, 4), "MoveToCpu: CPU 4 does not exist, this host has 4"),
        (api.Preempt(0, 0, 5), "Preempt: vCPU 0 is not in KVM_RUN, expected Start before it"),
        (api.Preempt(0, 0, -5), "Preempt: -5 ns, expected 0 or more"),
        (api.ReadHostClock("tsc"), "host clock: unknown 'tsc', expected one of realtime, "),
        (api.SetClocksource("tsc"), "clocksource: 'tsc' is not on this machine, expected one of arch_sys_counter"),
        (api.HostSleep(5, "reset"), "sleep: tsc 'reset', expected 'running': an arm64 machine's counter is always on"),
    ],
)
def test_a_mistake_of_the_users_is_told(op, told):
    async def recipe(host: Host) -> None:
        await vm_with(host, 1)
        await op

    with pytest.raises(UserError, match=told):
        Bench().run(recipe)


@pytest.mark.parametrize(
    ("kernel", "spec", "told"),
    [
        ("linux-6.12-arm64", {}, "linux-6.12-arm64: no guest hypervisors, expected linux-6.18-arm64 or later"),
        ("linux-6.18-arm64", {"vhe": False}, "nested: the host's kernel is not VHE, expected vhe = true"),
    ],
)
def test_hosts_without_guest_hypervisors_say_so(kernel, spec, told):
    with pytest.raises(UserError, match=told):
        Bench(kernel, Arm64Spec(**spec), KvmOptions(nested=True))


def test_capabilities():
    asked = (
        abi.KVM_CAP_ONE_REG, abi.KVM_CAP_VCPU_ATTRIBUTES, abi.KVM_CAP_STEAL_TIME, abi.KVM_CAP_PTP_KVM,
        abi.KVM_CAP_COUNTER_OFFSET, abi.KVM_CAP_ARM_EL2, 39,
    )  # fmt: skip

    async def recipe(host: Host) -> list[int]:
        return [await api.CheckExtension(capability) for capability in asked]

    assert {kernel: Bench(kernel).run(recipe) for kernel in KERNELS} == {
        "linux-5.10-arm64": [1, 1, 1, 0, 0, 0, 0],
        "linux-6.1-arm64": [1, 1, 1, 1, 0, 0, 0],
        "linux-6.3-arm64": [1, 1, 1, 1, 0, 0, 0],
        "linux-6.4-arm64": [1, 1, 1, 1, 1, 0, 0],
        "linux-6.12-arm64": [1, 1, 1, 1, 1, 0, 0],
        "linux-6.18-arm64": [1, 1, 1, 1, 1, 0, 0],
    }
    assert Bench("linux-6.18-arm64", options=KvmOptions(nested=True)).run(recipe)[5] == 1


# ---- KVM_ARM_SET_COUNTER_OFFSET


def test_reserved_is_looked_at_before_anybodys_mutex():
    async def recipe(host: Host) -> list[str]:
        vm = await vm_with(host, 2)
        await vm.vcpus[1].start()
        await host.wait(S)
        told = [await errno(vm.set_counter_offset(5, reserved)) for reserved in (1, 2**63, 0)]
        await vm.vcpus[1].kick()
        return [*told, await errno(vm.set_counter_offset(5, 0))]

    assert Bench().run(recipe) == ["EINVAL", "EINVAL", "EBUSY", ""]


def test_what_was_refused_has_changed_nothing():
    bench = Bench()

    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].start()
        await host.wait(S)
        await errno(vm.set_counter_offset(5))
        await errno(vm.set_counter_offset(5, 1))

    bench.run(recipe)
    vm = bench.vm
    assert (vm.counter_offset, vm.voffset.value, vm.poffset.value, vm.lock) == (False, 1_000 * 62_500_000, 0, False)


# ---- the irqchip


def test_an_irqchip_is_made_once_and_before_any_vcpu_has_run():
    async def recipe(host: Host) -> list[str]:
        one, other = await vm_with(host, 1), await vm_with(host, 2)
        await other.vcpus[0].run()
        told = [await errno(vm.create_irqchip()) for vm in (one, one, other)]
        await one.vcpus[0].start()
        await host.wait(S)
        return [*told, await errno(one.create_irqchip())]

    # The last one: not all mutexes are free, which is asked before whether there is one already.
    assert Bench().run(recipe) == ["", "EEXIST", "EBUSY", "EBUSY"]


# ---- attributes


async def timer_attr(vm: api.Vm, attr: int, irq: int) -> str:
    return await errno(vm.vcpus[0].set_attr(TIMERS, attr, irq))


@pytest.mark.parametrize("kernel", KERNELS)
def test_interrupt_numbers_are_refused_in_the_kernels_order(kernel):
    """No irqchip in the kernel, no PPI, too late, no such attribute."""
    known = 4 if kernel in WITH_PHYSICAL else 2

    async def recipe(host: Host) -> list[list[str]]:
        vm = await vm_with(host, 1)
        without = [await timer_attr(vm, attr, irq) for attr, irq in ((0, 20), (9, 20), (9, 5))]
        await vm.create_irqchip()
        early = [await timer_attr(vm, attr, irq) for attr, irq in ((9, 15), (0, 32), (0, -1), (9, 20), (known, 20))]
        good = [await timer_attr(vm, attr, irq) for attr, irq in ((0, 16), (1, 31), (known - 1, 31))]
        await vm.vcpus[0].run()
        late = [await timer_attr(vm, attr, irq) for attr, irq in ((0, 15), (9, 20), (0, 20))]
        return [without, early, good, late]

    assert Bench(kernel).run(recipe) == [
        ["EINVAL"] * 3,
        ["EINVAL", "EINVAL", "EINVAL", "ENXIO", "ENXIO"],
        ["", "", ""],
        ["EINVAL", "EBUSY", "EBUSY"],
    ]


@pytest.mark.parametrize("kernel", KERNELS)
def test_interrupt_numbers_are_all_vcpus_and_can_be_asked_without_an_irqchip(kernel):
    async def recipe(host: Host) -> list[int | str]:
        vm = await vm_with(host, 2)
        defaults = [await errno_or(vm.vcpus[1].get_attr(TIMERS, attr)) for attr in range(5)]
        await vm.create_irqchip()
        await vm.vcpus[0].set_attr(TIMERS, 0, 20)
        return [*defaults, await vm.vcpus[1].get_attr(TIMERS, 0)]

    two, four = [27, 30, "ENXIO", "ENXIO", "ENXIO", 20], [27, 30, 28, 26, "ENXIO", 20]
    assert Bench(kernel).run(recipe) == (four if kernel in WITH_PHYSICAL else two)


async def errno_or(op) -> int | str:
    try:
        return await op
    except KvmError as refused:
        return refused.errno


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_number_for_two_timers_is_found_out_at_the_first_kvm_run(kernel):
    """And stays with the timer that was asked first: the virtual one until 6.3, the physical one since."""

    async def recipe(host: Host, renumbered: int) -> list[str]:
        vm = await vm_with(host, 1)
        await vm.create_irqchip()
        await vm.vcpus[0].set_attr(TIMERS, PHYSICAL, 27)
        told = [await errno(vm.vcpus[0].run()), await errno(vm.vcpus[0].start())]
        await vm.vcpus[0].set_attr(TIMERS, renumbered, 29)
        return [*told, await errno(vm.vcpus[0].run())]

    keeps, loses = (PHYSICAL, VIRTUAL) if kernel in WITH_PHYSICAL else (VIRTUAL, PHYSICAL)
    assert Bench(kernel).run(partial(recipe, renumbered=loses)) == ["EINVAL", "EINVAL", ""]
    assert Bench(kernel).run(partial(recipe, renumbered=keeps)) == ["EINVAL"] * 3


def test_numbers_are_fixed_for_all_vcpus_since_6_4_and_for_who_has_run_before():
    async def recipe(host: Host) -> list[str]:
        vm = await vm_with(host, 2)
        await vm.create_irqchip()
        await vm.vcpus[0].run()
        return [await errno(vcpu.set_attr(TIMERS, 0, 20)) for vcpu in vm.vcpus]

    assert Bench("linux-6.12-arm64").run(recipe) == ["EBUSY", "EBUSY"]
    assert Bench("linux-6.3-arm64").run(recipe) == ["EBUSY", ""]


def test_groups_and_attributes_that_there_are_not():
    async def recipe(host: Host) -> list[str]:
        (vcpu,) = (await vm_with(host, 1)).vcpus
        asked = ((PVTIME, KVM_ARM_VCPU_PVTIME_IPA + 1), (7, 0))
        told = [await errno(vcpu.set_attr(group, attr, MEMORY)) for group, attr in asked]
        return told + [await errno(vcpu.get_attr(group, attr)) for group, attr in asked]

    assert Bench().run(recipe) == ["ENXIO"] * 4


def test_the_stolen_time_record_is_refused_in_the_kernels_order():
    """No such attribute, not aligned to 64, set already, no memory (4.1)."""

    async def recipe(host: Host) -> list[str]:
        (vcpu,) = (await vm_with(host, 1)).vcpus
        told = []
        for ipa in (MEMORY + 8, 5, 0, MEMORY + (1 << 20), MEMORY - 64, MEMORY + (1 << 20) - 64, MEMORY, MEMORY + 8, 0):
            told.append(await errno(vcpu.set_attr(PVTIME, KVM_ARM_VCPU_PVTIME_IPA, ipa)))
        return told

    assert Bench().run(recipe) == ["EINVAL"] * 5 + ["", "EEXIST", "EINVAL", "EEXIST"]


def test_the_records_place_is_told_and_none_is_minus_1():
    async def recipe(host: Host) -> list[int]:
        (vcpu,) = (await vm_with(host, 1)).vcpus
        before = await vcpu.get_attr(PVTIME, KVM_ARM_VCPU_PVTIME_IPA)
        await vcpu.set_attr(PVTIME, KVM_ARM_VCPU_PVTIME_IPA, MEMORY + 64)
        return [before, await vcpu.get_attr(PVTIME, KVM_ARM_VCPU_PVTIME_IPA)]

    assert Bench().run(recipe) == [2**64 - 1, MEMORY + 64]
