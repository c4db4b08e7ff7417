"""The timers' registers: what userspace writes and reads, what the guest does, and what each leaves behind.

Reference: kvm-arm64.md 1.2, 2.3, 2.4, 2.5.
"""

from __future__ import annotations

import pytest
from tests.kvm.model.arm64.bench import HZ, Bench, S, errno, vm_with

from guestclock.abi.arm64 import (
    KVM_REG_ARM_PTIMER_CNT,
    KVM_REG_ARM_PTIMER_CTL,
    KVM_REG_ARM_PTIMER_CVAL,
    KVM_REG_ARM_TIMER_CNT,
    KVM_REG_ARM_TIMER_CTL,
    KVM_REG_ARM_TIMER_CVAL,
)
from guestclock.errors import UserError
from guestclock.kvm.api import Host, ReadSysreg, WriteSysreg
from guestclock.kvm.model import names
from guestclock.machine import Arm64Spec

KERNELS = [name for name in names("arm64") if not name.startswith("+")]
WITH_PHYSICAL = ["linux-6.4-arm64", "linux-6.12-arm64", "linux-6.18-arm64"]
BEFORE_6_18 = [kernel for kernel in KERNELS if kernel != "linux-6.18-arm64"]
HOSTS = {"vhe": Arm64Spec(), "nvhe": Arm64Spec(vhe=False), "ecv": Arm64Spec(ecv=True)}
U64 = 2**64
UP = 1_000 * HZ

# ---- userspace's


@pytest.mark.parametrize("kernel", KERNELS)
def test_ctl_as_it_is_written_and_read(kernel):
    """u32 until 6.17, ISTATUS is nobody's to write; read, it is reckoned until 6.17 and only stored afterwards."""

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CVAL, HZ)
        got = []
        for value in (7, 2**32 + 3, 0x8000_0009):
            await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CTL, value)
            got.append(await vcpu.get_one_reg(KVM_REG_ARM_TIMER_CTL))
        await host.wait(S)
        return [*got, await vcpu.get_one_reg(KVM_REG_ARM_TIMER_CTL)]

    until, since = [3, 3, 0x8000_0009, 0x8000_000D], [3, 2**32 + 3, 0x8000_0009, 0x8000_0009]
    assert Bench(kernel).run(recipe) == (since if kernel == "linux-6.18-arm64" else until)


@pytest.mark.parametrize("kernel", BEFORE_6_18)
def test_istatus_is_shown_for_a_disabled_timer_too(kernel):
    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CVAL, 1)
        early = await vcpu.get_one_reg(KVM_REG_ARM_TIMER_CTL)
        await host.wait(16)
        return early, await vcpu.get_one_reg(KVM_REG_ARM_TIMER_CTL)

    assert Bench(kernel).run(recipe) == (0, 4)


@pytest.mark.parametrize("cval", [2**63 + 1, U64 - 1])
def test_never_is_never(cval):
    """An unsigned comparison: CVAL 2^64 - 1 is due when the counter is there."""

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CVAL, cval)
        got = [await vcpu.get_one_reg(KVM_REG_ARM_TIMER_CTL)]
        await vcpu.run(WriteSysreg("CNTV_CTL_EL0", 1))
        got += await vcpu.run(ReadSysreg("CNTV_CTL_EL0"))
        await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CNT, cval)
        return got + await vcpu.run(ReadSysreg("CNTV_CTL_EL0"))

    assert Bench().run(recipe) == [0, 1, 5]


def test_a_distance_of_2_to_the_37_ticks_is_taken_for_none():
    """mult is 2^27 at 62.5 MHz: ticks times 2^27 are 0 modulo 2^64, so it is no ns to then. The guest sees better."""

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        got = []
        for cval in (2**37 - 1, 2**37, 2**37 + 1, 2**63):
            await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CVAL, cval)
            got.append(await vcpu.get_one_reg(KVM_REG_ARM_TIMER_CTL))
        await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CTL, 1)
        return got, await vcpu.run(ReadSysreg("CNTV_CTL_EL0"))

    assert Bench().run(recipe) == ([0, 4, 0, 4], [1])


