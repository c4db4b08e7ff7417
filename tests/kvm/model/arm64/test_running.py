"""What a vCPU that runs goes on with while others write, until its next vcpu_load; and what its put makes of it.

Reference: kvm-arm64.md 2.3, 2.4, 6.3 (12 and 13).
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.kvm.model.arm64.bench import HZ, Bench, S, vm_with

from guestclock.abi.arm64 import KVM_REG_ARM_PTIMER_CNT, KVM_REG_ARM_PTIMER_CVAL, KVM_REG_ARM_TIMER_CNT
from guestclock.arith import u64
from guestclock.kvm.api import Host, Hvc, Kick, Preempt, ReadCounters, ReadSysreg, SetOneReg, WriteSysreg
from guestclock.kvm.model import names
from guestclock.machine import Arm64Spec
from guestclock.sim import Deadlock

KERNELS = [name for name in names("arm64") if not name.startswith("+")]
WITH_PHYSICAL = ["linux-6.4-arm64", "linux-6.12-arm64", "linux-6.18-arm64"]
VHE, NVHE, ECV, NVHE_ECV = Arm64Spec(), Arm64Spec(vhe=False), Arm64Spec(ecv=True), Arm64Spec(vhe=False, ecv=True)
U64 = 2**64
UP = 1_000 * HZ
FAR = 10**15


async def one_runs(host: Host):
    """A VM of two vCPUs of which the second runs, and a second has passed."""
    vm = await vm_with(host, 2)
    await vm.vcpus[1].start()
    await host.wait(S)
    return vm


# ---- the virtual counter


@pytest.mark.parametrize("spec", [VHE, NVHE, ECV])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_counter_set_behind_a_running_vcpu_is_not_its_own_until_it_is_loaded_again(kernel, spec):
    async def recipe(host: Host):
        vm = await one_runs(host)
        a, b = vm.vcpus
        await a.set_one_reg(KVM_REG_ARM_TIMER_CNT, FAR)
        shown = [(await vcpu.peek()).cntvct for vcpu in (a, b)]
        await b.kick()
        return shown, (await b.run(ReadCounters()))[0].cntvct

    assert Bench(kernel, spec).run(recipe) == ([FAR, HZ], FAR)


@pytest.mark.parametrize("kernel", KERNELS)
def test_nor_that_of_a_vcpu_that_is_created_while_it_runs(kernel):
    async def recipe(host: Host):
        vm = await one_runs(host)
        await vm.create_vcpu()
        shown = [(await vcpu.peek()).cntvct for vcpu in vm.vcpus]
        await vm.vcpus[1].kick()
        await vm.vcpus[1].start()
        await host.wait(0)
        return shown, (await vm.vcpus[1].peek()).cntvct

    assert Bench(kernel).run(recipe) == ([0, HZ, 0], 0)


@pytest.mark.parametrize("how", ["preempted", "moved", "kicked"])
def test_any_load_will_do(how):
    async def recipe(host: Host):
        vm = await one_runs(host)
        a, b = vm.vcpus
        await a.set_one_reg(KVM_REG_ARM_TIMER_CNT, FAR)
        if how == "preempted":
            await Preempt(vm.id, b.index, 0)
        elif how == "moved":
            await b.move_to_cpu(3)
        else:
            await b.kick()
            await b.start()
        await host.wait(S)
        return (await b.peek()).cntvct

    assert Bench().run(recipe) == FAR + HZ


@pytest.mark.parametrize(("kernel", "anew"), [("linux-6.1-arm64", True), ("linux-6.12-arm64", False)])
def test_a_trapped_access_is_a_load_of_all_timers_until_6_2_only(kernel, anew):
    bench = Bench(kernel, NVHE, step_ns=1_000)

    async def guest(host: Host):
        vm = await vm_with(host, 2)
        return await vm.vcpus[1].run(*[ReadSysreg("CNTP_CVAL_EL0")] * 20, ReadSysreg("CNTVCT_EL0"))

    async def writer(host: Host):
        while not (bench.kvm.vms and len(bench.vm.vcpus) == 2 and bench.vcpu(1).enabled):
            await host.wait(1_000)
        await SetOneReg(0, 0, KVM_REG_ARM_TIMER_CNT, FAR)

    shown = bench.run(guest, writer)[-1]
    assert (FAR <= shown < FAR + HZ) if anew else (0 < shown < HZ)


# ---- the physical counter


@pytest.mark.parametrize("kernel", WITH_PHYSICAL)
def test_cntpct_of_a_running_vcpu_when_its_offset_is_changed(kernel):
    """By a trap: the offset of this moment. In hardware, or native: as it was when the vCPU was loaded."""

    def shown(spec: Arm64Spec, first: int) -> list[int]:
        async def recipe(host: Host):
            vm = await vm_with(host, 2)
            a, b = vm.vcpus
            await a.set_one_reg(KVM_REG_ARM_PTIMER_CNT, UP - first)
            await b.start()
            await host.wait(S)
            await a.set_one_reg(KVM_REG_ARM_PTIMER_CNT, 5)
            before = (await b.peek()).cntpct
            await b.kick()
            return [before, (await b.run(ReadCounters()))[0].cntpct]

        return Bench(kernel, spec).run(recipe)

    native = UP + HZ
    assert shown(VHE, 0) == [native, 5], "it did not trap, and reads the host's counter"
    assert shown(VHE, 7) == [5, 5], "it traps: KVM answers with what is in memory"
    assert shown(NVHE, 0) == [native, 5]
    assert shown(NVHE, 7) == [5, 5]
    assert shown(ECV, 0) == [native, 5]
    assert shown(ECV, 7) == [native - 7, 5], "CNTPOFF_EL2 is the one that was loaded"
    assert shown(NVHE_ECV, 7) == [5, 5], "only VHE uses CNTPOFF_EL2"


def test_nvhe_asks_whether_to_trap_at_each_entry():
    """... and VHE at each load: a guest that does not trap yet does after its next exit, or does not."""

    def shown(spec: Arm64Spec) -> int:
        bench = Bench(spec=spec, step_ns=1_000)

        async def guest(host: Host):
            vm = await vm_with(host, 2)
            return await vm.vcpus[1].run(*[Hvc(0x8000_0000)] * 20, ReadSysreg("CNTPCT_EL0"))

        async def writer(host: Host):
            while not (bench.kvm.vms and len(bench.vm.vcpus) == 2 and bench.vcpu(1).enabled):
                await host.wait(1_000)
            await SetOneReg(0, 0, KVM_REG_ARM_PTIMER_CNT, 5)

        return bench.run(guest, writer)[-1]

    assert shown(VHE) >= UP
    assert shown(NVHE) < HZ


# ---- CVAL of the physical timer, when the offset was changed behind its back


def left_of_cval(kernel: str, spec: Arm64Spec, cval: int, counter: int | None = None) -> tuple[int, int, int]:
    """vCPU 1 runs with a CVAL of its own; its physical counter is set by another one; it is kicked.

    counter: what PTIMER_CNT is set to before it runs, if anything. Answers (CVAL, the old offset, the new offset).
    """
    bench = Bench(kernel, spec)

    async def recipe(host: Host):
        vm = await vm_with(host, 2)
        a, b = vm.vcpus
        if counter is not None:
            await a.set_one_reg(KVM_REG_ARM_PTIMER_CNT, counter)
        old = bench.vm.poffset.value
        await b.set_one_reg(KVM_REG_ARM_PTIMER_CVAL, cval)
        await b.start()
        await host.wait(S)
        await a.set_one_reg(KVM_REG_ARM_PTIMER_CNT, 10**6)
        await b.kick()
        return await b.get_one_reg(KVM_REG_ARM_PTIMER_CVAL), old, bench.vm.poffset.value

    return bench.run(recipe)


@pytest.mark.parametrize("kernel", WITH_PHYSICAL)
@pytest.mark.parametrize("counter", [None, 77])
def test_put_takes_the_new_offset_off_a_cval_that_was_loaded_with_the_old_one(kernel, counter):
    cval, old, new = left_of_cval(kernel, VHE, 1_000, counter)
    assert cval == u64(1_000 + old - new) != 1_000


@pytest.mark.parametrize("kernel", WITH_PHYSICAL)
def test_with_cntpoff_too_since_6_6(kernel):
    """The world switch brings CVAL onto the host's counter by CNTPOFF_EL2, put takes it back by the offset."""
    cval, old, new = left_of_cval(kernel, ECV, 1_000, 77)
    assert cval == (1_000 if kernel == "linux-6.4-arm64" else u64(1_000 + old - new))


