"""Host sleeps and lost CPUs: the counter runs on, so guests see the time jump. Reference: kvm-arm64.md 1.5, 5.4."""

from __future__ import annotations

from itertools import pairwise

import pytest
from tests.kvm.model.arm64.bench import HZ, Bench, S, errno, vm_with

from guestclock.abi.arm64 import KVM_REG_ARM_PTIMER_CNT, KVM_REG_ARM_TIMER_CNT
from guestclock.errors import UserError
from guestclock.kvm.api import Host, HostSleep, Peek, Preempt, ReadCounters, SetOneReg, WriteSysreg
from guestclock.kvm.model import names
from guestclock.machine import Arm64Spec

KERNELS = [name for name in names("arm64") if not name.startswith("+")]
UP = 1_000 * HZ


@pytest.mark.parametrize("kind", ["s2idle", "s3"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_guest_sees_a_sleep_of_the_host_as_a_jump(kernel, kind):
    """Its CLOCK_MONOTONIC too: there is no kvmclock that could leave it out."""

    async def recipe(host: Host):
        vm = await vm_with(host, 2)
        await vm.vcpus[0].start()
        await HostSleep(40 * S, kind=kind)
        running, stopped = [await vcpu.peek() for vcpu in vm.vcpus]
        await vm.vcpus[0].kick()
        read = (await vm.vcpus[1].run(ReadCounters()))[0]
        return [running.cntvct, stopped.cntvct, read.cntvct, read.cntpct]

    assert Bench(kernel).run(recipe) == [40 * HZ] * 3 + [UP + 40 * HZ]


def test_a_vcpu_is_out_of_kvm_run_while_the_host_sleeps_and_loaded_anew_after_it():
    """So what was set behind its back is its own then."""
    bench = Bench(step_ns=1_000)

    async def recipe(host: Host):
        vm = await vm_with(host, 2)
        a, b = vm.vcpus
        await b.start()
        await host.wait(S)
        await a.set_one_reg(KVM_REG_ARM_TIMER_CNT, 10**15)
        before = (await b.peek()).cntvct
        await HostSleep(40 * S, kind="s2idle")
        await host.wait(S)
        after = (await b.peek()).cntvct
        return before, after, bench.vcpu(1).in_guest

    before, after, in_guest = bench.run(recipe)
    assert before < 2 * HZ
    assert 0 <= after - 10**15 - 41 * HZ < 10_000
    assert in_guest


@pytest.mark.parametrize("vhe", [True, False])
def test_a_timer_that_was_due_meanwhile_comes_when_the_vcpu_is_back(vhe):
    """An emulated timer's hrtimer is cancelled before the sleep, so it is not late by it."""
    bench = Bench(spec=Arm64Spec(vhe=vhe), step_ns=1_000)

    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        await vm.create_irqchip()
        (vcpu,) = vm.vcpus
        await vcpu.run(WriteSysreg("CNTP_CVAL_EL0", UP + 10 * HZ), WriteSysreg("CNTP_CTL_EL0", 1))
        await vcpu.start()
        await host.wait(S)
        await HostSleep(40 * S, kind="s2idle")
        await host.wait(S)
        return bench.ptimer(0).level, bench.ptimer(0).soft_armed

    assert bench.run(recipe) == (True, False)


def test_realtime_is_what_the_counter_measured():
    async def recipe(host: Host):
        await HostSleep(40 * S, kind="s2idle")
        return [await host.read_clock(name) for name in ("realtime", "boottime", "monotonic", "counter")]

    spec = Arm64Spec()
    assert Bench().run(recipe) == [
        spec.realtime_ns + 40 * S, spec.uptime_ns + 40 * S, spec.uptime_ns, UP + 40 * HZ
    ]  # fmt: skip


def test_nobody_sleeps_while_a_thread_is_inside_kvm():
    """The freezer waits for whoever holds kvm->lock or a mutex."""
    bench = Bench(step_ns=1_000)

    async def sleeper(host: Host):
        await vm_with(host, 1)
        bench.vm.lock = True
        await HostSleep(5 * S, kind="s2idle")
        return bench.timeline.now_ps

    async def holder(host: Host):
        await host.wait(3 * S)
        bench.vm.lock = False

    assert bench.run(sleeper, holder) > 8 * S * 1_000


# ---- a CPU that is lost for a while


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_preempted_vcpu_is_put_and_loaded(kernel):
    bench = Bench(kernel, step_ns=1_000)

    async def recipe(host: Host):
        vm = await vm_with(host, 2)
        await vm.vcpus[1].start()
        await host.wait(S)
        await Preempt(0, 1, 3 * S)
        away = [bench.vtimer(1).loaded, bench.vcpu(1).in_guest]
        await SetOneReg(0, 0, KVM_REG_ARM_TIMER_CNT, 10**15)
        await host.wait(4 * S)
        return away, [bench.vtimer(1).loaded, bench.vcpu(1).in_guest], (await Peek(0, 1)).cntvct // 10**15

    assert bench.run(recipe) == ([False, False], [True, True], 1)


def test_its_thread_keeps_the_mutex_meanwhile():
    """So an offset cannot be given: EBUSY, as for any vCPU in KVM_RUN."""
    bench = Bench(step_ns=1_000)

    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        await vm.vcpus[0].start()
        await host.wait(S)
        await Preempt(0, 0, 3 * S)
        return await errno(vm.set_counter_offset(5))

    assert bench.run(recipe) == "EBUSY"


def test_a_vcpu_in_another_ioctl_has_no_cpu_to_lose():
    """It would keep the wish for later, and whoever asked would wait."""
    bench = Bench(step_ns=1_000)

    async def writer(host: Host):
        vm = await vm_with(host, 1)
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_TIMER_CNT, 5)

    async def scheduler(host: Host):
        while not (bench.kvm.vms and bench.vm.vcpus and bench.vcpu(0).mutex):
            await host.wait(100)
        await Preempt(0, 0, S)

    with pytest.raises(UserError, match="Preempt: vCPU 0 is not in KVM_RUN, expected Start before it"):
        bench.run(writer, scheduler)


def test_a_guest_that_loses_its_cpu_between_two_reads_reads_on_afterwards():
    bench = Bench(step_ns=1_000)

    async def guest(host: Host):
        vm = await vm_with(host, 2)
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_PTIMER_CNT, 5)
        return await vm.vcpus[1].run(*[ReadCounters()] * 5)

    async def scheduler(host: Host):
        while not (bench.kvm.vms and len(bench.vm.vcpus) == 2 and bench.vcpu(1).in_guest):
            await host.wait(100)
        await Preempt(0, 1, S)

    read = [value for r in bench.run(guest, scheduler) for value in (r.cntvct, r.cntvct_after)]
    assert sorted(read) == read
    gaps = [b - a for a, b in pairwise(read)]
    assert [gap > HZ for gap in gaps].count(True) == 1
    assert bench.vcpu(1).run_delay == S