def test_what_get_ctl_leaves_behind():
    """The fraction of a ns that is left over: of this timer since 6.4, of the whole host before; 6.18 reckons nothing.

    24 MHz: mult 699050667, shift 24. 1 tick is 41 ns and 0.666..., as 24 bits.
    """
    frac = 699050667 % 2**24
    assert 699050667 >> 24 == 41

    def left(kernel: str) -> list[int]:
        bench = Bench(kernel, Arm64Spec(counter_hz=24_000_000))

        async def recipe(host: Host):
            (vcpu,) = (await vm_with(host, 1)).vcpus
            await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CVAL, 1)
            await vcpu.get_one_reg(KVM_REG_ARM_TIMER_CTL)

        bench.run(recipe)
        return [bench.vtimer(0).ns_frac, bench.ptimer(0).ns_frac, bench.kvm.host.state.timecounter_frac]

    assert {kernel: left(kernel) for kernel in KERNELS} == {
        "linux-5.10-arm64": [0, 0, frac],
        "linux-6.1-arm64": [0, 0, frac],
        "linux-6.3-arm64": [0, 0, frac],
        "linux-6.4-arm64": [frac, 0, 0],
        "linux-6.12-arm64": [frac, 0, 0],
        "linux-6.18-arm64": [0, 0, 0],
    }


def test_the_fraction_goes_into_the_next_conversion():
    """Twice 0.666...: the second conversion of one tick is a ns longer."""
    bench = Bench(spec=Arm64Spec(counter_hz=24_000_000))

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CVAL, 1)
        fracs = []
        for _ in range(3):
            await vcpu.get_one_reg(KVM_REG_ARM_TIMER_CTL)
            fracs.append(bench.vtimer(0).ns_frac)
        return fracs

    assert bench.run(recipe) == [n * 699050667 % 2**24 for n in (1, 2, 3)]


@pytest.mark.parametrize("kernel", WITH_PHYSICAL)
def test_each_timer_has_its_own_registers(kernel):
    regs = {
        KVM_REG_ARM_TIMER_CTL: 1, KVM_REG_ARM_TIMER_CVAL: U64 - 2, KVM_REG_ARM_PTIMER_CTL: 2,
        KVM_REG_ARM_PTIMER_CVAL: U64 - 3, KVM_REG_ARM_TIMER_CNT: 5, KVM_REG_ARM_PTIMER_CNT: 6,
    }  # fmt: skip

    async def recipe(host: Host):
        (vcpu, other) = (await vm_with(host, 2)).vcpus
        for reg, value in regs.items():
            await vcpu.set_one_reg(reg, value)
        return {reg: await vcpu.get_one_reg(reg) for reg in regs}, [
            await other.get_one_reg(reg) for reg in (KVM_REG_ARM_TIMER_CVAL, KVM_REG_ARM_PTIMER_CVAL)
        ]

    assert Bench(kernel).run(recipe) == (regs, [0, 0])


def test_a_register_that_is_no_timers_is_an_error_of_the_user():
    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.get_one_reg(0x6030_0000_0010_0040)

    with pytest.raises(UserError, match=r"register 0x6030000000100040 is no timer's, expected one of TIMER_CTL, "):
        Bench().run(recipe)


def test_cntpoff_has_no_register_in_any_kernel():
    """0x603000000013e706: not in the table of 6.12 (kvm-arm64.md 2.3); the model answers no other id than timers'."""

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        return await errno(vcpu.get_one_reg(0x6030_0000_0013_E703))

    assert Bench().run(recipe) == "ENOENT", "CNTVOFF_EL2: of guest hypervisors alone"


# ---- the guest's


@pytest.mark.parametrize("host_", HOSTS)
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("timer", ["V", "P"])
def test_a_guests_registers_whoever_answers(kernel, host_, timer):
    """CVAL, TVAL and CTL are the same whether the hardware has the timer or KVM emulates it."""

    def reg(which: str) -> str:
        return f"CNT{timer}_{which}_EL0"

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        count = "CNTVCT_EL0" if timer == "V" else "CNTPCT_EL0"
        got = await vcpu.run(
            ReadSysreg(count),
            WriteSysreg(reg("CVAL"), U64 - 5),
            ReadSysreg(reg("CVAL")),
            ReadSysreg(reg("TVAL")),
            WriteSysreg(reg("TVAL"), 2**32 + 2**31),
            ReadSysreg(reg("CVAL")),
            WriteSysreg(reg("TVAL"), 1_000),
            ReadSysreg(reg("CVAL")),
            ReadSysreg(reg("TVAL")),
            WriteSysreg(reg("CTL"), 7),
            ReadSysreg(reg("CTL")),
        )
        await host.wait(16 * 999)
        early = await vcpu.run(ReadSysreg(reg("CTL")), ReadSysreg(reg("TVAL")))
        await host.wait(16)
        return got, early, await vcpu.run(ReadSysreg(reg("CTL")), ReadSysreg(reg("TVAL")), ReadSysreg(reg("CVAL")))

    got, early, due = Bench(kernel, HOSTS[host_]).run(recipe)
    now = 0 if timer == "V" else UP
    assert got[0] == now
    assert got[2:4] == [U64 - 5, (U64 - 5 - now) % 2**32]
    assert got[5] == (now - 2**31) % U64, "TVAL is written with its sign, and 32 bits of it"
    assert got[7:9] == [now + 1_000, 1_000]
    assert got[10] == 3, "ISTATUS is read-only, the timer not due"
    assert early == [3, 1]
    assert due == [7, 0, now + 1_000]


