"""arm64: a VMM takes a sleep of the host from its guest's counters with one ioctl, and tells the guest how long it was.

There is no kvmclock, the counter never stops, and it is what measures the sleep: the host's error about it is 0.
"""

from __future__ import annotations

import pytest
from tests.kvm.model.arm64.bench import HZ, Bench, S, vm_with

from guestclock.kvm.api import Host, HostSleep, ReadCounters, Vm
from guestclock.linux import Timekeeper, arch_sys_counter

FEW_NS, TICK_NS = 2_000, 10**9 // HZ
"""What a few operations take in this bench."""

KERNELS = ["linux-6.4-arm64", "linux-6.12-arm64", "linux-6.18-arm64"]


async def suspended(host: Host, vm: Vm, slept_ns: int, kind: str, hidden: int) -> tuple[int, int]:
    """Stop, stamp, sleep, one offset for both counters before any vCPU runs: (cycles hidden in all, ns of BOOTTIME)."""
    counter, boottime = await host.read_clock("counter"), await host.read_clock("boottime")
    await HostSleep(slept_ns, kind=kind)
    hidden += await host.read_clock("counter") - counter
    await vm.set_counter_offset(hidden)
    return hidden, await host.read_clock("boottime") - boottime


@pytest.mark.parametrize("kind", ["s2idle", "s3"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_both_counters_and_the_guests_clocks_go_on_where_they_were(kernel: str, kind: str) -> None:
    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 2)
        await vm.set_counter_offset(await host.read_clock("counter"))
        hidden = (await host.read_clock("counter")) - (await vm.vcpus[0].peek()).cntvct
        [booted] = await vm.vcpus[0].run(ReadCounters())
        clock = arch_sys_counter(HZ)
        tk = Timekeeper.start(clock, booted.cntvct, hz=250, monotonic_ns=100 * S, realtime_ns=10**18)
        total_ns = 0
        for slept_ns in (600 * S, 10 * S + 999_000, 300_000_000):
            [before] = await vm.vcpus[1].run(ReadCounters())
            hidden, boot_ns = await suspended(host, vm, slept_ns, kind, hidden)
            afters = [(await vcpu.run(ReadCounters()))[0] for vcpu in vm.vcpus]
            for name in ("cntvct", "cntpct"):
                gained = [getattr(after, name) - getattr(before, name) for after in afters]
                assert all(0 <= ticks * 10**9 // HZ < FEW_NS for ticks in gained), (name, gained)
            last, first = before.cntvct, afters[0].cntvct
            assert 0 <= tk.monotonic_ns(first) - tk.monotonic_ns(last) < FEW_NS
            tk.inject_sleeptime64(first, boot_ns)
            total_ns += slept_ns
            assert -3 * TICK_NS < tk.boottime_ns(first) - tk.monotonic_ns(first) - total_ns < 3 * FEW_NS
            assert tk.realtime_ns(first) - tk.boottime_ns(first) == 10**18 - 100 * S

    Bench(kernel).run(recipe)


def test_without_the_ioctl_the_sleep_is_in_every_clock_and_an_injection_on_top_is_one_too_many() -> None:
    """The stock guest; and the reason why telling is not enough (0 in the thread: who hides the counter?)."""

    async def recipe(host: Host) -> tuple[int, int]:
        vm = await vm_with(host, 1)
        [booted] = await vm.vcpus[0].run(ReadCounters())
        clock = arch_sys_counter(HZ)
        tk = Timekeeper.start(clock, booted.cntvct, hz=250, monotonic_ns=100 * S, realtime_ns=10**18)
        await HostSleep(600 * S, kind="s2idle")
        [after] = await vm.vcpus[0].run(ReadCounters())
        monotonic = tk.monotonic_ns(after.cntvct)
        tk.inject_sleeptime64(after.cntvct, 600 * S)
        return monotonic, tk.boottime_ns(after.cntvct)

    monotonic, boottime = Bench("linux-6.12-arm64").run(recipe)
    assert monotonic == pytest.approx(700 * S, abs=FEW_NS)
    assert boottime == pytest.approx(1300 * S, abs=FEW_NS)


def test_a_guest_that_reads_its_raw_counters_sees_no_sleep_and_one_that_is_not_told_is_behind() -> None:
    """No Linux, or one that ignores the interrupt: its counter is continuous, its wall clock loses the sleep."""

    async def recipe(host: Host) -> tuple[int, int]:
        vm = await vm_with(host, 1)
        start = await host.read_clock("counter")
        await vm.set_counter_offset(start)
        [before] = await vm.vcpus[0].run(ReadCounters())
        await suspended(host, vm, 600 * S, "s2idle", start)
        [after] = await vm.vcpus[0].run(ReadCounters())
        return after.cntvct - before.cntvct, after.cntpct - before.cntpct

    gained = Bench("linux-6.12-arm64").run(recipe)
    assert all(0 <= ticks * 10**9 // HZ < FEW_NS for ticks in gained)
