"""Guest hypervisors: vEL2's counters, and their guests'. Reference: kvm-arm64.md 2.11, 5.1, 5.4 (I7)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.kvm.model.arm64.bench import HZ, Bench, S, errno, vm_with

from guestclock.abi.arm64 import (
    ARM_SMCCC_VENDOR_HYP_KVM_PTP_FUNC_ID,
    KVM_ARM_VCPU_TIMER_CTRL,
    KVM_PTP_VIRT_COUNTER,
    KVM_REG_ARM_TIMER_CNT,
    KVM_REG_ARM_TIMER_OFFSET,
)
from guestclock.arith import u64
from guestclock.errors import UserError
from guestclock.kvm.api import EnterL2, ExitL2, Host, Hvc, ReadCounters, ReadSysreg, WriteSysreg
from guestclock.kvm.model.arm64 import KvmOptions
from guestclock.machine import Arm64Spec

KERNEL = "linux-6.18-arm64"
UP = 1_000 * HZ
U64_MAX = 2**64 - 1


def nested(**spec: Any) -> Bench:
    return Bench(KERNEL, Arm64Spec(**spec), KvmOptions(nested=True))


async def counters(vcpu: Any, *actions: Any) -> list[tuple[int, int]]:
    answers = await vcpu.run(*actions)
    return [(r.cntvct, r.cntpct) for r in answers if hasattr(r, "cntvct")]


@pytest.mark.parametrize("ecv", [False, True])
def test_a_hypervisor_and_its_guest(ecv):
    """CNTVCT(vEL2) = CNTPCT = H - poffset; CNTVCT(L2) = H - poffset - CNTVOFF_EL2."""

    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        await vm.set_counter_offset(1_000)
        (vcpu,) = vm.vcpus
        return await counters(vcpu, ReadCounters(), EnterL2(77), ReadCounters(), ExitL2(), ReadCounters())

    l1 = (UP - 1_000, UP - 1_000)
    assert nested(ecv=ecv).run(recipe) == [l1, (UP - 1_077, UP - 1_000), l1]


def test_its_counters_are_the_hosts_from_the_start():
    """voffset is no counter's here: creation sets it as ever, and nobody looks."""

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        return await counters(vcpu, ReadCounters(), EnterL2(0), ReadCounters())

    bench = nested()
    assert bench.run(recipe) == [(UP, UP)] * 2
    assert bench.vm.voffset.value == UP


def test_a_write_of_the_virtual_counter_moves_both_and_forgets_cntvoff():
    """TIMER_CNT's offset is poffset here; what CNTVOFF_EL2 adds is not taken into account."""

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.run(EnterL2(77))
        await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CNT, 5_000)
        shown = await vcpu.get_one_reg(KVM_REG_ARM_TIMER_CNT)
        return shown, await counters(vcpu, ReadCounters(), ExitL2(), ReadCounters())

    assert nested().run(recipe) == (4_923, [(4_923, 5_000), (5_000, 5_000)])


def test_ptp_forgets_cntvoff_and_answers_by_voffset():
    """So PTP's virtual counter is nobody's, unless KVM_ARM_SET_COUNTER_OFFSET has made both offsets one."""
    ask = Hvc(ARM_SMCCC_VENDOR_HYP_KVM_PTP_FUNC_ID, KVM_PTP_VIRT_COUNTER)

    def told(fixed: bool) -> tuple[list[int], int]:
        async def recipe(host: Host):
            vm = await vm_with(host, 1)
            if fixed:
                await vm.set_counter_offset(1_000)
            await host.wait(S)
            answers = await vm.vcpus[0].run(ask, EnterL2(77), ask, ReadSysreg("CNTVCT_EL0"))
            return [(answers[at][2] << 32) + answers[at][3] for at in (0, 2)], answers[3]

        return nested().run(recipe)

    assert told(False) == ([HZ, HZ], UP + HZ - 77)
    assert told(True) == ([UP + HZ - 1_000] * 2, UP + HZ - 1_077)


def test_cntvoff_stays_and_is_userspaces_to_read_and_write():
    """It is the hypervisor's own state: it travels with it, verbatim."""

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.run(EnterL2(77), ExitL2())
        got = [await vcpu.get_one_reg(KVM_REG_ARM_TIMER_OFFSET)]
        await vcpu.run(EnterL2(77))
        await vcpu.set_one_reg(KVM_REG_ARM_TIMER_OFFSET, U64_MAX)
        return [*got, await vcpu.get_one_reg(KVM_REG_ARM_TIMER_OFFSET), *await counters(vcpu, ReadCounters())]

    assert nested().run(recipe) == [77, U64_MAX, (UP + 1, UP)]


