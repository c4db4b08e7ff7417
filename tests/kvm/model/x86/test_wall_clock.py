"""The wall clock page: realtime when kvmclock was 0, by the rules of its time (kvm-x86.md 1.2, 7.17)."""

from __future__ import annotations

import pytest
from tests.kvm.model.x86.bench import Bench, S, vm_with

from guestclock.kvm.api import Host, ReadClocks, ReadHostClock, StepRealtime, Wrmsr
from guestclock.machine import HostSpec

WALL_CLOCK, WALL_CLOCK_OLD, GPA = 0x4B564D00, 0x11, 0x3800


def page(bench: Bench):
    return bench.vm.wall_clock_pages[GPA]


def epoch_ns(bench: Bench) -> int:
    return page(bench).sec * S + page(bench).nsec


@pytest.mark.parametrize(("before", "after"), [(0, 2), (6, 8), (7, 10), (0x7FFFFFFF, 0x80000002), (0xFFFFFFFE, 0)])
def test_the_version_goes_on_from_memory_and_ends_even(before, after):
    bench = Bench()

    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].set_msr(WALL_CLOCK, GPA)
        page(bench).version = before
        await vm.vcpus[0].set_msr(WALL_CLOCK, GPA)

    bench.run(recipe)
    assert page(bench).version == after


def test_while_it_is_written_the_version_is_odd():
    bench = Bench(step_ns=10)
    seen = set()

    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 1)
        for _ in range(20):
            await vm.vcpus[0].set_msr(WALL_CLOCK, GPA)

    async def onlooker(host: Host) -> None:
        for _ in range(500):
            if bench.kvm.vms and bench.vm.wall_clock_pages:
                seen.add((page(bench).version % 2, page(bench).sec != 0))
            await host.wait(1)

    bench.run(recipe, onlooker)
    assert (1, False) in seen  # odd before the body is there
    assert (0, False) not in seen


async def guest_wall_clock(host: Host, bench: Bench, *, by_guest: bool) -> list[int]:
    """What the guest takes for realtime, less what the host does; and how far both reads were apart at most."""
    vm = await vm_with(host, 1)
    vcpu = vm.vcpus[0]
    await vcpu.run()
    await vcpu.run()
    await host.wait(40 * S)
    if by_guest:
        await vcpu.run(Wrmsr(WALL_CLOCK_OLD, GPA))
    else:
        await vcpu.set_msr(WALL_CLOCK, GPA)
    [shown] = await vcpu.run(ReadClocks())
    return [epoch_ns(bench) + shown.kvmclock_ns - await ReadHostClock("realtime")]


@pytest.mark.parametrize("by_guest", [True, False])
@pytest.mark.parametrize("kernel", ["linux-3.8", "linux-4.12", "linux-5.10", "linux-6.1", "linux-6.12", "linux-7.2"])
def test_the_guests_realtime_is_the_hosts(kernel, by_guest):
    bench = Bench(kernel)
    [off] = bench.run(lambda host: guest_wall_clock(host, bench, by_guest=by_guest))
    # The page (and so C, from which the epoch comes since 4.9) drifts from the raw clock; A and B also (7.1).
    assert abs(off) <= 40 * 51 + 3


@pytest.mark.parametrize("kernel", ["linux-2.6.36", "linux-2.6.37", "linux-3.4"])
def test_before_3_6_it_was_behind_by_the_hosts_uptime(kernel):
    bench = Bench(kernel, spec=HostSpec(uptime_ns=1234 * S))
    [off] = bench.run(lambda host: guest_wall_clock(host, bench, by_guest=True))
    assert off == pytest.approx(-1234 * S, abs=3000)


async def epoch_at_once(host: Host) -> None:
    vm = await vm_with(host, 1)
    await vm.vcpus[0].run()
    await host.wait(40 * S)
    await vm.set_clock(1000 * S)
    await vm.vcpus[0].set_msr(WALL_CLOCK, GPA)


def test_one_read_since_6_7_two_reads_before():
    """With 302 ns between clock reads the epoch is early by them; with one read it does not depend on them at all."""
    epochs = {}
    for kernel in ("linux-6.1", "linux-6.7"):
        for section_ns in (0, 302):
            bench = Bench(kernel, section_ns=section_ns)
            bench.run(epoch_at_once)
            host_at_snapshot = bench.machine.timekeeper.realtime_ns(bench.vm.master_cycle_now)
            epochs[kernel, section_ns] = epoch_ns(bench) - (host_at_snapshot - 1000 * S)
    assert epochs["linux-6.1", 0] == pytest.approx(0, abs=1)
    assert epochs["linux-6.1", 302] == pytest.approx(-302, abs=2)
    assert epochs["linux-6.7", 302] == pytest.approx(0, abs=1)


def test_without_a_masterclock_6_7_reads_twice_too():
    async def unmatched(host: Host) -> None:
        vm = await vm_with(host, 2)
        await vm.vcpus[1].set_msr(0x10, 777)
        for vcpu in vm.vcpus * 2:
            await vcpu.run()
        assert (await vm.get_clock()).flags == 0
        await vm.vcpus[0].set_msr(WALL_CLOCK, GPA)

    epochs = []
    for section_ns in (0, 302):
        bench = Bench(section_ns=section_ns)
        bench.run(unmatched)
        epochs.append(epoch_ns(bench) - bench.spec.realtime_ns + bench.spec.uptime_ns + bench.vm.kvmclock_offset)
    assert epochs[0] == pytest.approx(0, abs=3)
    assert epochs[1] == pytest.approx(-302, abs=3)


def test_a_restored_msr_computes_the_epoch_anew():
    bench = Bench()

    async def recipe(host: Host) -> list[int]:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].set_msr(WALL_CLOCK, GPA)
        first = epoch_ns(bench)
        await StepRealtime(3600 * S)
        kept = epoch_ns(bench)
        await vm.vcpus[0].set_msr(WALL_CLOCK_OLD, GPA)
        return [kept - first, epoch_ns(bench) - first, await vm.vcpus[0].get_msr(WALL_CLOCK)]

    kept, anew, value = bench.run(recipe)
    assert kept == 0
    assert anew == pytest.approx(3600 * S, abs=3)
    assert value == GPA  # two MSRs, one variable


def test_address_0_writes_nothing_and_the_seconds_wrap_in_2106():
    bench = Bench(spec=HostSpec(realtime_ns=(2**32 + 5) * S))

    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].set_msr(WALL_CLOCK, 0)
        assert not bench.vm.wall_clock_pages
        await vm.vcpus[0].set_msr(WALL_CLOCK, GPA)

    bench.run(recipe)
    assert page(bench).sec == 5
