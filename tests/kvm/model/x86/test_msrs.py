"""MSRs: who may write what, and what follows (kvm-x86.md 1.2, 3.2, 7.10, 7.16)."""

from __future__ import annotations

import pytest
from tests.kvm.model.x86.bench import TSC, Bench, S, vm_with

from guestclock.errors import UserError
from guestclock.kvm.api import ClearGuestStopped, Host, KvmError, Rdmsr, ReadClocks, Vm, Wrmsr
from guestclock.kvm.model.x86 import KvmOptions
from guestclock.kvm.model.x86.msr import system_time_gpa

TSC_ADJUST = 0x3B
OLD, NEW = 0x12, 0x4B564D01
STABLE = 1


async def booted(host: Host, vcpus: int = 1) -> Vm:
    vm = await vm_with(host, vcpus)
    for vcpu in vm.vcpus * 2:
        await vcpu.run()
    return vm


# ---- TSC_ADJUST


def test_a_guests_tsc_adjust_moves_its_tsc_and_its_page():
    async def recipe(host: Host) -> list[int]:
        vm = await booted(host)
        before, _, after, _, again = await vm.vcpus[0].run(
            ReadClocks(), Wrmsr(TSC_ADJUST, 5000), ReadClocks(), Wrmsr(TSC_ADJUST, 2000), ReadClocks()
        )
        return [
            after.tsc - before.tsc,
            after.page.tsc_timestamp - before.page.tsc_timestamp,
            after.kvmclock_ns - before.kvmclock_ns,
            after.page.version - before.page.version,
            again.tsc - before.tsc,
        ]

    assert Bench().run(recipe) == [5000, 5000, 0, 2, 2000]


def test_a_guests_tsc_write_goes_into_tsc_adjust_but_not_into_its_page():
    async def recipe(host: Host) -> list[int]:
        vm = await booted(host)
        before, _, adjust, after = await vm.vcpus[0].run(
            ReadClocks(), Wrmsr(TSC, 7 * S), Rdmsr(TSC_ADJUST), ReadClocks()
        )
        assert after.tsc == 7 * S
        return [adjust - (after.tsc - before.tsc), after.page.version - before.page.version]

    assert Bench().run(recipe) == [0, 0]


def test_a_host_only_stores_tsc_adjust():
    async def recipe(host: Host) -> list[int]:
        vm = await booted(host)
        before = await vm.vcpus[0].peek()
        await vm.vcpus[0].set_msr(TSC_ADJUST, 2**64 - 5)
        [after] = await vm.vcpus[0].run(ReadClocks())
        return [after.tsc - before.tsc, after.page.version - before.page.version, await vm.vcpus[0].get_msr(TSC_ADJUST)]

    assert Bench().run(recipe) == [0, 0, 2**64 - 5]
    assert Bench(options=KvmOptions(guest_tsc_adjust=False)).run(recipe) == [0, 0, 0]


def test_before_3_8_there_is_no_tsc_adjust():
    async def recipe(host: Host) -> list[object]:
        vm = await booted(host)
        answers = list(await vm.vcpus[0].run(Wrmsr(TSC_ADJUST, 5), Rdmsr(TSC_ADJUST)))
        for attempt in (vm.vcpus[0].set_msr(TSC_ADJUST, 5), vm.vcpus[0].get_msr(TSC_ADJUST)):
            try:
                await attempt
            except KvmError as error:
                answers.append(error.errno)
        return answers

    assert Bench("linux-3.4").run(recipe) == ["#GP", "#GP", "EINVAL", "EINVAL"]
    assert Bench("linux-3.8").run(recipe) == [None, 5]


def test_under_kvm_pvm_what_a_guests_write_asks_for_waits_for_the_next_run():
    async def recipe(host: Host) -> list[int]:
        vm = await booted(host)
        before, _, after = await vm.vcpus[0].run(ReadClocks(), Wrmsr(TSC_ADJUST, 5000), ReadClocks())
        [later] = await vm.vcpus[0].run(ReadClocks())
        return [r.page.version - before.page.version for r in (after, later)]

    assert Bench("linux-6.18").run(recipe) == [2, 2]
    assert Bench("pvm").run(recipe) == [0, 2]


# ---- the system-time MSRs


