"""The controls proposed in 2021, version by version, as overlays: what each does, and what was wrong with each.

Reference: kvm-arm64.md 2.9, and the patches as they were posted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.kvm.model.arm64.bench import HZ, Bench, errno, tried, vm_with

from guestclock.abi.arm64 import (
    KVM_ARM_VCPU_TIMER_CTRL,
    KVM_ARM_VCPU_TIMER_OFFSET_PTIMER,
    KVM_ARM_VCPU_TIMER_OFFSET_VTIMER,
    KVM_ARM_VCPU_TIMER_PHYS_OFFSET,
    KVM_CAP_ARM_VTIMER_OFFSET,
    KVM_REG_ARM_PTIMER_CNT,
    KVM_REG_ARM_TIMER_CNT,
    KVM_REG_ARM_TIMER_OFFSET,
)
from guestclock.arith import u64
from guestclock.kvm.api import CheckExtension, Host, ReadCounters, SetVcpuAttr, Vcpu, Vm
from guestclock.kvm.model.arm64 import KvmOptions
from guestclock.machine import Arm64Spec
from guestclock.sim import cp

V1, V2, V6, V8 = (f"linux-6.1-arm64+timer-offset-v{version}" for version in (1, 2, 6, 8))
UP = 1_000 * HZ
VIRTUAL, PHYSICAL = KVM_ARM_VCPU_TIMER_OFFSET_VTIMER, KVM_ARM_VCPU_TIMER_OFFSET_PTIMER


async def attribute(vcpu: Vcpu, attr: int, offset: int) -> None:
    await vcpu.set_attr(KVM_ARM_VCPU_TIMER_CTRL, attr, offset)


async def asked(vcpu: Vcpu, attr: int) -> Any:
    return await tried(vcpu.get_attr(KVM_ARM_VCPU_TIMER_CTRL, attr))


async def lags(vm: Vm, now: int) -> list[tuple[int, int]]:
    """What each vCPU's two counters lack to the host's, as the guest reads them."""
    read = [(await vcpu.run(ReadCounters()))[0] for vcpu in vm.vcpus]
    return [(u64(now - r.cntvct), u64(now - r.cntpct)) for r in read]


def on(kernel: str, recipe: Callable[[Vm, int], Awaitable[Any]], vcpus: int = 2, **host: Any) -> Any:
    """What the recipe answers: it is given a VM and the host's counter, which stands still."""

    async def whole(host: Host) -> Any:
        return await recipe(await vm_with(host, vcpus), UP)

    return Bench(kernel, **host).run(whole)


def all_overlays(*versions: str) -> Any:
    return pytest.mark.parametrize("kernel", versions, ids=lambda name: name[-2:])


# ---- what they have in common


@all_overlays(V1, V2, V6, V8)
def test_none_of_them_has_what_came_with_6_4(kernel):
    for base in ("linux-6.1-arm64", "linux-6.12-arm64", "linux-6.18-arm64"):

        async def recipe(vm: Vm, now: int) -> Any:
            return await errno(vm.set_counter_offset(5)), await errno(vm.vcpus[0].get_one_reg(KVM_REG_ARM_PTIMER_CNT))

        assert on(base + kernel[kernel.index("+") :], recipe) == ("EINVAL", "ENOENT")


def test_no_kernel_has_what_they_proposed():
    async def recipe(vm: Vm, now: int) -> Any:
        a = vm.vcpus[0]
        with_irqchip = [await vm.create_irqchip(), await errno(attribute(a, 9, 20))][1:]
        return await errno(a.get_one_reg(KVM_REG_ARM_TIMER_OFFSET)), with_irqchip, await asked(a, 9)

    assert on("linux-6.12-arm64", recipe) == ("ENOENT", ["ENXIO"], "ENXIO")


