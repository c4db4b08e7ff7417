"""PTP by hypercall: the host's REALTIME and a counter of the guest's, of one instant. Reference: kvm-arm64.md 4.2."""

from __future__ import annotations

from typing import Any

import pytest
from tests.kvm.model.arm64.bench import HZ, Bench, S, vm_with

from guestclock.abi.arm64 import (
    ARM_SMCCC_VENDOR_HYP_KVM_FEATURES_FUNC_ID,
    ARM_SMCCC_VENDOR_HYP_KVM_PTP_FUNC_ID,
    KVM_PTP_PHYS_COUNTER,
    KVM_PTP_VIRT_COUNTER,
    KVM_REG_ARM_PTIMER_CNT,
    KVM_REG_ARM_TIMER_CNT,
    SMCCC_RET_NOT_SUPPORTED,
)
from guestclock.kvm.api import Host, Hvc, ReadCounters, SetOneReg, StepRealtime
from guestclock.kvm.model import names
from guestclock.machine import Arm64Spec

KERNELS = [name for name in names("arm64") if not name.startswith("+")]
WITH_PTP = [kernel for kernel in KERNELS if kernel != "linux-5.10-arm64"]
WITH_PHYSICAL = ["linux-6.4-arm64", "linux-6.12-arm64", "linux-6.18-arm64"]
UP = 1_000 * HZ
VIRT = Hvc(ARM_SMCCC_VENDOR_HYP_KVM_PTP_FUNC_ID, KVM_PTP_VIRT_COUNTER)
PHYS = Hvc(ARM_SMCCC_VENDOR_HYP_KVM_PTP_FUNC_ID, KVM_PTP_PHYS_COUNTER)


def told(answer: Any) -> tuple[int, int]:
    """(REALTIME in ns, counter) of x0..x3."""
    assert all(part < 2**32 for part in answer)
    return (answer[0] << 32) + answer[1], (answer[2] << 32) + answer[3]


@pytest.mark.parametrize("kernel", WITH_PTP)
def test_both_counters_and_the_time(kernel):
    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await host.wait(S)
        return [told(answer) for answer in await vcpu.run(VIRT, PHYS)], await host.read_clock("realtime")

    answers, real_ns = Bench(kernel).run(recipe)
    assert answers == [(real_ns, HZ), (real_ns, UP + HZ)]


@pytest.mark.parametrize("kernel", WITH_PHYSICAL)
def test_with_offsets(kernel):
    async def recipe(host: Host):
        vm = await vm_with(host, 2)
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_TIMER_CNT, 2**64 - 3)
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_PTIMER_CNT, 77)
        return [told(answer)[1] for answer in await vm.vcpus[1].run(VIRT, PHYS)]

    assert Bench(kernel).run(recipe) == [2**64 - 3, 77]


def test_the_counter_lies_between_the_guests_own_reads():
    """And it is what the guest's counter was at that REALTIME, however long the hypercall takes."""
    bench = Bench(step_ns=1_000, section_ns=333)

    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        await vm.set_counter_offset(UP)
        return await vm.vcpus[0].run(ReadCounters(), VIRT, PHYS, ReadCounters())

    before, virt, phys, after = bench.run(recipe)
    for (real_ns, counter), first, last in (
        (told(virt), before.cntvct, after.cntvct),
        (told(phys), before.cntpct, after.cntpct),
    ):
        assert first < counter < last
        assert real_ns - bench.spec.realtime_ns == counter * 16


@pytest.mark.parametrize("kernel", ["linux-6.1-arm64", "linux-6.12-arm64"])
def test_a_vcpu_that_is_late_is_told_the_counter_that_kvm_has_in_memory(kernel):
    """Set behind its back, its CNTVCT is the old one until its next load; PTP's is the new one at once."""
    bench = Bench(kernel, step_ns=1_000)

    async def guest(host: Host):
        vm = await vm_with(host, 2)
        return await vm.vcpus[1].run(*[ReadCounters()] * 10, VIRT, ReadCounters())

    async def writer(host: Host):
        while not (bench.kvm.vms and len(bench.vm.vcpus) == 2 and bench.vcpu(1).enabled):
            await host.wait(100)
        await SetOneReg(0, 0, KVM_REG_ARM_TIMER_CNT, 10**15)

    *_, virt, after = bench.run(guest, writer)
    assert told(virt)[1] >= 10**15
    assert after.cntvct < HZ


def test_another_counter_is_none():
    """The snapshot is taken, and nothing is told of it."""

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        return await vcpu.run(Hvc(ARM_SMCCC_VENDOR_HYP_KVM_PTP_FUNC_ID, 2))

    assert Bench().run(recipe) == [(SMCCC_RET_NOT_SUPPORTED, 0, 0, 0)]


def test_before_5_13_there_is_none():
    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        return await vcpu.run(VIRT, Hvc(ARM_SMCCC_VENDOR_HYP_KVM_FEATURES_FUNC_ID))

    assert Bench("linux-5.10-arm64").run(recipe) == [(SMCCC_RET_NOT_SUPPORTED, 0, 0, 0)] * 2
    assert Bench("linux-6.1-arm64").run(recipe)[1] == (3, 0, 0, 0), "FEATURES and PTP"


def test_ntp_and_steps_are_in_the_time_and_not_in_the_counter():
    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await StepRealtime(5 * S)
        await host.wait(S)
        return [told(answer) for answer in await vcpu.run(VIRT)]

    ((real_ns, counter),) = Bench().run(recipe)
    assert (real_ns - Arm64Spec().realtime_ns, counter) == (6 * S, HZ)
