"""Xen's wall clock and its two copies of the page (kvm-x86.md 1.2, 1.3, 4.7)."""

from __future__ import annotations

import pytest
from tests.kvm.model.x86.bench import Bench, S, vm_with

from guestclock.errors import UserError
from guestclock.kvm.api import Host, KvmError
from guestclock.kvm.model import lookup
from guestclock.kvm.model.x86 import KvmOptions, X86Kvm
from guestclock.machine import HostSpec, X86Machine
from guestclock.sim import Scheduler, Timeline

XEN = KvmOptions(xen_time_pages=True)
MASKED = KvmOptions(xen_time_pages=True, xen_pvclock_tsc_unstable=True)


def test_shared_info_holds_the_epoch_under_the_version_protocol():
    bench = Bench()

    async def init(host: Host) -> list[int]:
        vm = await vm_with(host, 1)
        await vm.vcpus[0].run()
        await host.wait(7 * S)
        versions = []
        for _ in range(2):
            await vm.xen_shared_info_init()
            versions.append(bench.vm.xen_wall_clock.version)
        return versions

    assert bench.run(init) == [2, 4]
    page = bench.vm.xen_wall_clock
    kvmclock_0_ns = bench.spec.realtime_ns  # the VM was made at the start, when kvmclock was 0
    assert (page.sec_hi << 32 | page.sec) * S + page.nsec == pytest.approx(kvmclock_0_ns, abs=1000)


def test_every_version_it_can_meet_becomes_even():
    bench = Bench()

    async def init(host: Host) -> list[int]:
        vm = await vm_with(host, 1)
        await vm.xen_shared_info_init()
        versions = []
        for version in (6, 7, 0x7FFFFFFF, 0xFFFFFFFE):
            bench.vm.xen_wall_clock.version = version
            await vm.xen_shared_info_init()
            versions.append(bench.vm.xen_wall_clock.version)
        return versions

    assert bench.run(init) == [8, 10, 0x80000002, 0]


def test_the_seconds_do_not_wrap_in_2106():
    bench = Bench(spec=HostSpec(realtime_ns=2**32 * S + 5 * S))

    async def init(host: Host) -> None:
        vm = await vm_with(host, 1)
        await vm.xen_shared_info_init()

    bench.run(init)
    assert (bench.vm.xen_wall_clock.sec_hi, bench.vm.xen_wall_clock.sec) == (1, 5)


def test_shared_info_asks_every_vcpu_for_a_new_snapshot_and_kicks():
    bench = Bench(step_ns=10)

    async def init(host: Host) -> list[int]:
        vm = await vm_with(host, 2)
        for vcpu in vm.vcpus * 2:
            await vcpu.run()
        before = len(bench.tracepoints("kvm_update_master_clock"))
        await vm.vcpus[0].start()
        await host.wait(S)
        await vm.xen_shared_info_init()
        await host.wait(S)  # vCPU 0 spins in the guest: it is kicked and takes a snapshot
        between = len(bench.tracepoints("kvm_update_master_clock"))
        await vm.vcpus[0].kick()
        await vm.vcpus[1].run()
        return [between - before, len(bench.tracepoints("kvm_update_master_clock")) - between]

    assert bench.run(init) == [1, 1]


async def pages(host: Host, bench: Bench) -> dict[str, tuple[int, int]]:
    vm = await vm_with(host, 1)
    await vm.vcpus[0].run()
    await vm.vcpus[0].kvmclock_ctrl()
    await vm.vcpus[0].run()
    vcpu = bench.vcpu(0)
    shown = {"kvm": vcpu.pv_time, "vcpu_info": vcpu.xen_vcpu_info, "time_info": vcpu.xen_vcpu_time_info}
    bodies = {(p.tsc_timestamp, p.system_time, p.tsc_to_system_mul, p.tsc_shift) for p in shown.values()}
    assert len(bodies) == 1
    return {name: (page.version, page.flags) for name, page in shown.items()}


def test_xens_pages_are_kvms_once_more_and_guest_stopped_leaks_into_them_until_6_14():
    for kernel, options, expected in (
        ("linux-6.12", XEN, {"kvm": (4, 3), "vcpu_info": (4, 3), "time_info": (4, 3)}),
        ("linux-6.12", MASKED, {"kvm": (4, 3), "vcpu_info": (4, 2), "time_info": (4, 2)}),
        ("linux-6.17", XEN, {"kvm": (4, 3), "vcpu_info": (4, 1), "time_info": (4, 1)}),
        ("linux-6.17", MASKED, {"kvm": (4, 3), "vcpu_info": (4, 0), "time_info": (4, 0)}),
    ):
        bench = Bench(kernel, options=options)
        assert bench.run(lambda host, bench=bench: pages(host, bench)) == expected, (kernel, options)


def test_up_to_6_14_the_tracepoint_does_not_show_that_stable_was_masked():
    flags = {}
    for kernel in ("linux-6.12", "linux-6.17"):
        bench = Bench(kernel, options=MASKED)
        bench.run(lambda host, bench=bench: pages(host, bench))
        flags[kernel] = [e.data["flags"] for e in bench.tracepoints("kvm_pvclock_update")]
    assert flags == {"linux-6.12": [1, 1, 1, 3, 3, 3], "linux-6.17": [1, 0, 0, 3, 0, 0]}


def test_kernels_without_xen_refuse():
    async def init(host: Host) -> str:
        vm = await vm_with(host, 1)
        try:
            await vm.xen_shared_info_init()
        except KvmError as error:
            return error.errno
        return ""

    kernels = ("linux-2.6.36", "linux-5.10", "linux-5.15", "linux-6.12", "linux-7.2", "pvm")
    assert [Bench(k).run(init) for k in kernels] == ["ENOTTY", "ENOTTY", "", "", "", "ENOTTY"]
    with pytest.raises(UserError, match=r"linux-5\.10: no pages for Xen guests"):
        X86Kvm(X86Machine(Timeline(), HostSpec()), lookup("linux-5.10"), Scheduler(Timeline()), None, XEN)
