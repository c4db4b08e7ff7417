"""The host sleeps: what becomes of guests' TSCs, of the masterclock and of GUEST_STOPPED (kvm-x86.md 4.5, 7.13)."""

from __future__ import annotations

import pytest
from tests.kvm.model.x86.bench import TSC, Bench, S, probe, vm_with

from guestclock.kvm.api import ClearGuestStopped, Host, HostSleep, ReadClocks, Vm
from guestclock.machine import HostSpec

KHZ = 2_596_122
STABLE, STOPPED = 1, 2
EXACT_RTC = HostSpec(rtc_grain_ns=0)


async def ran(host: Host, vcpus: int) -> Vm:
    vm = await vm_with(host, vcpus)
    for vcpu in vm.vcpus * 2:
        await vcpu.run()
    return vm


async def around_a_sleep(host: Host, tsc: str) -> list[int]:
    """Ten seconds after the VM's start the host sleeps for 1000: by how much TSC and kvmclock have moved after it."""
    vm = await ran(host, 1)
    await host.wait(10 * S)
    [before] = await vm.vcpus[0].run(ReadClocks())
    await HostSleep(1000 * S, tsc)
    [after] = await vm.vcpus[0].run(ReadClocks())
    await vm.xen_shared_info_init()  # a new snapshot, and nothing else
    [again] = await vm.vcpus[0].run(ReadClocks())
    return [after.tsc - before.tsc, after.kvmclock_ns - before.kvmclock_ns, again.kvmclock_ns - before.kvmclock_ns]


def test_a_tsc_that_counts_on_takes_tsc_and_masterclock_with_it():
    tsc, kvmclock, again = Bench(spec=EXACT_RTC).run(lambda h: around_a_sleep(h, "running"))
    assert tsc == 1000 * S * KHZ // 10**6
    assert kvmclock == pytest.approx(1000 * S, abs=400)  # through the TSC: 0.289 ppb slow
    # through offs_boot: only the 10 s before it drift, and the page's own ppb has gone
    assert again == pytest.approx(1000 * S - 499, abs=3)


def test_a_stopped_tsc_stops_the_guest_until_a_new_snapshot_finds_the_time_slept():
    tsc, kvmclock, again = Bench(spec=EXACT_RTC).run(lambda h: around_a_sleep(h, "stopped"))
    assert tsc == 0
    assert kvmclock == 0
    assert again == pytest.approx(1000 * S - 499, abs=3)


def test_a_reset_tsc_is_made_up_for_but_the_time_slept_is_lost_from_it():
    bench = Bench(spec=EXACT_RTC)
    tsc, kvmclock, again = bench.run(lambda h: around_a_sleep(h, "reset"))
    assert tsc == 0
    assert kvmclock == again == pytest.approx(1000 * S - 499, abs=3)
    assert bench.vm.backwards_tsc_observed


def test_after_a_reset_the_masterclock_is_off_for_ever():
    bench = Bench(spec=EXACT_RTC)

    async def recipe(host: Host) -> list[int]:
        vm = await ran(host, 2)
        flags = [await probe(vm)]
        await HostSleep(100 * S, "reset")
        for vcpu in vm.vcpus * 2:
            await vcpu.run()
        flags.append(await probe(vm))
        for value in (5 * S, 5 * S):  # both vCPUs into a new generation
            for vcpu in vm.vcpus:
                await vcpu.set_msr(TSC, value)
        flags.append(await probe(vm))
        await host.wait(86_400 * S)
        for vcpu in vm.vcpus * 2:
            await vcpu.run()
        flags += [await probe(vm), (await vm.vcpus[1].peek()).page.flags & STABLE]
        return flags

    assert bench.run(recipe) == [14, 0, 0, 0, 0]
    assert bench.vm.nr_vcpus_matched_tsc == 1


def test_before_3_16_the_masterclock_came_back_from_a_reset():
    bench = Bench("linux-3.8", spec=EXACT_RTC)

    async def recipe(host: Host) -> None:
        vm = await ran(host, 1)
        await HostSleep(100 * S, "reset")
        await vm.vcpus[0].run()

    bench.run(recipe)
    assert bench.vm.use_master_clock


def test_every_vcpu_is_moved_by_the_same_number_of_cycles():
    """By the furthest host TSC that any of them had seen when it was last put."""
    bench = Bench(spec=EXACT_RTC)

    async def recipe(host: Host) -> list[int]:
        vm = await ran(host, 2)
        await host.wait(3 * S)
        await vm.vcpus[1].run()
        offsets = [bench.vcpu(i).l1_tsc_offset for i in (0, 1)]
        furthest = bench.vcpu(1).last_host_tsc
        await HostSleep(100 * S, "reset")
        for vcpu in vm.vcpus:
            await vcpu.run()
        return [(bench.vcpu(i).l1_tsc_offset - offsets[i]) % 2**64 - furthest for i in (0, 1)]

    assert bench.run(recipe) == [0, 0]


def test_tsc_0_after_a_reset_applies_the_offset_from_before_the_sleep():
    """cur_tsc_offset is not moved with the others: the write that means "in sync" puts this vCPU 2^64 cycles back."""
    bench = Bench(spec=EXACT_RTC)

    async def recipe(host: Host) -> list[int]:
        vm = await ran(host, 2)
        await host.wait(60 * S)
        for vcpu in vm.vcpus:
            await vcpu.run()
        stale = bench.vm.cur_tsc_offset
        await HostSleep(100 * S, "reset")
        for vcpu in vm.vcpus:
            await vcpu.run()
        assert bench.vcpu(1).l1_tsc_offset != stale
        await vm.vcpus[1].set_msr(TSC, 0)
        assert bench.vcpu(1).l1_tsc_offset == stale
        a, b = (await vm.vcpus[0].peek()).tsc, (await vm.vcpus[1].peek()).tsc
        return [(a - b) % 2**64]

    [apart] = bench.run(recipe)
    assert apart == pytest.approx(
        1060 * S * KHZ // 10**6, rel=1e-3
    )  # all that the host's TSC had counted since power-on


def test_guests_with_a_page_are_told_that_they_were_stopped_since_5_14():
    async def recipe(host: Host) -> list[object]:
        vm = await ran(host, 2)
        await vm.vcpus[1].set_msr(0x4B564D01, 0)
        await HostSleep(S)
        flags = []
        for vcpu in vm.vcpus:
            await vcpu.run()
        await vm.vcpus[1].enable_kvmclock()
        for vcpu in vm.vcpus:
            await vcpu.run()
            flags.append((await vcpu.peek()).page.flags & STOPPED)
        cleared = await vm.vcpus[0].run(ClearGuestStopped(), ClearGuestStopped())
        await vm.vcpus[0].run()
        return [*flags, *cleared, (await vm.vcpus[0].peek()).page.flags & STOPPED]

    assert Bench().run(recipe) == [STOPPED, 0, True, False, 0]
    assert Bench("linux-5.10").run(recipe) == [0, 0, False, False, 0]
