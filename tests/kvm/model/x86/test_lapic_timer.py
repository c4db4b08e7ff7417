"""The TSC-deadline timer of a vCPU: when it fires, what its MSR reads, and that a TSC write does not move it."""

from __future__ import annotations

from typing import Any

from tests.kvm.model.x86.bench import TSC, Bench, S, vm_with

from guestclock.abi.msr import MSR_IA32_TSC_DEADLINE
from guestclock.kvm.api import Host, Rdmsr, Vm, Wrmsr
from guestclock.kvm.model.x86.lapic_timer import interrupt_pending
from guestclock.sim import PS_PER_NS

KHZ = 2_596_122
SECOND = KHZ * 1000
PS_PER_S = S * PS_PER_NS


async def restored(host: Host, *writes: tuple[int, int]) -> Vm:
    """A VM of one vCPU, with these MSRs written to it."""
    vm = await vm_with(host, 1)
    for index, data in writes:
        await vm.vcpus[0].set_msr(index, data)
    return vm


def fires_after_ps(*writes: tuple[int, int]) -> int:
    bench = Bench()
    assert bench.machine.tsc_khz == KHZ

    async def recipe(host: Host) -> None:
        await restored(host, *writes)

    bench.run(recipe)
    assert bench.vcpu(0).deadline_armed
    return bench.vcpu(0).deadline_fires_ps - bench.timeline.now_ps


def test_it_fires_when_the_tsc_of_the_moment_will_have_come_so_far():
    assert fires_after_ps((TSC, 100 * SECOND), (MSR_IA32_TSC_DEADLINE, 103 * SECOND)) == 3 * PS_PER_S


def test_a_tsc_that_is_written_afterwards_does_not_move_it():
    """Firecracker #4099: it waits for as long as the guest has lived besides."""
    assert fires_after_ps((MSR_IA32_TSC_DEADLINE, 103 * SECOND), (TSC, 100 * SECOND)) == 103 * PS_PER_S


def test_nor_does_an_offset():
    bench = Bench()

    async def recipe(host: Host) -> list[int]:
        vm = await restored(host, (TSC, 100 * SECOND), (MSR_IA32_TSC_DEADLINE, 103 * SECOND))
        before = bench.vcpu(0).deadline_fires_ps
        await vm.vcpus[0].set_tsc_offset(await vm.vcpus[0].get_tsc_offset() + SECOND)
        return [before, bench.vcpu(0).deadline_fires_ps]

    before, after = bench.run(recipe)
    assert before == after


def test_a_deadline_that_has_passed_fires_at_once():
    assert fires_after_ps((TSC, 100 * SECOND), (MSR_IA32_TSC_DEADLINE, 99 * SECOND)) == 0
    assert fires_after_ps((TSC, 100 * SECOND), (MSR_IA32_TSC_DEADLINE, 100 * SECOND)) == 0


def test_further_than_the_product_reaches_it_is_early():
    hours = 3 * 3600
    late = fires_after_ps((MSR_IA32_TSC_DEADLINE, hours * SECOND))
    wrap_ns = 2**64 // KHZ
    assert abs(late - (hours * S - wrap_ns) * PS_PER_NS) <= PS_PER_NS


def test_between_its_two_clock_reads_lies_how_early_it_is():
    bench = Bench(section_ns=200)

    async def recipe(host: Host) -> Any:
        return await restored(host, (TSC, 100 * SECOND), (MSR_IA32_TSC_DEADLINE, 103 * SECOND))

    bench.run(recipe)
    vcpu = bench.vcpu(0)
    fired = (bench.machine.tsc_at(vcpu.deadline_fires_ps) + vcpu.l1_tsc_offset) % 2**64
    assert 0 < 103 * SECOND - fired <= 201 * KHZ // 1_000_000 + 3


# ---- the MSR


def test_the_latest_write_is_the_timer_and_0_disarms():
    bench = Bench()

    async def recipe(host: Host) -> list[int]:
        vm = await restored(host, (MSR_IA32_TSC_DEADLINE, 5 * SECOND), (MSR_IA32_TSC_DEADLINE, 7 * SECOND))
        second = await vm.vcpus[0].get_msr(MSR_IA32_TSC_DEADLINE)
        await vm.vcpus[0].set_msr(MSR_IA32_TSC_DEADLINE, 0)
        return [second, await vm.vcpus[0].get_msr(MSR_IA32_TSC_DEADLINE)]

    assert bench.run(recipe) == [7 * SECOND, 0]
    assert not bench.vcpu(0).deadline_armed


def test_the_guest_arms_it_and_reads_it_until_it_has_fired():
    bench = Bench(step_ns=100)

    async def recipe(host: Host) -> list[int]:
        vm = await restored(host, (TSC, 100 * SECOND))
        [_, armed] = await vm.vcpus[0].run(
            Wrmsr(MSR_IA32_TSC_DEADLINE, 101 * SECOND), Rdmsr(MSR_IA32_TSC_DEADLINE)
        )  # fmt: skip
        saved = await vm.vcpus[0].get_msr(MSR_IA32_TSC_DEADLINE)
        await host.wait(2 * S)
        [fired] = await vm.vcpus[0].run(Rdmsr(MSR_IA32_TSC_DEADLINE))
        return [armed, saved, fired, await vm.vcpus[0].get_msr(MSR_IA32_TSC_DEADLINE)]

    assert bench.run(recipe) == [101 * SECOND, 101 * SECOND, 0, 0]


def test_outside_kvm_run_it_is_only_due_and_the_msr_keeps_it():
    """So a VMM that pauses before it fires, and saves after, saves the deadline."""
    bench = Bench(step_ns=100)

    async def recipe(host: Host) -> list[object]:
        vm = await restored(host, (TSC, 100 * SECOND))
        await vm.vcpus[0].run(Wrmsr(MSR_IA32_TSC_DEADLINE, 101 * SECOND))
        before = interrupt_pending(bench.vcpu(0), bench.timeline.now_ps)
        await host.wait(2 * S)
        due = interrupt_pending(bench.vcpu(0), bench.timeline.now_ps)
        saved = await vm.vcpus[0].get_msr(MSR_IA32_TSC_DEADLINE)
        await vm.vcpus[0].run()
        seen = interrupt_pending(bench.vcpu(0), bench.timeline.now_ps)
        return [before, due, saved, seen, await vm.vcpus[0].get_msr(MSR_IA32_TSC_DEADLINE)]

    assert bench.run(recipe) == [False, True, 101 * SECOND, False, 0]


def test_a_running_guest_has_had_it_when_it_is_kicked():
    bench = Bench(step_ns=100)

    async def recipe(host: Host) -> list[int]:
        vm = await restored(host, (TSC, 100 * SECOND))
        saved = []
        for wait_ns in (S // 2, S):
            await vm.vcpus[0].run(Wrmsr(MSR_IA32_TSC_DEADLINE, 101 * SECOND))
            await vm.vcpus[0].start()
            await host.wait(wait_ns)
            await vm.vcpus[0].kick()
            saved.append(await vm.vcpus[0].get_msr(MSR_IA32_TSC_DEADLINE))
        return saved

    assert bench.run(recipe) == [101 * SECOND, 0]