@pytest.mark.parametrize("host_", HOSTS)
def test_a_timer_that_is_over_counts_on_below_0(host_):
    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.run(WriteSysreg("CNTP_TVAL_EL0", 0), WriteSysreg("CNTV_TVAL_EL0", 0))
        await host.wait(32)
        return await vcpu.run(ReadSysreg("CNTP_TVAL_EL0"), ReadSysreg("CNTV_TVAL_EL0"))

    assert Bench(spec=HOSTS[host_]).run(recipe) == [2**32 - 2] * 2


def test_istatus_without_enable_is_the_hardwares_or_kvms():
    """Architecturally unknown: the hardware here shows 0, KVM's emulation the comparison (kvm-arm64.md 2.3)."""

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        return await vcpu.run(ReadSysreg("CNTP_CTL_EL0"))

    assert Bench(spec=Arm64Spec(vhe=True)).run(recipe) == [0]
    assert Bench(spec=Arm64Spec(vhe=False)).run(recipe) == [4]


@pytest.mark.parametrize("kernel", KERNELS)
def test_registers_are_saved_when_the_vcpu_leaves(kernel):
    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.run(WriteSysreg("CNTV_CVAL_EL0", 77), WriteSysreg("CNTV_CTL_EL0", 3))
        return await vcpu.get_one_reg(KVM_REG_ARM_TIMER_CVAL), await vcpu.get_one_reg(KVM_REG_ARM_TIMER_CTL)

    assert Bench(kernel).run(recipe) == (77, 3)


def test_since_6_18_userspace_sees_the_istatus_of_the_last_exit():
    """CTL as it was saved: with ISTATUS, which may be over by now, or without one that has come since."""

    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        got = []
        await vcpu.run(WriteSysreg("CNTV_CVAL_EL0", HZ), WriteSysreg("CNTV_CTL_EL0", 1))
        await host.wait(2 * S)
        got.append(await vcpu.get_one_reg(KVM_REG_ARM_TIMER_CTL))
        await vcpu.run()
        got.append(await vcpu.get_one_reg(KVM_REG_ARM_TIMER_CTL))
        await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CNT, 0)
        return [*got, await vcpu.get_one_reg(KVM_REG_ARM_TIMER_CTL)]

    assert Bench("linux-6.18-arm64").run(recipe) == [1, 5, 5]
    # Until 6.17 the saved ISTATUS shines through as well: it is ORed with what is reckoned.
    assert Bench("linux-6.12-arm64").run(recipe) == [5, 5, 5]


@pytest.mark.parametrize("name", ["CNTVCT_EL0", "CNTPCT_EL0", "CNTFRQ_EL0"])
def test_the_counters_are_nobodys_to_write(name):
    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        return await vcpu.run(WriteSysreg(name, 5), ReadSysreg("CNTVCT_EL0"))

    assert Bench().run(recipe) == ["UNDEF", 0]


def test_the_rate_is_the_hosts():
    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        return await vcpu.run(ReadSysreg("CNTFRQ_EL0"))

    assert Bench(spec=Arm64Spec(counter_hz=24_000_000)).run(recipe) == [24_000_000]


def test_an_unknown_register_is_told():
    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.run(ReadSysreg("CNTKCTL_EL1"))

    with pytest.raises(UserError, match="sysreg 'CNTKCTL_EL1' is not modelled, expected one of CNTFRQ_EL0, "):
        Bench().run(recipe)


# ---- the first KVM_RUN


def test_timers_are_loaded_from_the_first_kvm_run_on():
    bench = Bench()

    async def recipe(host: Host):
        vm = await vm_with(host, 1)
        before = bench.vcpu(0).enabled
        await vm.vcpus[0].start()
        await host.wait(S)
        return before, bench.vcpu(0).enabled, bench.vtimer(0).loaded

    assert bench.run(recipe) == (False, True, True)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_timer_set_by_userspace_is_the_guests(kernel):
    async def recipe(host: Host):
        (vcpu,) = (await vm_with(host, 1)).vcpus
        await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CVAL, HZ)
        await vcpu.set_one_reg(KVM_REG_ARM_TIMER_CTL, 1)
        got = await vcpu.run(ReadSysreg("CNTV_CVAL_EL0"), ReadSysreg("CNTV_CTL_EL0"))
        await host.wait(S)
        return got + await vcpu.run(ReadSysreg("CNTV_CTL_EL0"))

    assert Bench(kernel).run(recipe) == [HZ, 1, 5]