@pytest.mark.parametrize("kernel", WITH_PHYSICAL)
def test_an_emulated_timers_cval_is_only_in_memory(kernel):
    assert left_of_cval(kernel, NVHE, 1_000, 77)[0] == 1_000


@pytest.mark.parametrize("spec", [VHE, NVHE, ECV])
def test_the_virtual_timers_cval_is_not_concerned(spec):
    async def recipe(host: Host):
        vm = await one_runs(host)
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_TIMER_CNT, 10**6)
        await vm.vcpus[1].kick()
        return await vm.vcpus[1].run(ReadSysreg("CNTV_CVAL_EL0"))

    assert Bench(spec=spec).run(recipe) == [0]


@pytest.mark.parametrize("kernel", WITH_PHYSICAL)
@pytest.mark.parametrize("spec", [VHE, NVHE, ECV, NVHE_ECV])
def test_without_a_change_nothing_is_lost(kernel, spec):
    """The control: CVAL survives loads and puts with any offset."""

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.set_one_reg(KVM_REG_ARM_PTIMER_CNT, 5)
        await vcpu.run(WriteSysreg("CNTP_CVAL_EL0", U64 - 9))
        await vcpu.start()
        await Preempt(0, 0, 5)
        await host.wait(S)
        await vcpu.kick()
        return await vcpu.get_one_reg(KVM_REG_ARM_PTIMER_CVAL), await vcpu.run(ReadSysreg("CNTP_CVAL_EL0"))

    assert Bench(kernel, spec).run(recipe) == (U64 - 9, [U64 - 9])


