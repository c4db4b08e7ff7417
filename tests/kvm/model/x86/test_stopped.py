"""2010's assistance: every TSC is stopped at one instant and started at one (overlay stop-all-tscs)."""

from __future__ import annotations

import pytest
from tests.kvm.model.x86.bench import TSC, Bench, S, vm_with

from guestclock.kvm.api import Host, KvmError, ReadClocks
from guestclock.sim import Deadlock

KERNELS = ("linux-2.6.37+stop-all-tscs", "linux-6.12+stop-all-tscs")


async def stop_wait_start(host: Host) -> list[int]:
    vm = await vm_with(host, 3)
    for vcpu in (*vm.vcpus, *vm.vcpus):
        await vcpu.run()
    await host.wait(60 * S)
    stopped = await vm.stop_all_tscs()
    await host.wait(10 * S)
    seen = [(await vcpu.peek()).tsc for vcpu in vm.vcpus]
    await vm.start_all_tscs(stopped)
    shown = [await vcpu.peek() for vcpu in vm.vcpus]
    assert len({reading.tsc - reading.host_tsc[0] for reading in shown}) == 1
    return [stopped, *seen, (await vm.vcpus[2].run(ReadClocks()))[0].tsc]


@pytest.mark.parametrize("kernel", KERNELS)
def test_all_tscs_stop_at_one_instant_and_go_on_from_it(kernel):
    stopped, *seen, read = Bench(kernel).run(stop_wait_start)
    assert seen == [stopped] * 3
    assert read == stopped  # in a bench without delays no time passes between the start and the read
    stopped, *seen, read = Bench(kernel, step_ns=1000, section_ns=100).run(stop_wait_start)
    assert seen == [stopped] * 3
    assert 0 < read - stopped < 2_596_122 // 10  # 100 µs


def test_started_tscs_are_one_generation_with_a_new_snapshot():
    bench = Bench(KERNELS[1])

    async def recipe(host: Host) -> int:
        vm = await vm_with(host, 3)
        await vm.vcpus[1].set_msr(TSC, 999)
        for vcpu in (*vm.vcpus, *vm.vcpus):
            await vcpu.run()
        before = (await vm.get_clock()).flags
        await vm.start_all_tscs(await vm.stop_all_tscs())
        assert before == 0
        return (await vm.get_clock()).flags

    assert bench.run(recipe) == 14
    assert bench.vm.nr_vcpus_matched_tsc == 2
    assert {v.this_tsc_generation for v in bench.vm.vcpus} == {bench.vm.cur_tsc_generation}


def test_nobody_enters_while_stopped():
    entered = {}
    bench = Bench(KERNELS[1], step_ns=10)

    async def stopper(host: Host) -> None:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].start()
        await host.wait(S)
        stopped = await vm.stop_all_tscs()
        assert not bench.vcpu(0).in_guest
        await host.wait(2 * S)
        assert not bench.vcpu(0).in_guest
        await vm.start_all_tscs(stopped)
        await host.wait(S)
        entered["after"] = bench.vcpu(0).in_guest

    bench.run(stopper)
    assert entered == {"after": True}


def test_a_run_while_stopped_says_what_it_waits_for():
    async def runs(host: Host) -> None:
        vm = await vm_with(host, 1)
        await vm.stop_all_tscs()
        await vm.vcpus[0].run()

    with pytest.raises(Deadlock, match="VM entry of vCPU 0 waits until the TSCs of VM 0 are started"):
        Bench(KERNELS[1]).run(runs)


def test_refusals():
    async def refusals(host: Host) -> list[str]:
        vm = await host.create_vm()
        errnos = []
        for call in (
            vm.stop_all_tscs,
            lambda: vm.start_all_tscs(5),
            vm.create_vcpu,
            vm.stop_all_tscs,
            vm.stop_all_tscs,
        ):
            try:
                await call()
                errnos.append("")
            except KvmError as error:
                errnos.append(error.errno)
        return errnos

    assert Bench(KERNELS[1]).run(refusals) == ["EINVAL", "EINVAL", "", "", "EBUSY"]
    assert Bench("linux-6.12").run(refusals) == ["ENOTTY", "ENOTTY", "", "ENOTTY", "ENOTTY"]
