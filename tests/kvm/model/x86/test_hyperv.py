"""Hyper-V's reference time: the TSC page against its formula, its states, and the counter MSR (kvm-x86.md 4.7)."""

from __future__ import annotations

from fractions import Fraction

import pytest
from tests.kvm.model.x86.bench import TSC, Bench, S

from guestclock.kvm.api import Host, KvmError, Rdmsr, Run, Vm, Wrmsr
from guestclock.kvm.model.x86.hyperv import guest_page, reference_time
from guestclock.machine import HostSpec

TIME_REF_COUNT = 0x40000020
REFERENCE_TSC = 0x40000021
TSC_FREQUENCY = 0x40000022
EMULATION_CONTROL = 0x40000107
PAGE = 0x7000 | 1


async def enlightened(host: Host, vcpus: int = 1) -> Vm:
    """A VM whose guest has the reference TSC page and no page of KVM's."""
    vm = await host.create_vm()
    for _ in range(vcpus):
        await vm.create_vcpu()
    for vcpu in vm.vcpus:
        await vcpu.run()
    await vm.vcpus[0].run(Wrmsr(REFERENCE_TSC, PAGE))
    return vm


@pytest.mark.parametrize("khz", [2_596_122, 2_100_000, 3_000_000, 24_000])
def test_the_page_is_the_formulas_and_stays_within_its_rounding_for_a_day(khz):
    bench = Bench(spec=HostSpec(tsc_khz=khz))

    async def recipe(host: Host) -> list[int]:
        vm = await enlightened(host)
        await vm.vcpus[0].set_tsc_offset(12_345_678_901)
        await host.wait(1000 * S)
        await vm.set_clock(987_654_321_987)
        await vm.vcpus[0].run()
        await host.wait(86_400 * S)
        msr, tsc = await vm.vcpus[0].run(Rdmsr(TIME_REF_COUNT), Rdmsr(TSC))
        return [msr, tsc, (await vm.get_clock()).clock_ns]

    msr, tsc, kvmclock_ns = bench.run(recipe)
    vm, vcpu = bench.vm, bench.vcpu(0)
    page = guest_page(vm)
    mul, shift = vcpu.pvclock_tsc_mul, vcpu.pvclock_tsc_shift
    timestamp = (vm.master_cycle_now + vcpu.l1_tsc_offset) % 2**64
    system_time = vm.master_kernel_ns + vm.kvmclock_offset
    assert page.scale == (1 << 32 + shift) * mul // 100
    assert page.offset == system_time // 100 - (timestamp * page.scale >> 64)
    if khz == 2_596_122:
        assert page.scale == 0xFC7024AA3D70A3
    assert reference_time(page, tsc) == msr
    # Exactly, the line would be this; each of the three floors takes less than one unit of 100 ns.
    exact = Fraction(system_time, 100) + Fraction((tsc - timestamp) * mul, 100 * 2 ** (32 - shift))
    assert -2 < msr - exact < 2
    assert abs(msr - kvmclock_ns // 100) <= 2


def test_a_scale_that_needs_65_bits_breaks_the_page():
    bench = Bench(spec=HostSpec(tsc_khz=10_000))
    bench.run(enlightened)
    assert bench.vm.hv_tsc_page_status == "broken"
    assert guest_page(bench.vm).sequence == 0
    assert reference_time(guest_page(bench.vm), 5) is None


def test_the_page_is_written_once_per_change():
    bench = Bench()

    async def recipe(host: Host) -> list[tuple[str, int]]:
        seen = []

        def look() -> None:
            seen.append((bench.vm.hv_tsc_page_status, guest_page(bench.vm).sequence))

        vm = await enlightened(host, 2)
        look()
        await vm.vcpus[0].run()
        await vm.vcpus[1].run()
        look()
        await vm.set_clock(5 * S)
        look()
        await vm.vcpus[1].run()  # whichever vCPU is updated first
        look()
        await vm.vcpus[0].set_msr(REFERENCE_TSC, PAGE)
        look()
        await vm.vcpus[0].run()
        look()
        await vm.vcpus[0].set_msr(REFERENCE_TSC, 0)
        seen.append((bench.vm.hv_tsc_page_status, 0))
        return seen

    assert bench.run(recipe) == [
        ("set", 1),
        ("set", 1),
        ("host changed", 1),
        ("set", 2),
        ("host changed", 2),
        ("set", 3),
        ("unset", 0),
    ]


def test_who_wrote_the_msr():
    bench = Bench()

    async def by_host(host: Host) -> list[str]:
        vm = await host.create_vm()
        vcpu = await vm.create_vcpu()
        await vcpu.set_msr(REFERENCE_TSC, PAGE)
        return [bench.vm.hv_tsc_page_status]

    assert bench.run(by_host) == ["host changed"]


@pytest.mark.parametrize(
    ("before", "after"), [(0, 1), (7, 8), (0xFFFFFFFD, 0xFFFFFFFE), (0xFFFFFFFE, 1), (0xFFFFFFFF, 1)]
)
def test_the_sequence_goes_on_from_memory_and_skips_two_values(before, after):
    bench = Bench()

    async def recipe(host: Host) -> None:
        vm = await enlightened(host)
        guest_page(bench.vm).sequence = before
        await vm.set_clock(5 * S)
        await vm.vcpus[0].run()

    bench.run(recipe)
    assert guest_page(bench.vm).sequence == after


def test_while_it_is_written_the_sequence_is_0():
    bench = Bench(step_ns=10)
    seen: list[tuple[int, int]] = []

    async def recipe(host: Host) -> None:
        vm = await enlightened(host)
        for clock_ns in (S, 2 * S, 3 * S):
            await vm.set_clock(clock_ns)
            await vm.vcpus[0].run()

    async def onlooker(host: Host) -> None:
        for _ in range(2000):
            if bench.kvm.vms and bench.vm.hv_pages:
                page = guest_page(bench.vm)
                seen.append((page.sequence, page.offset))
            await host.wait(1)

    bench.run(recipe, onlooker)
    valid = {(sequence, offset) for sequence, offset in seen if sequence}
    assert len(valid) == len({sequence for sequence, _ in valid}) == 4  # one body for each sequence
    assert any(sequence == 0 and offset for sequence, offset in seen)


def test_without_a_masterclock_the_page_is_broken_and_the_msr_tells_kvmclock():
    bench = Bench()

    async def recipe(host: Host) -> list[int]:
        vm = await enlightened(host, 2)
        await vm.vcpus[0].set_msr(TSC, 123 * S)
        await vm.vcpus[0].run()
        return [*await vm.vcpus[0].run(Rdmsr(TIME_REF_COUNT)), (await vm.get_clock()).clock_ns // 100]

    counter, kvmclock = bench.run(recipe)
    assert bench.vm.hv_tsc_page_status == "broken"
    assert guest_page(bench.vm).sequence == 0
    assert counter == pytest.approx(kvmclock, abs=1)


def test_with_re_enlightenment_the_page_stays_as_it_is_until_the_guest_moves_it():
    bench = Bench()

    async def recipe(host: Host) -> list[tuple[int, int]]:
        vm = await enlightened(host)
        page = guest_page(bench.vm)
        seen = [(page.sequence, page.offset)]
        await vm.vcpus[0].run(Wrmsr(EMULATION_CONTROL, 1))
        await vm.set_clock(3600 * S)
        await vm.vcpus[0].run()
        seen.append((page.sequence, page.offset))
        await vm.vcpus[0].run(Wrmsr(REFERENCE_TSC, PAGE))
        seen.append((page.sequence, page.offset))
        return seen

    first, kept, moved = bench.run(recipe)
    assert first == kept
    assert moved[0] == kept[0] + 1
    assert moved[1] - kept[1] == pytest.approx(3600 * 10_000_000, abs=20)


def test_a_restored_page_is_taken_over_as_it_is_while_re_enlightenment_is_on():
    bench = Bench()

    async def recipe(host: Host) -> list[int]:
        vm = await host.create_vm()
        vcpu = await vm.create_vcpu()
        await vcpu.run()
        await vcpu.set_msr(EMULATION_CONTROL, 1)
        await vcpu.set_msr(REFERENCE_TSC, PAGE)
        page = guest_page(bench.vm)
        page.sequence, page.scale, page.offset = 7, 1 << 60, 1234  # as another host has left it
        await vcpu.run()
        [counter, tsc] = await vcpu.run(Rdmsr(TIME_REF_COUNT), Rdmsr(TSC))
        assert (page.sequence, page.scale, page.offset) == (7, 1 << 60, 1234)
        return [counter - (tsc >> 4)]

    assert bench.run(recipe) == [1234]


def test_the_frequency_msr_is_what_the_guest_was_promised():
    async def recipe(host: Host) -> int:
        vm = await host.create_vm()
        vcpu = await vm.create_vcpu()
        await vcpu.set_tsc_khz(2_596_200)
        return (await vcpu.run(Rdmsr(TSC_FREQUENCY)))[0]

    assert Bench().run(recipe) == 2_596_200_000


def test_refusals():
    async def recipe(host: Host) -> list[object]:
        vm = await host.create_vm()
        vcpu = await vm.create_vcpu()
        answers: list[object] = list(await Run(0, 0, (Wrmsr(TIME_REF_COUNT, 1), Rdmsr(REFERENCE_TSC))))
        for attempt in (vcpu.set_msr(REFERENCE_TSC, PAGE), vcpu.get_msr(TIME_REF_COUNT)):
            try:
                answers.append(await attempt is not None)
            except KvmError as error:
                answers.append(error.errno)
        return answers

    assert Bench("linux-3.19").run(recipe) == ["#GP", "#GP", "EINVAL", "EINVAL"]
    assert Bench("linux-6.12").run(recipe) == ["#GP", 0, False, True]
