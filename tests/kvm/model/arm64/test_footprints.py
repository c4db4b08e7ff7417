"""Steps that have to do with each other share fields, steps that have not share none: the explorer orders by that."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from tests.kvm.model.arm64.bench import S, vm_with
from tests.kvm.model.footprints import Fields, Step, WatchedWorld, watched

from guestclock.abi.arm64 import (
    ARM_SMCCC_HV_PV_TIME_ST,
    KVM_ARM_VCPU_PVTIME_CTRL,
    KVM_REG_ARM_PTIMER_CNT,
    KVM_REG_ARM_TIMER_CNT,
    KVM_REG_ARM_TIMER_CTL,
    KVM_REG_ARM_TIMER_CVAL,
)
from guestclock.kvm.api import (
    CreateVcpu,
    GetOneReg,
    Host,
    Hvc,
    Note,
    Op,
    Peek,
    ReadCounters,
    Run,
    SetCounterOffset,
    SetOneReg,
    VcpuInit,
    WriteSysreg,
)
from guestclock.kvm.model import names
from guestclock.machine import Arm64Spec
from guestclock.sim import State

KERNELS = [name for name in names("arm64") if not name.startswith("+")]
WITH_PHYSICAL = ["linux-6.4-arm64", "linux-6.12-arm64", "linux-6.18-arm64"]
NVHE = Arm64Spec(vhe=False)


@pytest.fixture(autouse=True)
def widths() -> None:
    """These tests install an observer of their own."""


async def settled(host: Host, vcpus: int = 2):
    """A VM whose vCPUs have run; a note ends the beginning."""
    vm = await vm_with(host, vcpus)
    for vcpu in vm.vcpus:
        await vcpu.move_to_cpu(vcpu.index)
        await vcpu.run()
    await Note("settled")
    return vm


def after_settling(world: WatchedWorld) -> list[Step]:
    at = next(i for i, step in enumerate(world.steps) if step.label == "Note")
    return world.steps[at + 1 :]


def of(steps: list[Step], actor: str, *labels: str) -> list[Step]:
    found = [s for s in steps if s.actor == actor and (not labels or s.label in labels)]
    assert found, f"{actor} takes no step at {labels}, but at {sorted({(s.actor, s.label) for s in steps})}"
    return found


def conflicts(some: list[Step], others: list[Step]) -> Fields:
    return {one for a in some for b in others for one in a.conflicts(b)}


def steps_of(kernel: str, op: Op, vcpus: int = 2, spec: Arm64Spec | None = None) -> list[Step]:
    """The steps of one operation on a settled VM."""

    async def recipe(host: Host) -> None:
        await settled(host, vcpus)
        await op

    return after_settling(watched(kernel, recipe, spec=spec))


# ---- what is a vCPU's own


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("spec", [Arm64Spec(), NVHE], ids=["vhe", "nvhe"])
@pytest.mark.parametrize(
    "mine",
    [
        lambda vcpu: Run(0, vcpu, (ReadCounters(), WriteSysreg("CNTP_CVAL_EL0", 5), WriteSysreg("CNTV_CTL_EL0", 1))),
        lambda vcpu: SetOneReg(0, vcpu, KVM_REG_ARM_TIMER_CVAL, 5),
        lambda vcpu: SetOneReg(0, vcpu, KVM_REG_ARM_TIMER_CTL, 5),
        lambda vcpu: GetOneReg(0, vcpu, KVM_REG_ARM_TIMER_CNT),
        lambda vcpu: VcpuInit(0, vcpu),
        lambda vcpu: Peek(0, vcpu),
    ],
    ids=["run", "set-cval", "set-ctl", "get-cnt", "init", "peek"],
)
def test_what_two_vcpus_do_for_themselves_is_independent(kernel, mine, spec):
    assert conflicts(steps_of(kernel, mine(0), spec=spec), steps_of(kernel, mine(1), spec=spec)) == set()


@pytest.mark.parametrize("kernel", KERNELS)
def test_two_threads_in_kvm_run_are_independent(kernel):
    async def recipe(host: Host) -> None:
        vm = await settled(host)
        for vcpu in vm.vcpus:
            await vcpu.start()
        await host.wait(S)
        for vcpu in vm.vcpus:
            await vcpu.kick()

    steps = after_settling(watched(kernel, recipe))
    first, second = of(steps, "VM 0 vCPU 0"), of(steps, "VM 0 vCPU 1")
    assert {"VM entry", "in the guest"} <= {s.label for s in first}
    assert conflicts(first, second) == set()


def test_a_kick_concerns_the_vcpu_that_it_is_for_and_no_other():
    async def recipe(host: Host) -> None:
        vm = await settled(host)
        for vcpu in vm.vcpus:
            await vcpu.start()
        await host.wait(S)
        await Note("kicked")
        await vm.vcpus[0].kick()

    steps = after_settling(watched("linux-6.12-arm64", recipe))
    kick = of(steps, "VMM 0", "Kick")
    assert conflicts(kick, of(steps, "VM 0 vCPU 0")) == {("VcpuTime0", "kicked"), ("VcpuTime0", "running")}
    assert conflicts(kick, of(steps, "VM 0 vCPU 1")) == set()


# ---- a counter that is set


@pytest.mark.parametrize("kernel", KERNELS)
def test_who_sets_a_counter_conflicts_with_who_loads_it(kernel):
    """Since 6.3 in one store, for all vCPUs; before, in a step for each, and only that one conflicts."""
    steps = steps_of(kernel, SetOneReg(0, 0, KVM_REG_ARM_TIMER_CNT, 5))
    loads = [steps_of(kernel, Run(0, vcpu)) for vcpu in (0, 1)]
    # The label of a step is that of the checkpoint at which it began.
    stores = [s for s in steps if any(name == "value" for _, name in s.writes)]
    hits = [[bool({one for one in conflicts([s], load) if one[1] == "value"}) for load in loads] for s in stores]
    if kernel in ("linux-5.10-arm64", "linux-6.1-arm64"):
        assert [s.label for s in stores] == ["update_vtimer_cntvoff: vCPU 0", "update_vtimer_cntvoff: vCPU 1"]
        assert hits == [[True, False], [False, True]]
    else:
        assert [s.label for s in stores] == ["KVM_SET_ONE_REG: timer_set_offset"]
        assert hits == [[True, True]]


def test_the_counter_is_read_in_another_step_than_its_offset_is_stored():
    steps = steps_of("linux-6.12-arm64", SetOneReg(0, 0, KVM_REG_ARM_TIMER_CNT, 5))
    asked = [s.label for s in steps if ("VmTime0", "counter_offset") in s.reads]
    assert asked == ["SetOneReg"]


@pytest.mark.parametrize("kernel", WITH_PHYSICAL)
def test_an_offset_is_given_in_three_steps(kernel):
    steps = steps_of(kernel, SetCounterOffset(0, 5))
    written = [{name for kind, name in s.writes if name in ("counter_offset", "value")} for s in steps]
    assert [w for w in written if w] == [{"counter_offset"}, {"value"}, {"value"}]


@pytest.mark.parametrize("kernel", WITH_PHYSICAL)
def test_the_creation_of_a_vcpu_asks_for_the_flag_and_stores_afterwards(kernel):
    """Under no lock: another thread's call may come between."""
    steps = steps_of(kernel, CreateVcpu(0))
    asks = next(i for i, s in enumerate(steps) if ("VmTime0", "counter_offset") in s.reads)
    stores = [i for i, s in enumerate(steps) if any(name == "value" for _, name in s.writes)]
    assert stores == [asks + 1], "voffset alone: poffset is 0 already"
    others = steps_of(kernel, SetCounterOffset(0, 5))
    assert {name for _, name in conflicts(steps[asks : asks + 3], others)} >= {"counter_offset", "value"}