@all_overlays(V2, V6, V8)
def test_an_offset_is_the_same_number_however_long_the_call_takes_and_however_often_it_is_made(kernel):
    """The point of the series: no clock is read."""
    bench = Bench(kernel, step_ns=1_000, section_ns=100)

    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 3)
        for _ in range(5):
            await _virtual_offset(vm.vcpus[1], kernel, 10**10)
        await vm.vcpus[0].run()

    bench.run(recipe)
    assert [vcpu.timers[1].vm_offset.value for vcpu in bench.vm.vcpus] == [10**10] * 3


async def _virtual_offset(vcpu: Vcpu, kernel: str, offset: int) -> None:
    if kernel in (V6, V8):
        await vcpu.set_one_reg(KVM_REG_ARM_TIMER_OFFSET, offset)
    else:
        await attribute(vcpu, VIRTUAL, offset)


# ---- v1: one vCPU's


def test_v1_an_offset_is_of_its_vcpu_alone():
    async def recipe(vm: Vm, now: int) -> Any:
        await attribute(vm.vcpus[0], VIRTUAL, 5)
        await attribute(vm.vcpus[0], PHYSICAL, 6)
        await vm.vcpus[1].move_to_cpu(1)
        return await lags(vm, now), [await asked(vcpu, attr) for vcpu in vm.vcpus for attr in (VIRTUAL, PHYSICAL)]

    assert on(V1, recipe) == ([(5, 6), (UP, 0)], [5, 6, UP, 0]), "guests see two counters on two vCPUs"


# ---- v2: broadcast


def test_v2_an_offset_goes_to_all_vcpus():
    async def recipe(vm: Vm, now: int) -> Any:
        await attribute(vm.vcpus[0], VIRTUAL, 5)
        await attribute(vm.vcpus[2], PHYSICAL, 6)
        return await lags(vm, now)

    assert on(V2, recipe, vcpus=3) == [(5, 6)] * 3


def test_v2_the_two_offsets_are_both_the_hosts():
    """Marc Zyngier asked for the virtual one to be reckoned from the guest's physical counter."""

    async def recipe(vm: Vm, now: int) -> Any:
        await attribute(vm.vcpus[0], PHYSICAL, 1_000)
        await attribute(vm.vcpus[0], VIRTUAL, 7)
        return await lags(vm, now)

    assert on(V2, recipe) == [(7, 1_000)] * 2


def test_v2_asked_for_the_virtual_offset_it_answers_the_physical_one():
    """A `break` was missing until v5: who saves and restores the virtual offset sets it to the physical one."""

    async def recipe(vm: Vm, now: int) -> Any:
        a = vm.vcpus[0]
        await attribute(a, VIRTUAL, 5)
        await attribute(a, PHYSICAL, 6)
        told = [await asked(a, attr) for attr in (VIRTUAL, PHYSICAL)]
        await attribute(a, VIRTUAL, told[0])
        return told, await lags(vm, now)

    assert on(V2, recipe) == ([6, 6], [(6, 6)] * 2)


def test_v2_takes_interrupt_numbers_as_before():
    async def recipe(vm: Vm, now: int) -> Any:
        await vm.create_irqchip()
        await vm.vcpus[0].set_attr(KVM_ARM_VCPU_TIMER_CTRL, 0, 20)
        return await vm.vcpus[1].get_attr(KVM_ARM_VCPU_TIMER_CTRL, 0)

    assert on(V2, recipe) == 20


def test_v2_a_new_vcpu_resets_the_virtual_offset_of_all_and_has_no_physical_one():
    async def recipe(vm: Vm, now: int) -> Any:
        await attribute(vm.vcpus[0], VIRTUAL, 5)
        await attribute(vm.vcpus[0], PHYSICAL, 6)
        await vm.create_vcpu()
        return await lags(vm, now)

    assert on(V2, recipe) == [(UP, 6), (UP, 6), (UP, 0)]


def test_v2_a_running_vcpu_keeps_the_virtual_offset_that_it_has_loaded():
    async def recipe(vm: Vm, now: int) -> Any:
        await vm.vcpus[1].start()
        await attribute(vm.vcpus[0], VIRTUAL, 5)
        before = (await vm.vcpus[1].peek()).cntvct
        await vm.vcpus[1].kick()
        return before, await lags(vm, now)

    before, after = on(V2, recipe)
    assert (before, after) == (0, [(5, 0)] * 2)


