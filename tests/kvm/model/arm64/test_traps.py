"""CNTHCTL_EL2: who traps on what, kernel by kernel and host by host; and what one VM's setting is to another's.

Reference: kvm-arm64.md 1.3, 1.6, 2.4.
"""

from __future__ import annotations

import pytest
from tests.kvm.model.arm64.bench import HZ, Bench, S, vm_with

from guestclock.abi.arm64 import (
    KVM_ARM_VCPU_TIMER_CTRL,
    KVM_ARM_VCPU_TIMER_OFFSET_PTIMER,
    KVM_ARM_VCPU_TIMER_PHYS_OFFSET,
    KVM_REG_ARM_PTIMER_CNT,
)
from guestclock.kvm.api import Host, ReadSysreg, Vm
from guestclock.kvm.model import names
from guestclock.kvm.model.arm64.sysregs import CNTPOFF, NATIVE, TRAPPED, cntpct_by, cntpoff, cntvoff
from guestclock.machine import Arm64Spec

KERNELS = [name for name in names("arm64") if not name.startswith("+")]
WITH_PHYSICAL = ["linux-6.4-arm64", "linux-6.12-arm64", "linux-6.18-arm64"]
HOSTS = {
    "vhe": Arm64Spec(),
    "nvhe": Arm64Spec(vhe=False),
    "ecv": Arm64Spec(ecv=True),
    "nvhe-ecv": Arm64Spec(vhe=False, ecv=True),
}
UP = 1_000 * HZ


def runs_with(kernel: str, host_: str, offset: int) -> tuple[str, bool, int, int]:
    """A vCPU in its guest, its physical counter off by `offset`.

    Answers how its CNTPCT_EL0 comes about, whether its timer's registers are its own, and what each of its counters
    lacks to the host's.
    """
    bench = Bench(kernel, HOSTS[host_])

    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 1)
        await given(vm, kernel, offset)
        await vm.vcpus[0].start()
        await host.wait(S)

    bench.run(recipe)
    vcpu = bench.vcpu(0)
    assert vcpu.in_guest
    return cntpct_by(vcpu), vcpu.el1pcen, cntvoff(vcpu), cntpoff(vcpu)


async def given(vm: Vm, kernel: str, offset: int) -> None:
    """The VM's physical counter is off by so much: by whatever way the kernel has."""
    if offset:
        if "+" not in kernel:
            await vm.vcpus[0].set_one_reg(KVM_REG_ARM_PTIMER_CNT, UP - offset)
            return
        attr = KVM_ARM_VCPU_TIMER_OFFSET_PTIMER if kernel[-1] in "12" else KVM_ARM_VCPU_TIMER_PHYS_OFFSET
        await vm.vcpus[0].set_attr(KVM_ARM_VCPU_TIMER_CTRL, attr, offset)


@pytest.mark.parametrize("kernel", KERNELS)
def test_without_an_offset_nothing_traps_but_the_physical_timer_on_nvhe(kernel):
    told = {host: runs_with(kernel, host, 0) for host in HOSTS}
    in_hardware = CNTPOFF if kernel in WITH_PHYSICAL else NATIVE
    assert told == {
        "vhe": (NATIVE, True, UP, 0),
        "nvhe": (NATIVE, False, UP, 0),
        "ecv": (in_hardware, True, UP, 0),
        "nvhe-ecv": (NATIVE, False, UP, 0),
    }


@pytest.mark.parametrize("kernel", WITH_PHYSICAL)
def test_with_an_offset_both_trap_where_the_hardware_cannot_apply_it(kernel):
    assert {host: runs_with(kernel, host, 7) for host in HOSTS} == {
        "vhe": (TRAPPED, False, UP, 7),
        "nvhe": (TRAPPED, False, UP, 7),
        "ecv": (CNTPOFF, True, UP, 7),
        "nvhe-ecv": (TRAPPED, False, UP, 7),
    }


def test_writing_back_the_physical_counter_is_enough():
    """kvm-arm64.md 3.2: the offset becomes the time between, and from then on everything traps."""

    async def recipe(host: Host) -> None:
        (vcpu,) = (await vm_with(host, 1)).vcpus
        value = await vcpu.get_one_reg(KVM_REG_ARM_PTIMER_CNT)
        await vcpu.set_one_reg(KVM_REG_ARM_PTIMER_CNT, value)
        await vcpu.start()
        await host.wait(S)

    bench = Bench(step_ns=1_000)
    bench.run(recipe)
    assert cntpct_by(bench.vcpu(0)) == TRAPPED
    assert cntpoff(bench.vcpu(0)) in (1_000 // 16, 1_000 // 16 + 1)


def test_a_vcpu_outside_kvm_run_is_told_by_what_it_would_load():
    bench = Bench()

    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 1)
        await vm.set_counter_offset(5)

    bench.run(recipe)
    assert (cntvoff(bench.vcpu(0)), cntpoff(bench.vcpu(0))) == (5, 5)


