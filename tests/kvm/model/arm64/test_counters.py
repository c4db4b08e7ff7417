"""A VM's counters: what a creation, a write by value and KVM_ARM_SET_COUNTER_OFFSET make of them, kernel by kernel.

Reference: kvm-arm64.md 2.2, 2.3, 2.6, 3.2, 6.3 and its Appendix A.
"""

from __future__ import annotations

import pytest
from tests.kvm.model.arm64.bench import FEW, HZ, Bench, S, errno, tried, vm_with

from guestclock.abi.arm64 import (
    KVM_CAP_COUNTER_OFFSET,
    KVM_REG_ARM_PTIMER_CNT,
    KVM_REG_ARM_PTIMER_CTL,
    KVM_REG_ARM_PTIMER_CVAL,
    KVM_REG_ARM_TIMER_CNT,
    KVM_REG_ARM_TIMER_CTL,
    KVM_REG_ARM_TIMER_CVAL,
)
from guestclock.arith import u64
from guestclock.kvm import api
from guestclock.kvm.api import CheckExtension, Host, ReadCounters, Vcpu
from guestclock.kvm.model import names
from guestclock.machine import Arm64Spec

KERNELS = [name for name in names("arm64") if not name.startswith("+")]
PER_VCPU = ["linux-5.10-arm64", "linux-6.1-arm64"]
WITHOUT_PHYSICAL = [*PER_VCPU, "linux-6.3-arm64"]
WITH_PHYSICAL = ["linux-6.4-arm64", "linux-6.12-arm64", "linux-6.18-arm64"]
U64 = 2**64
UP = 1_000 * HZ
"""The host's counter at the start."""


async def virtual(vcpu: Vcpu) -> int:
    return await vcpu.get_one_reg(KVM_REG_ARM_TIMER_CNT)


async def physical(vcpu: Vcpu) -> int:
    return await vcpu.get_one_reg(KVM_REG_ARM_PTIMER_CNT)


# ---- what there is


def test_the_lists_are_complete():
    assert sorted(KERNELS) == sorted([*WITHOUT_PHYSICAL, *WITH_PHYSICAL])


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_capability_tells_whether_there_is_the_call(kernel):
    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        return await CheckExtension(KVM_CAP_COUNTER_OFFSET), await errno(vm.set_counter_offset(5))

    assert Bench(kernel).run(recipe) == ((1, "") if kernel in WITH_PHYSICAL else (0, "EINVAL"))


VIRTUAL_REGS = [KVM_REG_ARM_TIMER_CTL, KVM_REG_ARM_TIMER_CNT, KVM_REG_ARM_TIMER_CVAL]
PHYSICAL_REGS = [KVM_REG_ARM_PTIMER_CTL, KVM_REG_ARM_PTIMER_CNT, KVM_REG_ARM_PTIMER_CVAL]


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_list_of_registers(kernel):
    got = Bench(kernel).run(lambda host: _reg_list(host))
    if kernel in WITHOUT_PHYSICAL:
        assert got == VIRTUAL_REGS
    elif kernel != "linux-6.18-arm64":
        assert got == VIRTUAL_REGS + PHYSICAL_REGS
    else:
        # In the order of the encodings that the ids have: the two that are swapped stand in each other's place.
        assert got == sorted(VIRTUAL_REGS + PHYSICAL_REGS, key=_as_encoded)
        assert got.index(KVM_REG_ARM_TIMER_CNT) == 1


def _as_encoded(reg: int) -> int:
    swapped = {KVM_REG_ARM_TIMER_CNT: KVM_REG_ARM_TIMER_CVAL, KVM_REG_ARM_TIMER_CVAL: KVM_REG_ARM_TIMER_CNT}
    return swapped.get(reg, reg)


async def _reg_list(host: Host) -> list[int]:
    vm = await vm_with(host, 1)
    return await vm.vcpus[0].get_reg_list()


@pytest.mark.parametrize("kernel", WITHOUT_PHYSICAL)
@pytest.mark.parametrize("reg", PHYSICAL_REGS)
def test_before_6_4_the_physical_timer_has_no_registers(kernel, reg):
    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        return await errno(vcpu.get_one_reg(reg)), await errno(vcpu.set_one_reg(reg, 5))

    assert Bench(kernel).run(recipe) == ("ENOENT", "ENOENT")


def test_two_ids_are_swapped():
    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.set_one_reg(0x6030_0000_0013_DF02, 777)
        await host.wait(S)
        return await vcpu.get_one_reg(0x6030_0000_0013_DF02), await vcpu.get_one_reg(0x6030_0000_0013_DF1A)

    assert Bench().run(recipe) == (777, HZ), "...df02 is CVAL, ...df1a counts"