def half_way(kernel: str, group: int, attr: int, offset: int) -> list[tuple[int, ...]]:
    """Both offsets of three vCPUs, each time they have changed while another vCPU's thread broadcasts."""
    bench = Bench(kernel, step_ns=1_000)
    seen: list[tuple[int, ...]] = []

    def now() -> tuple[int, ...]:
        return tuple(timer.vm_offset.value for vcpu in bench.vm.vcpus for timer in vcpu.timers)

    async def writer(host: Host) -> None:
        vm = await vm_with(host, 3)
        await host.wait(10_000)
        await SetVcpuAttr(vm.id, 0, group, attr, offset)
        await host.wait(10_000)

    async def watcher() -> None:
        while True:
            if bench.kvm.vms and len(bench.vm.vcpus) == 3 and (not seen or seen[-1] != now()):
                seen.append(now())
            await cp("watches", delay_ps=100_000)

    bench.scheduler.spawn("watcher", watcher(), daemon=True)
    bench.run(writer)
    return seen


def test_v2_the_broadcast_is_one_vcpu_after_the_other():
    """For a while the vCPUs of one guest have two counters: a vCPU that is loaded meanwhile shows it."""
    first = half_way(V2, KVM_ARM_VCPU_TIMER_CTRL, VIRTUAL, 5)
    old = first[0][1]
    assert first == [(0, old, 0, old, 0, old), (0, 5, 0, old, 0, old), (0, 5, 0, 5, 0, old), (0, 5, 0, 5, 0, 5)]


# ---- v6: the physical offset under both, and a register


@all_overlays(V6, V8)
def test_the_physical_offset_moves_both_counters(kernel):
    async def recipe(vm: Vm, now: int) -> Any:
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_TIMER_OFFSET, 5)
        await attribute(vm.vcpus[1], KVM_ARM_VCPU_TIMER_PHYS_OFFSET, 1_000)
        told = [await asked(vcpu, KVM_ARM_VCPU_TIMER_PHYS_OFFSET) for vcpu in vm.vcpus]
        regs = [await vcpu.get_one_reg(KVM_REG_ARM_TIMER_OFFSET) for vcpu in vm.vcpus]
        return await lags(vm, now), told, regs

    assert on(kernel, recipe) == ([(1_005, 1_000)] * 2, [1_000] * 2, [5] * 2)


@all_overlays(V6, V8)
def test_and_so_does_each_change_of_it(kernel):
    async def recipe(vm: Vm, now: int) -> Any:
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_TIMER_OFFSET, 5)
        for offset in (1_000, 1_000, 30):
            await attribute(vm.vcpus[0], KVM_ARM_VCPU_TIMER_PHYS_OFFSET, offset)
        return await lags(vm, now)

    assert on(kernel, recipe) == [(35, 30)] * 2


@all_overlays(V6, V8)
def test_the_order_in_which_the_two_are_set_does_not_matter(kernel):
    async def recipe(vm: Vm, now: int) -> Any:
        await attribute(vm.vcpus[0], KVM_ARM_VCPU_TIMER_PHYS_OFFSET, 1_000)
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_TIMER_OFFSET, 5)
        return await lags(vm, now)

    assert on(kernel, recipe) == [(1_005, 1_000)] * 2


@all_overlays(V6, V8)
def test_a_counter_by_value_forgets_the_physical_offset(kernel):
    """Reiji Watanabe's find: the value becomes now - CNTVOFF, and the physical offset comes on top."""

    async def recipe(vm: Vm, now: int) -> Any:
        await attribute(vm.vcpus[0], KVM_ARM_VCPU_TIMER_PHYS_OFFSET, 1_000)
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_TIMER_CNT, 50_000)
        return await vm.vcpus[0].get_one_reg(KVM_REG_ARM_TIMER_CNT), await lags(vm, now)

    shown, lag = on(kernel, recipe)
    assert shown == 49_000
    assert lag == [(UP - 49_000, 1_000)] * 2