def test_each_vcpu_has_its_own_cntvoff():
    async def recipe(host: Host):
        a, b = (await vm_with(host, 2)).vcpus
        await a.run(EnterL2(5))
        await b.run(EnterL2(6))
        return [*await counters(a, ReadCounters()), *await counters(b, ReadCounters())]

    assert nested().run(recipe) == [(UP - 5, UP), (UP - 6, UP)]


@given(poffset=st.integers(0, U64_MAX), moved=st.integers(0, U64_MAX), cntvoff=st.integers(0, U64_MAX))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_below_the_two_levels_stay_apart_by_cntvoff(poffset, moved, cntvoff):
    """Offsets are added up modulo 2^64, so C1 - C2 is the same before and after a change of the first (I7)."""

    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        (vcpu,) = vm.vcpus
        got = []
        for offset in (poffset, moved):
            await vm.set_counter_offset(offset)
            got += await counters(vcpu, ReadCounters(), EnterL2(cntvoff), ReadCounters(), ExitL2())
        return got

    l1, l2, l1_moved, l2_moved = nested().run(recipe)
    assert u64(l1[0] - l2[0]) == u64(l1_moved[0] - l2_moved[0]) == cntvoff
    assert l1[1] == l2[1]


# ---- timers of both levels


def test_each_level_has_its_own_timers():
    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        levels = []
        for at, level in enumerate((ReadSysreg("CNTFRQ_EL0"), EnterL2(0), ExitL2())):
            levels.append(
                (
                    await vcpu.run(
                        level,
                        *([] if at == 2 else [WriteSysreg("CNTV_CVAL_EL0", UP + at), WriteSysreg("CNTP_CVAL_EL0", at)]),
                        ReadSysreg("CNTV_CVAL_EL0"),
                        ReadSysreg("CNTP_CVAL_EL0"),
                    )
                )[-2:]
            )
        return levels

    assert nested().run(recipe) == [[UP, 0], [UP + 1, 1], [UP, 0]]


def test_the_other_levels_timers_are_emulated_meanwhile():
    """L2's timer is due while its hypervisor runs: an hrtimer's business, and ISTATUS in memory for it to see."""
    bench = nested()

    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        await vm.create_irqchip()
        (vcpu,) = vm.vcpus
        await vcpu.run(EnterL2(0), WriteSysreg("CNTV_CVAL_EL0", UP + 1_000), WriteSysreg("CNTV_CTL_EL0", 1), ExitL2())
        await vcpu.start()
        await host.wait(15_000)
        await vcpu.kick()
        got = [bench.vtimer(0).ctl]
        await vcpu.start()
        await host.wait(5_000)
        await vcpu.kick()
        return [*got, bench.vtimer(0).ctl]

    assert bench.run(recipe) == [1, 5]
    assert {e.data["timer_idx"] for e in bench.tracepoints("kvm_timer_hrtimer_expire")} == {1}


def test_reset_takes_the_vcpu_back_to_el2():
    bench = nested()

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.run(EnterL2(5))
        l2 = bench.vcpu(0).is_hyp
        await vcpu.init()
        return l2, bench.vcpu(0).is_hyp, await counters(vcpu, ReadCounters())

    assert bench.run(recipe) == (False, True, [(UP, UP)])


@pytest.mark.parametrize(
    ("actions", "told"),
    [
        ((EnterL2(5), EnterL2(6)), "EnterL2: vCPU 0 runs an L2 already, expected ExitL2 before it"),
        ((ExitL2(),), "ExitL2: vCPU 0 runs no L2"),
    ],
)
def test_levels_are_entered_and_left_in_turn(actions, told):
    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.run(*actions)

    with pytest.raises(UserError, match=told):
        nested().run(recipe)


@pytest.mark.parametrize(("options", "told"), [(KvmOptions(nested=True), "EINVAL"), (None, "")])
def test_four_timers_need_four_numbers(options, told):
    """The two of EL2 count only where there is one."""

    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        await vm.create_irqchip()
        await vm.vcpus[0].set_attr(KVM_ARM_VCPU_TIMER_CTRL, 2, 27)
        return await errno(vm.vcpus[0].run())

    assert Bench(KERNEL, options=options).run(recipe) == told
