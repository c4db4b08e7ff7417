"""The known pains of guest time, each with its exact figure (kvm-x86.md section 7)."""

from __future__ import annotations

import pytest
from tests.kvm.model.x86.bench import TSC, Bench, S, vm_with

from guestclock.kvm.api import Host, ReadClocks, Wrmsr
from guestclock.machine import HostSpec

KHZ = 2_596_122
STABLE = 1


async def hotplug_step(host: Host) -> int:
    """How far kvmclock steps when a vCPU is plugged in 100 s after the last snapshot."""
    vm = await vm_with(host, 1)
    await vm.vcpus[0].run()
    await host.wait(100 * S)
    await vm.vcpus[0].run()
    before = await vm.vcpus[0].peek()
    plugged = await vm.create_vcpu()
    await plugged.run()
    await vm.vcpus[0].run()
    after = await vm.vcpus[0].peek()
    assert before.kvmclock_ns is not None
    assert after.kvmclock_ns is not None
    return after.kvmclock_ns - before.kvmclock_ns


def test_hotplug_resnapshots_the_masterclock_until_6_7():
    step_ns = {kernel: Bench(kernel).run(hotplug_step) for kernel in ("linux-6.7", "linux-6.8", "linux-6.12")}
    assert step_ns == {"linux-6.7": -4987, "linux-6.8": 0, "linux-6.12": 0}  # 49.868 ns/s * 100 s, less a floor


@pytest.mark.parametrize(
    ("khz", "ns_per_s"),
    [
        (1_000_000, 0),
        (2_000_000, 0),
        (2_100_000, -59.407),
        (2_400_000, 47.777),
        (2_499_999, -12.515),
        (2_500_000, -59.372),
        (2_593_992, 32.010),
        (2_596_122, -49.868),
        (2_900_000, 17.893),
        (3_000_000, -59.372),
        (3_600_000, 47.777),
        (24_000, 0.715),
    ],
)
def test_a_new_snapshot_steps_kvmclock_by_the_rounding_of_two_scales(khz, ns_per_s):
    async def resnapshot(host: Host) -> float:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].run()
        start = await vm.get_clock()
        await host.wait(1000 * S)
        before = await vm.vcpus[0].peek()
        b = await vm.create_vcpu()
        await b.set_msr(TSC, 12345)  # off ...
        await b.run()
        await b.set_msr(TSC, 0)
        await vm.vcpus[0].set_msr(TSC, 0)  # ... and on again
        await vm.vcpus[0].run()
        await b.run()
        await vm.vcpus[0].run()
        after = await vm.vcpus[0].peek()
        assert start.flags == 14
        assert after.page.flags == before.page.flags == STABLE
        return (after.kvmclock_ns - before.kvmclock_ns) / 1000

    spec = HostSpec(tsc_khz=khz)
    assert Bench(spec=spec).run(resnapshot) == pytest.approx(ns_per_s, abs=0.004)


@pytest.mark.parametrize(
    ("host_khz", "guest_khz", "scaling", "page_mul", "page_shift", "ns_per_s"),
    [
        (3_000_000, 2_500_000, "vmx", 0xCCCCD22B, -1, 400.177),
        (3_000_000, 2_500_000, "svm", 0xCCCCD22B, -1, 400.084),
        (2_596_122, 3_000_000, "vmx", 0xAAAAAE65, -1, 333.586),
        (2_596_122, 2_000_000, "vmx", 0x80000431, 0, 499.944),
        (2_000_000, 2_100_000, "vmx", 0xF3CF448F, -1, 476.032),
        (2_000_000, 1_000_000, "vmx", 0x80000000, 1, 0),
    ],
)
def test_a_scaled_guest_is_ahead_of_get_clock(host_khz, guest_khz, scaling, page_mul, page_shift, ns_per_s):
    async def scaled(host: Host) -> tuple[int, int, float]:
        vm = await host.create_vm()
        await vm.set_tsc_khz(guest_khz)
        vcpu = await vm.create_vcpu()
        await vcpu.enable_kvmclock()
        await vcpu.run()
        await host.wait(1000 * S)
        shown = await vcpu.peek()
        clock = await vm.get_clock()
        return shown.page.tsc_to_system_mul, shown.page.tsc_shift, (shown.kvmclock_ns - clock.clock_ns) / 1000

    spec = HostSpec(tsc_khz=host_khz, tsc_scaling=scaling)
    mul, shift, ahead = Bench(spec=spec).run(scaled)
    assert (mul, shift) == (page_mul, page_shift)
    assert ahead == pytest.approx(ns_per_s, abs=0.002)
    _, _, ahead = Bench("linux-6.12+exact-c", spec).run(scaled)
    assert ahead == pytest.approx(0, abs=0.002)