@all_overlays(V6, V8)
def test_a_new_vcpu_does_not_inherit_the_physical_offset(kernel):
    async def recipe(vm: Vm, now: int) -> Any:
        await attribute(vm.vcpus[0], KVM_ARM_VCPU_TIMER_PHYS_OFFSET, 1_000)
        await vm.create_vcpu()
        return await lags(vm, now)

    assert on(kernel, recipe) == [(UP + 1_000, 1_000), (UP + 1_000, 1_000), (UP, 0)], "and so has another CNTVCT"


def test_what_the_register_answers_is_the_same_reckoned_or_remembered():
    """v6 reckons it from the two offsets, v8 answers what was written last."""

    def told(kernel: str) -> list[int]:
        async def recipe(vm: Vm, now: int) -> Any:
            await attribute(vm.vcpus[0], KVM_ARM_VCPU_TIMER_PHYS_OFFSET, 1_000)
            await vm.vcpus[0].set_one_reg(KVM_REG_ARM_TIMER_OFFSET, 5)
            await vm.create_vcpu()
            await vm.vcpus[2].set_one_reg(KVM_REG_ARM_TIMER_OFFSET, 9)
            await attribute(vm.vcpus[2], KVM_ARM_VCPU_TIMER_PHYS_OFFSET, 50)
            return [await vcpu.get_one_reg(KVM_REG_ARM_TIMER_OFFSET) for vcpu in vm.vcpus]

        return on(kernel, recipe)

    assert told(V6) == [9, 9, 9]
    assert told(V8) == [9, 9, 9]


def test_v6_shows_the_register_to_everybody_and_v8_to_who_asked_for_it():
    """A VMM that restores all of KVM_GET_REG_LIST writes both, the counter and the offset (Drew Jones)."""

    async def recipe(vm: Vm, now: int) -> Any:
        listed = await vm.vcpus[0].get_reg_list()
        capable = await CheckExtension(KVM_CAP_ARM_VTIMER_OFFSET)
        return (
            capable,
            KVM_REG_ARM_TIMER_OFFSET in listed,
            await tried(vm.vcpus[0].get_one_reg(KVM_REG_ARM_TIMER_OFFSET)),
        )

    declined = KvmOptions(vtimer_offset=False)
    assert on(V6, recipe) == on(V6, recipe, options=declined) == (0, True, UP)
    assert on(V8, recipe) == (1, True, UP)
    assert on(V8, recipe, options=declined) == (1, False, "ENOENT")


@pytest.mark.parametrize("kernel", [V6, V8])
def test_with_ecv_the_hardware_has_the_physical_offset_but_only_on_vhe(kernel):
    async def recipe(vm: Vm, now: int) -> Any:
        await attribute(vm.vcpus[0], KVM_ARM_VCPU_TIMER_PHYS_OFFSET, 1_000)
        return (await lags(vm, now))[0][1]

    hosts = {(vhe, ecv): Arm64Spec(vhe=vhe, ecv=ecv) for vhe in (True, False) for ecv in (True, False)}
    told = {host: on(kernel, recipe, spec=spec) for host, spec in hosts.items()}
    # On nVHE with FEAT_ECV nothing is trapped and nothing enables CNTPOFF_EL2: the guest reads the host's counter.
    assert told == {(True, True): 1_000, (True, False): 1_000, (False, False): 1_000, (False, True): 0}


def test_v6_the_physical_offset_goes_first_through_one_and_then_through_the_other():
    """update_ptimer_cntpoff(): all physical offsets, then all virtual ones."""
    seen = half_way(V6, KVM_ARM_VCPU_TIMER_CTRL, KVM_ARM_VCPU_TIMER_PHYS_OFFSET, 5)
    old = seen[0][1]
    new = old + 5
    assert seen == [
        (0, old, 0, old, 0, old), (5, old, 0, old, 0, old), (5, old, 5, old, 0, old), (5, old, 5, old, 5, old),
        (5, new, 5, old, 5, old), (5, new, 5, new, 5, old), (5, new, 5, new, 5, new),
    ]  # fmt: skip