# ---- two VMs on one physical CPU


def two_on_one_cpu(kernel: str, host_: str) -> list[int]:
    """VM 0 has a physical offset, VM 1 none; they take turns on CPU 0. What VM 1 reads of CNTPCT_EL0, then VM 0."""

    async def recipe(host: Host) -> list[int]:
        one, other = await vm_with(host, 1), await vm_with(host, 1)
        await given(one, kernel, 7)
        got = []
        for _ in range(2):
            await one.vcpus[0].run()
            got += await other.vcpus[0].run(ReadSysreg("CNTPCT_EL0"))
        return got + await one.vcpus[0].run(ReadSysreg("CNTPCT_EL0"))

    return Bench(kernel, HOSTS[host_]).run(recipe)


OVERLAYS = [f"linux-6.1-arm64+timer-offset-v{version}" for version in (1, 2, 6, 8)]


@pytest.mark.parametrize("host_", HOSTS)
@pytest.mark.parametrize("kernel", [*WITH_PHYSICAL, *OVERLAYS])
def test_each_reads_its_own_counter(kernel, host_):
    raw_for_all = kernel[-2:] in ("v6", "v8") and host_ == "nvhe-ecv"
    assert two_on_one_cpu(kernel, host_) == [UP, UP, UP if raw_for_all else UP - 7]


def who_traps(kernel: str, host_: str) -> list[str]:
    """How CNTPCT_EL0 comes about for VM 0, which has an offset, and for VM 1, which then runs on the same CPU 0."""
    bench = Bench(kernel, HOSTS[host_])
    told = []

    async def recipe(host: Host) -> None:
        vms = [await vm_with(host, 1), await vm_with(host, 1)]
        await given(vms[0], kernel, 7)
        for vm in vms:
            await vm.vcpus[0].start()
            await host.wait(S)
            told.append(cntpct_by(bench.kvm.vms[vm.id].vcpus[0]))
            await vm.vcpus[0].kick()

    bench.run(recipe)
    return told


@pytest.mark.parametrize("host_", ["vhe", "nvhe"])
@pytest.mark.parametrize("kernel", [*WITH_PHYSICAL, *OVERLAYS])
def test_only_v1_lets_one_vms_traps_reach_another(kernel, host_):
    leaks = kernel.endswith("v1") and host_ == "vhe"
    assert who_traps(kernel, host_) == [TRAPPED, TRAPPED if leaks else NATIVE]


def test_v1_sets_the_cpu_of_the_call_and_no_other():
    """What v2 repaired: moved to another CPU, the vCPU with the offset reads the host's counter there."""

    def read(version: int) -> list[int]:
        async def recipe(host: Host) -> list[int]:
            vm = await vm_with(host, 1)
            await vm.vcpus[0].set_attr(KVM_ARM_VCPU_TIMER_CTRL, KVM_ARM_VCPU_TIMER_OFFSET_PTIMER, 7)
            got = []
            for cpu in (0, 1, 0):
                await vm.vcpus[0].move_to_cpu(cpu)
                got += await vm.vcpus[0].run(ReadSysreg("CNTPCT_EL0"))
            return got

        return Bench(f"linux-6.1-arm64+timer-offset-v{version}").run(recipe)

    assert read(1) == [UP - 7, UP, UP - 7]
    assert read(2) == [UP - 7] * 3


def test_v1_never_lets_go():
    """The offset is taken back; what traps on that CPU traps on."""
    bench = Bench("linux-6.1-arm64+timer-offset-v1")

    async def recipe(host: Host) -> None:
        vm = await vm_with(host, 1)
        for offset in (7, 0):
            await vm.vcpus[0].set_attr(KVM_ARM_VCPU_TIMER_CTRL, KVM_ARM_VCPU_TIMER_OFFSET_PTIMER, offset)
        await vm.vcpus[0].start()
        await host.wait(S)

    bench.run(recipe)
    assert cntpct_by(bench.vcpu(0)) == TRAPPED
    assert [cpu.el1pcten for cpu in bench.kvm.host.cpus] == [False, True, True, True]


def test_since_6_4_a_cpu_is_set_at_every_load():
    bench = Bench()

    async def recipe(host: Host) -> list[bool]:
        one, other = await vm_with(host, 1), await vm_with(host, 1)
        await one.set_counter_offset(7)
        shown = []
        for vm in (one, other, one):
            await vm.vcpus[0].run()
            shown.append(bench.kvm.host.cpus[0].el1pcten)
        return shown

    assert bench.run(recipe) == [False, True, False]