# ---- creation


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_new_vm_counts_from_0_and_its_physical_counter_is_the_hosts(kernel):
    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await host.wait(S)
        return await virtual(vcpu), await tried(physical(vcpu)), (await vcpu.run(ReadCounters()))[0].cntpct

    shown, register, cntpct = Bench(kernel).run(recipe)
    assert (shown, cntpct) == (HZ, UP + HZ)
    assert register == ("ENOENT" if kernel in WITHOUT_PHYSICAL else UP + HZ)


@pytest.mark.parametrize("kernel", KERNELS)
def test_each_creation_begins_the_virtual_counter_of_all_anew(kernel):
    async def recipe(host: Host):
        vm = await vm_with(host, 2)
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_TIMER_CNT, 10**15)
        await host.wait(S)
        assert await virtual(vm.vcpus[1]) == 10**15 + HZ
        await vm.create_vcpu()
        return [await virtual(vcpu) for vcpu in vm.vcpus]

    assert Bench(kernel).run(recipe) == [0, 0, 0]


@pytest.mark.parametrize("kernel", WITH_PHYSICAL)
def test_and_the_physical_one_is_the_hosts_again(kernel):
    bench = Bench(kernel)

    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_PTIMER_CNT, 5)
        await host.wait(S)
        assert await physical(vm.vcpus[0]) == 5 + HZ
        await vm.create_vcpu()
        return await physical(vm.vcpus[0])

    assert bench.run(recipe) == bench.now


@pytest.mark.parametrize("kernel", KERNELS)
def test_so_does_one_that_is_refused_because_the_vcpu_exists(kernel):
    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_TIMER_CNT, 10**15)
        refused = await errno(api.CreateVcpu(0, 0))
        return refused, await virtual(vm.vcpus[0])

    # Before 6.3 the new vCPU's offset is written to all others too, whether or not it will be.
    assert Bench(kernel).run(recipe) == ("EEXIST", 0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_that_is_refused_because_of_the_irqchip_does_not(kernel):
    bench = Bench(kernel)

    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_TIMER_CNT, 10**15)
        await vm.create_irqchip()
        refused = await errno(vm.create_vcpu()), await errno(api.CreateVcpu(0, 0))
        return refused, await virtual(vm.vcpus[0])

    assert bench.run(recipe) == (("EBUSY", "EBUSY"), 10**15)
    assert len(bench.vm.vcpus) == 1


@pytest.mark.parametrize("kernel", WITH_PHYSICAL)
def test_after_the_call_no_creation_does(kernel):
    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        await vm.set_counter_offset(17)
        await host.wait(S)
        await vm.create_vcpu()
        return [await virtual(vcpu) for vcpu in vm.vcpus] + [await physical(vcpu) for vcpu in vm.vcpus]

    assert Bench(kernel).run(recipe) == [UP + HZ - 17] * 4


# ---- by value


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("value", [0, 777, U64 - 1])
def test_a_counter_is_set_by_value_for_all_vcpus(kernel, value):
    async def recipe(host: Host):
        vm = await vm_with(host, 3)
        await host.wait(S)
        await vm.vcpus[1].set_one_reg(KVM_REG_ARM_TIMER_CNT, value)
        await host.wait(16)
        return [await virtual(vcpu) for vcpu in vm.vcpus]

    assert Bench(kernel).run(recipe) == [u64(value + 1)] * 3


@pytest.mark.parametrize("kernel", WITH_PHYSICAL)
def test_the_two_counters_are_set_apart(kernel):
    async def recipe(host: Host):
        vm = await vm_with(host, 2)
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_PTIMER_CNT, 5)
        await vm.vcpus[1].set_one_reg(KVM_REG_ARM_TIMER_CNT, 6)
        await host.wait(S)
        return [await physical(vm.vcpus[1]), await virtual(vm.vcpus[0])]

    assert Bench(kernel).run(recipe) == [5 + HZ, 6 + HZ]


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_was_just_read_and_is_written_back_loses_the_time_between(kernel):
    """kvm-arm64.md 3.2: never the other way, and it adds up."""

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        for _ in range(100):
            value = await virtual(vcpu)
            await host.wait(10_000)
            await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CNT, value)
        return await virtual(vcpu)

    bench = Bench(kernel)
    assert bench.run(recipe) == bench.now - UP - 100 * 625


@pytest.mark.parametrize("kernel", KERNELS)
def test_of_several_writes_the_last_one_counts_for_all(kernel):
    """N values read one after the other, N written: no vCPU is off from another, and N-1 writes were for nothing."""

    async def recipe(host: Host):
        vm = await vm_with(host, 4)
        saved = []
        for vcpu in vm.vcpus:
            saved.append(await virtual(vcpu))
            await host.wait(S)
        for vcpu, value in zip(vm.vcpus, saved, strict=True):
            await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CNT, value)
            await host.wait(S)
        return saved[-1], [await virtual(vcpu) for vcpu in vm.vcpus]

    last, shown = Bench(kernel).run(recipe)
    assert shown == [last + HZ] * 4


