"""Stolen time: what the guest's record says, and how far KVM has counted. Reference: kvm-arm64.md 4.1."""

from __future__ import annotations

import pytest
from tests.kvm.model.arm64.bench import Bench, S, vm_with

from guestclock.abi.arm64 import (
    ARM_SMCCC_ARCH_FEATURES_FUNC_ID,
    ARM_SMCCC_HV_PV_TIME_FEATURES,
    ARM_SMCCC_HV_PV_TIME_ST,
    ARM_SMCCC_VERSION_FUNC_ID,
    KVM_ARM_VCPU_PVTIME_CTRL,
    KVM_ARM_VCPU_PVTIME_IPA,
    SMCCC_RET_NOT_SUPPORTED,
)
from guestclock.arith import u64
from guestclock.kvm.api import Host, Hvc, Preempt, Vcpu, Vm
from guestclock.kvm.model import names
from guestclock.kvm.model.arm64 import KvmOptions

KERNELS = [name for name in names("arm64") if not name.startswith("+")]
IPA = 0x4000_0040
STOLEN_NS = 12_345


async def place(vcpu: Vcpu, ipa: int = IPA) -> None:
    await vcpu.set_attr(KVM_ARM_VCPU_PVTIME_CTRL, KVM_ARM_VCPU_PVTIME_IPA, ipa)


async def loses(vcpu: Vcpu, ns: int) -> None:
    """The vCPU runs, and waits so long for its CPU."""
    await vcpu.start()
    await Preempt(vcpu.vm, vcpu.index, ns)
    await vcpu.kick()


async def with_record(host: Host) -> Vm:
    vm = await vm_with(host, 1)
    await place(vm.vcpus[0])
    return vm


def record(bench: Bench, ipa: int = IPA) -> tuple[int, int, int]:
    page = bench.vm.pages[ipa]
    return page.revision, page.attributes, page.stolen_time


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_a_guest_is_told_of_it(kernel):
    """FEATURES answers -1 without a record for this vCPU, ST answers where it is."""
    ask = (
        Hvc(ARM_SMCCC_HV_PV_TIME_FEATURES, ARM_SMCCC_HV_PV_TIME_FEATURES),
        Hvc(ARM_SMCCC_HV_PV_TIME_FEATURES, ARM_SMCCC_HV_PV_TIME_ST),
        Hvc(ARM_SMCCC_HV_PV_TIME_FEATURES, 5),
        Hvc(ARM_SMCCC_HV_PV_TIME_ST),
    )

    async def recipe(host: Host):
        a, b = (await vm_with(host, 2)).vcpus
        await place(a)
        return [[x0 for x0, *_ in await vcpu.run(*ask)] for vcpu in (a, b)]

    none = SMCCC_RET_NOT_SUPPORTED
    assert Bench(kernel).run(recipe) == [[0, 0, none, IPA], [none, none, none, 2**64 - 1]]


def test_smccc_is_version_1_1_and_knows_of_pv_time():
    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        return await vcpu.run(
            Hvc(ARM_SMCCC_VERSION_FUNC_ID), Hvc(ARM_SMCCC_ARCH_FEATURES_FUNC_ID, ARM_SMCCC_HV_PV_TIME_FEATURES)
        )

    assert Bench().run(recipe) == [(0x10001, 0, 0, 0), (0, 0, 0, 0)]


def test_the_functions_number_is_32_bits_of_x0():
    async def recipe(host: Host):
        (vcpu,) = (await with_record(host)).vcpus
        return await vcpu.run(Hvc(ARM_SMCCC_HV_PV_TIME_ST + 2**63))

    assert Bench().run(recipe) == [(IPA, 0, 0, 0)]


@pytest.mark.parametrize("kernel", KERNELS)
def test_what_the_thread_waits_is_added(kernel):
    bench = Bench(kernel)

    async def recipe(host: Host):
        (vcpu,) = (await with_record(host)).vcpus
        await vcpu.run(Hvc(ARM_SMCCC_HV_PV_TIME_ST))
        got = []
        for ns in (STOLEN_NS, 0, 5):
            await loses(vcpu, ns)
            got.append(record(bench))
        return got

    assert bench.run(recipe) == [(0, 0, STOLEN_NS), (0, 0, STOLEN_NS), (0, 0, STOLEN_NS + 5)]


def test_the_guests_counters_do_not_stop_for_it():
    bench = Bench()

    async def recipe(host: Host):
        (vcpu,) = (await with_record(host)).vcpus
        await vcpu.start()
        await Preempt(0, 0, S)
        await host.wait(S)
        return (await vcpu.peek()).cntvct

    assert bench.run(recipe) == 62_500_000


def test_only_waiting_for_a_cpu_counts():
    """Not the time that the vCPU is outside KVM_RUN, nor the guest's own."""
    bench = Bench()

    async def recipe(host: Host):
        (vcpu,) = (await with_record(host)).vcpus
        await vcpu.run(Hvc(ARM_SMCCC_HV_PV_TIME_ST))
        await host.wait(S)
        await vcpu.start()
        await host.wait(S)
        await vcpu.kick()
        await vcpu.run()
        return record(bench)

    assert bench.run(recipe) == (0, 0, 0)


def test_asking_again_begins_at_0():
    bench = Bench()

    async def recipe(host: Host):
        (vcpu,) = (await with_record(host)).vcpus
        await loses(vcpu, STOLEN_NS)
        before = record(bench)
        await vcpu.run(Hvc(ARM_SMCCC_HV_PV_TIME_ST))
        after = record(bench)
        await loses(vcpu, 7)
        return before, after, record(bench)

    assert bench.run(recipe) == ((0, 0, STOLEN_NS), (0, 0, 0), (0, 0, 7))


def test_a_record_that_came_with_the_guests_memory_is_added_to():
    """last_steal is 0 in a new vCPU: its thread's whole wait so far is added, the blackout is not."""
    bench = Bench()

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await loses(vcpu, 100)
        await place(vcpu)
        bench.vm.pages[IPA].stolen_time = 10**9  # what was migrated
        await host.wait(3 * S)
        await vcpu.run()
        return record(bench), bench.vcpu(0).last_steal

    assert bench.run(recipe) == ((0, 0, 10**9 + 100), 100)


def test_a_thread_that_waited_less_takes_away():
    """Another thread runs the vCPU now: u64 arithmetic, no check."""
    bench = Bench()

    async def recipe(host: Host):
        (vcpu,) = (await with_record(host)).vcpus
        await loses(vcpu, 100)
        bench.vcpu(0).run_delay = 30
        await vcpu.run()
        return record(bench)

    assert bench.run(recipe) == (0, 0, u64(100 + 30 - 100))


def test_each_vcpu_has_its_own_record_and_two_may_have_one():
    bench = Bench()

    async def recipe(host: Host):
        vm = await vm_with(host, 3)
        for vcpu, ipa in zip(vm.vcpus, (IPA, IPA + 64, IPA), strict=True):
            await place(vcpu, ipa)
        for vcpu, ns in zip(vm.vcpus, (1, 20, 300), strict=True):
            await loses(vcpu, ns)
        return record(bench), record(bench, IPA + 64)

    assert bench.run(recipe) == ((0, 0, 301), (0, 0, 20))


def test_memory_is_where_the_options_say():
    options = KvmOptions(memory=(0x8000_0000, 4096))

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await place(vcpu, 0x8000_0FC0)
        return await vcpu.run(Hvc(ARM_SMCCC_HV_PV_TIME_ST))

    assert Bench(options=options).run(recipe) == [(0x8000_0FC0, 0, 0, 0)]