def test_a_negative_catchup_delta_throws_the_tsc_1_4e19_cycles_ahead():
    async def order_b_before_a(host: Host) -> list[int]:
        vm = await host.create_vm()
        for _ in range(2):
            vcpu = await vm.create_vcpu()
            await vcpu.set_tsc_khz(3_000_000)
            await vcpu.enable_kvmclock()
        for vcpu in vm.vcpus:
            await vcpu.set_msr(TSC, 0)
        a, b = vm.vcpus
        await a.run()
        await b.run()
        await a.run()
        await host.wait(S)
        for vcpu in (a, b):
            await vcpu.set_msr(TSC, 10 * S)
        await b.run()
        return [(await b.peek()).page.tsc_timestamp, (await b.peek()).page.flags]

    for kernel in ("linux-6.8", "linux-6.12", "linux-7.2", "pvm"):
        timestamp, flags = Bench(kernel, step_ns=100).run(order_b_before_a)
        assert timestamp >= 0xBFFFFFFF_00000000, kernel
        assert flags == STABLE
    for kernel in ("linux-6.7", "linux-6.12+negative-delta-guard", "linux-6.12+queued-7.4"):
        timestamp, _ = Bench(kernel, step_ns=100).run(order_b_before_a)
        assert timestamp < 100 * S, kernel


def test_tsc_0_is_a_no_op_and_spoils_the_expectation():
    async def zero(host: Host) -> tuple[int, int, int]:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].set_msr(TSC, 5 * S)
        before = await vm.vcpus[0].get_msr(TSC)
        await vm.vcpus[0].set_msr(TSC, 0)
        return before, await vm.vcpus[0].get_msr(TSC), 0

    bench = Bench()
    before, after, _ = bench.run(zero)
    assert before == after == 5 * S
    assert bench.vm.last_tsc_write == 0


def test_a_stale_page_until_the_writer_enters():
    async def b_first(host: Host) -> list[int]:
        vm = await vm_with(host, 2)
        a, b = vm.vcpus
        for vcpu in (a, b, a, b):
            await vcpu.run()
        before = (await b.peek()).kvmclock_ns
        version = (await b.peek()).page.version
        offset = await a.get_tsc_offset()
        for vcpu in (a, b):
            await vcpu.set_tsc_offset(offset + KHZ * 1000)
        await b.run()
        shown = await b.peek()
        assert shown.page.version == version
        wrong = shown.kvmclock_ns - before
        await a.run()
        await b.run()
        return [wrong, (await b.peek()).kvmclock_ns - before]

    wrong, healed = Bench().run(b_first)
    assert wrong == pytest.approx(S, abs=2)
    assert healed == pytest.approx(0, abs=2)


def test_stable_stays_while_unmatched_until_the_writer_enters():
    async def unmatched(host: Host) -> list[int]:
        vm = await vm_with(host, 2)
        a, b = vm.vcpus
        for vcpu in (a, b, a, b):
            await vcpu.run()
        await a.set_tsc_offset(1)
        flags = []
        await b.run()
        flags += [(await b.peek()).page.flags, (await vm.get_clock()).flags]
        await a.run()
        await b.run()
        flags += [(await b.peek()).page.flags, (await vm.get_clock()).flags]
        return flags

    assert Bench().run(unmatched) == [STABLE, 14, 0, 0]


def test_two_snapshots_are_alive_at_boot():
    async def boot(host: Host) -> list[int]:
        vm = await vm_with(host, 2)
        a, b = vm.vcpus
        await a.run()
        await host.wait(10 * S)
        await b.run()
        pages = [(await a.peek()).page, (await b.peek()).page]
        assert [p.flags for p in pages] == [STABLE, STABLE]
        return [pages[0].tsc_timestamp == pages[1].tsc_timestamp, pages[1].system_time - pages[0].system_time]

    same, apart = Bench().run(boot)
    assert not same
    assert apart == pytest.approx(10 * S, abs=1000)


def test_a_guests_tsc_write_leaves_its_page_stale_until_the_next_update():
    async def write(host: Host) -> list[int]:
        vm = await vm_with(host, 1)
        vcpu = vm.vcpus[0]
        await vcpu.run()
        await host.wait(S)
        before, _, stale = await vcpu.run(ReadClocks(), Wrmsr(TSC, 0), ReadClocks())
        await vcpu.kvmclock_ctrl()
        [healed] = await vcpu.run(ReadClocks())
        return [before.kvmclock_ns, stale.kvmclock_ns, healed.kvmclock_ns]

    assert Bench().run(write) == [S - 1, 0, S - 1]
    assert Bench("linux-5.10").run(write)[1:] == [0, S - 1]
    # tracked, and (by one truncated cycle) within 1 s of the expected value: in sync, and P8's new snapshot steps
    assert Bench("linux-5.4").run(write)[1:] == [S - 1 - 50, S - 1 - 50]