def test_the_value_is_the_counters_at_the_read_within_the_call():
    """Whatever the call takes before and after it: the write lies between the two host reads around it."""

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        before = await host.read_clock("counter")
        await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CNT, 10**9)
        after = await host.read_clock("counter")
        return before, after

    bench = Bench(step_ns=1_000, section_ns=100)
    before, after = bench.run(recipe)
    assert before < bench.vm.voffset.value + 10**9 < after < before + FEW * 10


# ---- by offset


@pytest.mark.parametrize("kernel", WITH_PHYSICAL)
@pytest.mark.parametrize("offset", [0, 1, 2**63, U64 - 1, UP])
def test_both_counters_are_the_hosts_less_the_offset(kernel, offset):
    bench = Bench(kernel)

    async def recipe(host: Host):
        vm = await vm_with(host, 2)
        for _ in range(3):
            await vm.set_counter_offset(offset)
        await host.wait(S)
        got = [await virtual(vcpu) for vcpu in vm.vcpus] + [await physical(vcpu) for vcpu in vm.vcpus]
        for vcpu in vm.vcpus:
            reading = (await vcpu.run(ReadCounters()))[0]
            got += [reading.cntvct, reading.cntpct, reading.cntvct_after]
        return got

    assert bench.run(recipe) == [u64(bench.now - offset)] * 10


@pytest.mark.parametrize("kernel", WITH_PHYSICAL)
def test_afterwards_a_write_by_value_is_answered_with_0_and_ignored(kernel):
    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        await vm.set_counter_offset(U64 - 1)
        for reg in (KVM_REG_ARM_TIMER_CNT, KVM_REG_ARM_PTIMER_CNT):
            await vm.vcpus[0].set_one_reg(reg, 12_345)
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_TIMER_CVAL, 7)
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_PTIMER_CVAL, 8)
        return [await vm.vcpus[0].get_one_reg(reg) for reg in (*VIRTUAL_REGS[1:], *PHYSICAL_REGS[1:])]

    assert Bench(kernel).run(recipe) == [UP + 1, 7, UP + 1, 8], "comparators are not fixed"


@pytest.mark.parametrize("kernel", WITH_PHYSICAL)
def test_it_concerns_one_vm(kernel):
    async def recipe(host: Host):
        one, other = await vm_with(host, 1), await vm_with(host, 1)
        await one.set_counter_offset(UP - 5)
        await other.vcpus[0].set_one_reg(KVM_REG_ARM_TIMER_CNT, 9)
        return [await virtual(one.vcpus[0]), await virtual(other.vcpus[0]), await physical(other.vcpus[0])]

    assert Bench(kernel).run(recipe) == [5, 9, UP]


@pytest.mark.parametrize("kernel", WITH_PHYSICAL)
def test_no_vcpu_is_needed_and_the_first_one_finds_it(kernel):
    async def recipe(host: Host):
        vm = await host.create_vm()
        await vm.set_counter_offset(UP)
        await host.wait(S)
        vcpu = await vm.create_vcpu()
        return [await virtual(vcpu), await physical(vcpu)]

    assert Bench(kernel).run(recipe) == [HZ, HZ]


def test_the_offset_is_kept_when_the_vcpu_is_reset():
    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CNT, 5)
        await vcpu.set_one_reg(KVM_REG_ARM_PTIMER_CNT, 6)
        for reg in (*VIRTUAL_REGS[::2], *PHYSICAL_REGS[::2]):
            await vcpu.set_one_reg(reg, 3)
        await vcpu.init()
        return [await vcpu.get_one_reg(reg) for reg in VIRTUAL_REGS + PHYSICAL_REGS]

    assert Bench().run(recipe) == [4, 5, 3, 4, 6, 3], "CTL: disabled, and ISTATUS as CVAL is over"


def test_migration_by_offset_is_exact_and_may_be_repeated():
    """kvm-arm64.md 3.3: one host, counters (H, W) of one instant, however long the calls take."""
    source, target = Bench(), Bench(spec=Arm64Spec(counter_at_start=42))

    async def leave(host: Host):
        vm = await vm_with(host, 1)
        await vm.set_counter_offset(UP - 1_000)
        await host.wait(S)
        return [await host.read_clock("counter"), await host.read_clock("realtime")]

    h_a, w_a = source.run(leave)

    async def arrive(host: Host):
        vm = await vm_with(host, 2)
        await host.wait(3 * S)
        h_b, w_b = await host.read_clock("counter"), await host.read_clock("realtime")
        await host.wait(123_456_789)
        offset = u64(UP - 1_000 + h_b - h_a - (w_b - w_a) * HZ // S)
        for _ in range(3):
            await vm.set_counter_offset(offset)
        return [await virtual(vcpu) for vcpu in vm.vcpus]

    shown = target.run(arrive)
    # Both hosts began at one REALTIME: the guest's counter goes on as if it had stayed.
    assert shown == [1_000 + (target.timeline.now_ps // 1_000) * HZ // S] * 2