async def old_by(host: Host, vcpu: int, *, by_guest: bool) -> list[int]:
    """GET_CLOCK's flags before, after one vCPU goes over to MSR 0x12, and after it has come back."""
    vm = await booted(host, 2)
    flags = [(await vm.get_clock()).flags]
    for msr in (OLD, NEW):
        gpa = system_time_gpa(vcpu) | 1
        if by_guest:
            await vm.vcpus[vcpu].run(Wrmsr(msr, gpa))
        else:
            await vm.vcpus[vcpu].set_msr(msr, gpa)
        for each in vm.vcpus * 2:
            await each.run()
        flags.append((await vm.get_clock()).flags)
        assert (await vm.vcpus[1].peek()).page.flags == (STABLE if flags[-1] else 0)
    return flags


def test_only_vcpu_0s_guest_kills_the_masterclock_with_the_old_msr():
    assert Bench().run(lambda h: old_by(h, 0, by_guest=True)) == [14, 0, 14]
    assert Bench().run(lambda h: old_by(h, 1, by_guest=True)) == [14, 14, 14]
    assert Bench().run(lambda h: old_by(h, 0, by_guest=False)) == [14, 14, 14]


def test_both_msrs_are_one_variable():
    async def recipe(host: Host) -> list[int]:
        vm = await host.create_vm()
        vcpu = await vm.create_vcpu()
        await vcpu.set_msr(OLD, 0x5001)
        first = await vcpu.get_msr(NEW)
        await vcpu.set_msr(NEW, 0)
        return [first, await vcpu.get_msr(OLD)]

    assert Bench().run(recipe) == [0x5001, 0]


@pytest.mark.parametrize(("offset", "active"), [(0, "active"), (4096 - 32, "active"), (4096 - 28, "EINVAL")])
def test_a_page_that_would_cross_a_frame_is_silently_not_active(offset, active):
    async def recipe(host: Host) -> str:
        vm = await host.create_vm()
        vcpu = await vm.create_vcpu()
        await vcpu.set_msr(NEW, 0x5000 + offset | 1)
        try:
            await vcpu.kvmclock_ctrl()
        except KvmError as error:
            return error.errno
        return "active"

    assert Bench().run(recipe) == active


def test_the_page_is_first_written_at_the_next_run():
    async def recipe(host: Host) -> list[int]:
        vm = await vm_with(host, 1)
        versions = [(await vm.vcpus[0].peek()).page.version]
        await vm.vcpus[0].run()
        return [*versions, (await vm.vcpus[0].peek()).page.version]

    assert Bench().run(recipe) == [0, 2]


@pytest.mark.parametrize(("before", "after"), [(0, 2), (6, 8), (7, 10), (0x7FFFFFFF, 0x80000002), (0xFFFFFFFE, 0)])
def test_the_version_goes_on_from_memory(before, after):
    bench = Bench()

    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 1)
        bench.vcpu(0).pv_time.version = before
        await vm.vcpus[0].run()

    bench.run(recipe)
    assert bench.vcpu(0).pv_time.version == after


def test_under_kvm_pvm_a_host_that_enables_vcpu_0s_page_takes_stable_from_it():
    async def recipe(host: Host) -> list[tuple[int, int]]:
        vm = await booted(host, 2)
        await vm.vcpus[0].kvmclock_ctrl()
        await vm.vcpus[0].run()
        for vcpu in vm.vcpus * 2:
            await vcpu.enable_kvmclock()
        pages = [(await vcpu.peek()).page for vcpu in vm.vcpus]
        return [(page.version, page.flags) for page in pages]

    assert Bench("pvm").run(recipe) == [(8, 2), (2, 1)]
    assert Bench("linux-6.18").run(recipe) == [(6, 3), (2, 1)]


def test_an_msr_the_model_does_not_know():
    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].set_msr(0x1234, 5)

    with pytest.raises(UserError, match="MSR 0x1234: the model knows 0x10, 0x11"):
        Bench().run(recipe)


def test_guest_stopped_stays_until_the_guest_clears_it():
    async def recipe(host: Host) -> list[int]:
        vm = await booted(host)
        vcpu = vm.vcpus[0]
        flags = []
        await vcpu.kvmclock_ctrl()
        for ns in (1, 2, 3):  # three page updates
            await vm.set_clock(ns * S)
            await vcpu.run()
            flags.append((await vcpu.peek()).page.flags)
        await vcpu.run(ClearGuestStopped())
        await vm.set_clock(4 * S)
        await vcpu.run()
        return [*flags, (await vcpu.peek()).page.flags]

    assert Bench().run(recipe) == [3, 3, 3, 1]
    assert Bench("linux-3.8").run(recipe) == [3, 3, 3, 1]