@pytest.mark.parametrize("kernel", ["linux-6.4-arm64", "linux-6.12-arm64"])
def test_with_cntpoff_6_4_compares_cval_wrongly_while_the_guest_is_out(kernel):
    """TGE turns CNTPOFF_EL2 off, and 6.4 leaves the guest's CVAL in the register: due on the host's counter already.

    So at its exit a vCPU without an irqchip of the kernel's is told that its timer has fired, 10 s early.
    """
    bench = Bench(kernel, ECV)

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.set_one_reg(KVM_REG_ARM_PTIMER_CNT, 0)
        await vcpu.run(WriteSysreg("CNTP_CVAL_EL0", 10 * HZ), WriteSysreg("CNTP_CTL_EL0", 1))
        return bench.vcpu(0).ptimer_level

    assert bench.run(recipe) == (kernel == "linux-6.4-arm64")


@pytest.mark.parametrize(("spec", "raised"), [(VHE, False), (ECV, True), (NVHE, True)])
def test_a_cval_of_before_the_host_was_turned_on_never_comes_where_it_is_loaded_with_the_offset(spec, raised):
    """A guest that is ahead of its host, and a CVAL that is over: 1 less 10^9 is a time that the host's counter will
    not see. The guest reads ISTATUS, but no interrupt comes until the vCPU is loaded again and KVM compares by itself.
    """
    bench = Bench(spec=replace(spec, counter_at_start=100))

    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        await vm.create_irqchip()
        await vm.set_counter_offset(U64 - 10**9)
        (vcpu,) = vm.vcpus
        shown = await vcpu.run(
            WriteSysreg("CNTP_CVAL_EL0", 1), WriteSysreg("CNTP_CTL_EL0", 1), ReadSysreg("CNTP_CTL_EL0")
        )
        levels = [bench.ptimer(0).level]
        await vcpu.run()
        return shown[-1], [*levels, bench.ptimer(0).level]

    assert bench.run(recipe) == (5, [raised, True])


# ---- ioctls on a vCPU that runs


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_ioctl_on_a_running_vcpu_waits_until_it_is_kicked(kernel):
    times = {}
    bench = Bench(kernel, step_ns=10)

    async def writer(host: Host):
        vm = await vm_with(host, 1)
        await vm.vcpus[0].start()
        await host.wait(S)
        await vm.vcpus[0].set_one_reg(KVM_REG_ARM_TIMER_CNT, 5)
        times["written"] = bench.timeline.now_ps

    async def kicker(host: Host):
        await host.wait(3 * S)
        await Kick(0, 0)
        times["kicked"] = bench.timeline.now_ps

    bench.run(writer, kicker)
    assert 3 * S * 1000 < times["kicked"] <= times["written"] < 3 * S * 1000 + 10**9


def test_without_a_kick_it_waits_for_ever_and_says_so():
    async def never_kicks(host: Host):
        vm = await one_runs(host)
        await vm.vcpus[1].get_one_reg(KVM_REG_ARM_TIMER_CNT)

    with pytest.raises(Deadlock, match="GetOneReg waits for vCPU 1's mutex, which KVM_RUN holds until"):
        Bench().run(never_kicks)


# ---- what peek shows


@pytest.mark.parametrize("kernel", KERNELS)
def test_peek_is_what_the_guest_would_read(kernel):
    """Running or not; only a running guest tells the physical counter where the kernel has no register for it."""

    async def recipe(host: Host):
        vm = await one_runs(host)
        stopped, spinning = [await vcpu.peek() for vcpu in vm.vcpus]
        await vm.vcpus[1].kick()
        read = [(await vcpu.run(ReadCounters()))[0] for vcpu in vm.vcpus]
        return [stopped, spinning], read

    shown, read = Bench(kernel).run(recipe)
    assert [(p.cntvct, p.cntvct_after, p.host_counter) for p in shown] == [
        (r.cntvct, r.cntvct_after, r.host_counter) for r in read
    ]
    stopped, spinning = read
    assert [p.cntpct for p in shown] == [stopped.cntpct if kernel in WITH_PHYSICAL else None, spinning.cntpct]


def test_a_guests_reads_are_three_and_come_one_after_the_other():
    bench = Bench(step_ns=1_000, section_ns=100)

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.set_one_reg(KVM_REG_ARM_PTIMER_CNT, 10**6)
        return (await vcpu.run(ReadCounters()))[0]

    got = bench.run(recipe)
    before, after = got.host_counter
    voffset, poffset = bench.vm.voffset.value, bench.vm.poffset.value
    read = [got.cntvct + voffset, got.cntpct + poffset, got.cntvct_after + voffset]
    assert before == read[0] < read[1] < read[2] < after
    assert read[2] - read[0] == 2 * 1_100 * HZ // S


@pytest.mark.parametrize("hz", [24_000_000, 1_000_000_000])
def test_at_other_rates(hz):
    async def recipe(host: Host):
        vm = await one_runs(host)
        return (await vm.vcpus[1].peek()).cntvct

    assert Bench(spec=Arm64Spec(counter_hz=hz)).run(recipe) == hz
