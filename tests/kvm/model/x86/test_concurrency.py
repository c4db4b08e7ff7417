"""What happens at the same time: vCPUs in the guest, kicks, mutexes, the worker threads."""

from __future__ import annotations

import pytest
from tests.kvm.model.x86.bench import TSC, Bench, S, vm_with

from guestclock.kvm.api import Host, Kick
from guestclock.sim import Deadlock


def test_an_ioctl_on_a_running_vcpu_waits_until_it_is_kicked():
    times = {}
    bench = Bench(step_ns=10)

    async def writer(host: Host) -> None:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].start()
        await host.wait(S)
        await vm.vcpus[0].set_msr(TSC, 5)
        times["written"] = bench.timeline.now_ps

    async def kicker(host: Host) -> None:
        await host.wait(3 * S)
        await Kick(0, 0)
        times["kicked"] = bench.timeline.now_ps

    bench.run(writer, kicker)
    assert 3 * S * 1000 < times["kicked"] <= times["written"] < 3 * S * 1000 + 10**9


def test_without_a_kick_it_waits_for_ever_and_says_so():
    async def never_kicks(host: Host) -> None:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].start()
        await host.wait(S)
        await vm.vcpus[0].set_msr(TSC, 5)

    with pytest.raises(Deadlock, match="SetMsr waits for vCPU 0's mutex, which KVM_RUN holds until"):
        Bench().run(never_kicks)


def test_peek_does_not_wait():
    async def peeks(host: Host) -> int:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].start()
        await host.wait(S)
        return (await vm.vcpus[0].peek()).page.version

    assert Bench().run(peeks) == 4  # first entry, and the 100 ms work's kick


def test_the_update_works_of_one_vm_as_measured():
    """Page versions: 2 at once, 4 after 100 ms, then every 300 s as the timer wheel rounds it (9.3)."""

    async def idle(host: Host) -> list[tuple[int, float]]:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].start()
        seen = []
        for quarter in range(4 * 640):
            version = (await vm.vcpus[0].peek()).page.version
            if not seen or seen[-1][0] != version:
                seen.append((version, quarter / 4))
            await host.wait(S // 4)
        return seen

    seen = Bench().run(idle)
    assert [version for version, _ in seen] == [0, 4, 6, 8]  # 0: looked at before the first entry
    first, second = seen[-2][1], seen[-1][1]
    assert 300 <= first <= 316.5
    assert 300 <= second - first <= 316.75
    versions = [v for v, _ in Bench("linux-6.19").run(idle)]
    assert versions[-1] == 2