def test_a_cpus_traps_are_a_matter_between_the_vms_that_run_there():
    def two_vms(cpu: int) -> Fields:
        async def recipe(host: Host) -> None:
            one, other = await vm_with(host, 1), await vm_with(host, 1)
            await one.vcpus[0].set_one_reg(KVM_REG_ARM_PTIMER_CNT, 5)
            await other.vcpus[0].move_to_cpu(cpu)
            await Note("settled")
            await one.vcpus[0].start()
            await host.wait(S)
            await one.vcpus[0].kick()
            await other.vcpus[0].start()
            await host.wait(S)

        steps = after_settling(watched("linux-6.12-arm64", recipe))
        return conflicts(of(steps, "VM 0 vCPU 0"), of(steps, "VM 1 vCPU 0"))

    assert two_vms(0) == {("CpuTime0", "el1pcten"), ("CpuTime0", "el1pcen")}
    assert two_vms(1) == set()


def test_the_order_of_two_creations_matters():
    assert ("VmTime0", "vcpus") in conflicts(*[steps_of("linux-6.12-arm64", CreateVcpu(0)) for _ in range(2)])


# ---- nothing that steps share escapes


def containers(world: WatchedWorld) -> list[str]:
    """Where a container that can be changed in place hangs on the KVM or on a state object behind it."""
    found, done = [], []
    todo: list[object] = [world.kvm, world.kvm.host]
    while todo:
        thing = todo.pop()
        if any(thing is one for one in done):
            continue
        done.append(thing)
        for name in thing.fields if isinstance(thing, State) else vars(thing):
            value = getattr(thing, name)
            if isinstance(value, list | dict | set | bytearray):
                found.append(f"{type(thing).__name__}.{name}")
            inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else [value]
            todo += [one for one in inside if isinstance(one, State)]
    return found


async def everything(host: Host) -> None:
    vm = await settled(host)
    await vm.vcpus[0].set_attr(KVM_ARM_VCPU_PVTIME_CTRL, 0, 0x4000_0000)
    await vm.vcpus[0].run(Hvc(ARM_SMCCC_HV_PV_TIME_ST), ReadCounters())
    await vm.create_vcpu()
    await vm.set_counter_offset(5)


def test_state_holds_no_container_that_can_be_changed_in_place():
    world = watched("linux-6.12-arm64", everything)
    vm = world.kvm.vms[0]
    assert len(vm.vcpus) == 3
    assert vm.pages
    assert containers(world) == []
    vm.vcpus = list(vm.vcpus)
    assert containers(world) == ["WatchedVmTime.vcpus"]


def test_what_is_created_is_written_into_a_field():
    """The control of the one above: each new object is found through a write that was seen."""
    world = watched("linux-6.12-arm64", everything)
    written = {one for step in world.steps for one in step.writes}
    assert written >= {("VmTime0", "vcpus"), ("VmTime0", "pages"), ("KvmState0", "vms"), ("VmTime0", "counter_offset")}
