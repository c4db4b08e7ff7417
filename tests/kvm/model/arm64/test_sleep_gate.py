"""The gate over a sleep of the host, with integers: who enters when, and which instant it keeps."""

from __future__ import annotations

from tests.kvm.model.arm64.bench import HZ, Bench, S, vm_with

from guestclock.kvm.api import Host, HostSleep
from guestclock.kvm.model.arm64.sleep_gate import SleepGate, VmSleep

KERNEL = "linux-6.12-arm64+sleep-gate"


def test_nobody_enters_before_the_vmm_has_said_so_and_the_stop_is_the_last_exit():
    bench = Bench(KERNEL, step_ns=1_000)
    inside: list[bool] = []

    async def recipe(host: Host) -> int:
        vm = await vm_with(host, 1)
        await vm.set_counter_offset(await host.read_clock("counter"))
        await vm.vcpus[0].start()
        await host.wait(S)
        before = (await vm.vcpus[0].peek()).cntvct
        await HostSleep(40 * S, kind="s2idle")
        await host.wait(S)
        told: VmSleep = bench.vm.suspend
        inside.append(bench.vcpu(0).in_guest)
        await vm.vcpus[0].kick()
        boottime_ns = await host.read_clock("boottime")
        counter = await host.read_clock("counter")
        passed = (boottime_ns - told.stop_base_ns) * HZ // S
        assert 0 <= counter - told.stop_counter - passed < HZ // 100_000, "of one instant"
        start = told.stop_counter - before
        await vm.set_counter_offset(start + counter - told.stop_counter)
        assert told.over
        assert SleepGate.acknowledged(bench.vm, told.gates)
        await vm.vcpus[0].start()
        await host.wait(1_000_000)
        inside.append(bench.vcpu(0).in_guest)
        return (await vm.vcpus[0].peek()).cntvct - before

    gained = bench.run(recipe)
    assert inside == [False, True]
    assert 0 <= gained < HZ // 100, "41 s, and it missed all but what it ran after the gate was opened"


def test_an_acknowledgement_of_an_earlier_sleep_opens_nothing():
    bench = Bench(KERNEL)

    async def recipe(host: Host) -> bool:
        await vm_with(host, 1)
        await HostSleep(S, kind="s2idle")
        seen = bench.vm.suspend.gates
        stop = bench.vm.suspend.stop_counter
        await HostSleep(S, kind="s2idle")
        assert bench.vm.suspend.stop_counter == stop, "nobody has been inside since"
        return SleepGate.acknowledged(bench.vm, seen)

    assert not bench.run(recipe)
    assert bench.vm.suspend.gate
