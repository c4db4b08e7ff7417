"""Steps that have to do with each other share fields, steps that have not share none: the explorer orders by that."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import pytest
from tests.kvm.model.footprints import Fields, Step, WatchedWorld, watched
from tests.kvm.model.x86.bench import TSC, S, vm_with

from guestclock.kvm.api import Host, KvmclockCtrl, Note, Peek, ReadClocks, Run, SetClock, SetMsr, Wrmsr
from guestclock.sim import State


@pytest.fixture(autouse=True)
def widths() -> None:
    """These tests install an observer of their own."""


async def settled(host: Host, vcpus: int = 2):
    """A VM whose vCPUs have run, with nothing left to serve; a note ends the beginning."""
    vm = await vm_with(host, vcpus)
    for vcpu in vm.vcpus * 3:
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


def one_run(kernel: str, op, vcpus: int = 2) -> list[Step]:
    """The steps of one operation on a settled VM."""

    async def recipe(host: Host) -> None:
        await settled(host, vcpus)
        await op

    return after_settling(watched(kernel, recipe))


KERNELS = ["linux-5.10", "linux-6.1", "linux-6.12", "linux-7.2"]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    "mine",
    [
        lambda vcpu: Run(0, vcpu, (ReadClocks(),)),
        lambda vcpu: Run(0, vcpu, (Wrmsr(TSC, 5), ReadClocks())),
        lambda vcpu: KvmclockCtrl(0, vcpu),
        lambda vcpu: Peek(0, vcpu),
    ],
    ids=["run", "guest-writes-tsc", "kvmclock-ctrl", "peek"],
)
def test_what_two_vcpus_do_for_themselves_is_independent(kernel, mine):
    assert conflicts(one_run(kernel, mine(0)), one_run(kernel, mine(1))) == set()


@pytest.mark.parametrize("kernel", ["linux-6.12", "linux-7.2"])
def test_two_threads_in_kvm_run_are_independent(kernel):
    """Load, entry, page update, exit on a kick of each: nothing is shared while no snapshot is taken."""

    async def recipe(host: Host) -> None:
        vm = await settled(host)
        for vcpu in vm.vcpus:
            await vcpu.kvmclock_ctrl()
            await vcpu.start()
        await host.wait(S)
        for vcpu in vm.vcpus:
            await vcpu.kick()

    steps = after_settling(watched(kernel, recipe))
    first, second = of(steps, "VM 0 vCPU 0"), of(steps, "VM 0 vCPU 1")
    assert {"VM entry", "in the guest", "pvclock page: body"} <= {s.label for s in first}
    assert conflicts(first, second) == set()


def test_a_page_is_stored_in_three_steps_and_who_peeks_conflicts_with_each():
    steps = one_run("linux-6.12", _kvmclock_ctrl_and_run())
    stores = of(steps, "VMM 0", "kvm_guest_time_update", "pvclock page: body", "pvclock page: even version")
    written = [{name for kind, name in s.writes if kind == "SystemTimePage0"} for s in stores]
    assert written == [{"version"}, {"flags"}, {"version"}]  # one snapshot: the rest is what stood there
    assert {name for kind, name in stores[1].reads if kind == "SystemTimePage0"} >= {"system_time", "tsc_to_system_mul"}
    mine, others = one_run("linux-6.12", Peek(0, 0)), one_run("linux-6.12", Peek(0, 1))
    assert [bool(conflicts([s], mine)) for s in stores] == [True, True, True]
    assert conflicts(stores, others) == set()


def test_of_a_new_snapshot_a_reader_may_see_the_tsc_without_the_time():
    async def recipe(host: Host) -> None:
        vm = await settled(host)
        await vm.set_clock(7 * S)
        await vm.vcpus[0].run()

    steps = after_settling(watched("linux-6.12", recipe))
    stores = of(steps, "VMM 0", "kvm_guest_time_update", "pvclock page: body", "pvclock page: even version")
    written = [{name for kind, name in s.writes if kind == "SystemTimePage0"} for s in stores]
    assert written == [{"version", "tsc_timestamp"}, {"system_time"}, {"version"}]


def _kvmclock_ctrl_and_run():
    async def both():
        await KvmclockCtrl(0, 0)
        await Run(0, 0)

    return both()


def test_tsc_writes_of_two_vcpus_conflict_on_the_vm_s_books_alone():
    shared = conflicts(one_run("linux-6.12", SetMsr(0, 0, TSC, 5 * S)), one_run("linux-6.12", SetMsr(0, 1, TSC, 9 * S)))
    assert {kind for kind, _ in shared} == {"VmTime0"}
    books = {"last_tsc_nsec", "last_tsc_write", "last_tsc_offset", "cur_tsc_offset", "cur_tsc_generation"}
    assert books <= {name for _, name in shared}
    assert {name for _, name in shared} <= books | {
        "cur_tsc_nsec", "cur_tsc_write", "nr_vcpus_matched_tsc", "user_set_tsc", "last_tsc_khz",
    }  # fmt: skip


def creation(kernel: str = "linux-6.12") -> list[Step]:
    async def recipe(host: Host) -> None:
        vm = await settled(host)
        await vm.create_vcpu()

    return after_settling(watched(kernel, recipe))


def masterclock_update(kernel: str = "linux-6.12") -> list[Step]:
    """As a vCPU's KVM_RUN serves it: a generation of its own asks for it."""

    async def recipe(host: Host) -> None:
        vm = await settled(host)
        await vm.vcpus[0].set_msr(TSC, 50_000 * S)
        await Note("asked")
        await vm.vcpus[0].run()

    steps = watched(kernel, recipe).steps
    return steps[max(i for i, s in enumerate(steps) if s.label == "Note") + 1 :]


def test_a_vcpu_s_creation_meets_a_masterclock_update_where_it_is_counted_and_matched():
    new, update = creation(), masterclock_update()
    snapshot = of(update, "VMM 0", "KVM_REQ_MCLOCK_INPROGRESS")
    by_label = {
        label: conflicts(of(new, "VMM 0", label), snapshot)
        for label in ("CreateVcpu", "create_vcpu: publish", "create_vcpu: postcreate")
    }
    assert by_label["CreateVcpu"] == set()
    assert by_label["create_vcpu: publish"] == {("VmTime0", "online_vcpus")}
    # it is matched (counted), and asks by whether there is a masterclock
    assert by_label["create_vcpu: postcreate"] == {("VmTime0", "nr_vcpus_matched_tsc"), ("VmTime0", "use_master_clock")}
    # who is thrown out and told is read from the list
    assert ("VmTime0", "vcpus") in conflicts(of(new, "VMM 0", "create_vcpu: publish"), update)


def test_a_masterclock_update_meets_an_entry():
    update = masterclock_update()
    entry = of(one_run("linux-6.12", Run(0, 1)), "VMM 0", "VM entry")
    ends = of(update, "VMM 0", "kvm_end_pvclock_update")
    begins = of(update, "VMM 0", "Run")
    assert {("VcpuTime1", "req_mclock_inprogress"), ("VcpuTime1", "req_clock_update")} <= conflicts(entry, ends)
    assert {("VcpuTime1", "req_mclock_inprogress"), ("VcpuTime1", "in_guest")} <= conflicts(entry, begins)


def test_a_clock_that_is_set_meets_a_page_that_is_made():
    setting = one_run("linux-6.12", SetClock(0, 5 * S))
    page = one_run("linux-6.12", _kvmclock_ctrl_and_run())
    assert ("VmTime0", "master_kernel_ns") in conflicts(setting, of(page, "VMM 0", "Run"))
    assert ("VmTime0", "kvmclock_offset") in conflicts(setting, of(page, "VMM 0", "kvm_guest_time_update"))


def test_a_kick_meets_the_vcpu_it_is_for_and_no_other():
    async def recipe(host: Host) -> None:
        vm = await settled(host)
        for vcpu in vm.vcpus:
            await vcpu.start()
        await host.wait(S)
        await Note("kicked")
        await vm.vcpus[0].kick()

    steps = after_settling(watched("linux-6.12", recipe))
    kick = of(steps, "VMM 0", "Kick")
    assert conflicts(kick, of(steps, "VM 0 vCPU 0")) == {("VcpuTime0", "kicked"), ("VcpuTime0", "running")}
    assert conflicts(kick, of(steps, "VM 0 vCPU 1")) == set()


def test_the_order_of_two_creations_matters():
    assert ("VmTime0", "vcpus") in conflicts(creation(), creation())


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
        names = thing.fields if isinstance(thing, State) else vars(thing)
        for name in names:
            value = getattr(thing, name)
            if isinstance(value, list | dict | set | bytearray):
                found.append(f"{type(thing).__name__}.{name}")
            inside = value.values() if isinstance(value, Mapping) else value if isinstance(value, tuple) else [value]
            todo += [one for one in inside if isinstance(one, State)]
    return found


async def everything(host: Host) -> None:
    vm = await settled(host)
    await vm.vcpus[0].set_msr(0x4B564D00, 0x3800)
    await vm.vcpus[0].run(Wrmsr(0x40000021, 0x7001), ReadClocks())
    await vm.xen_shared_info_init()
    await vm.create_vcpu()


def test_state_holds_no_container_that_can_be_changed_in_place():
    world = watched("linux-6.12", everything)
    vm = world.kvm.vms[0]
    assert [type(p) for p in (vm.vcpus, vm.pages, vm.wall_clock_pages, vm.hv_pages)] == [tuple] + [MappingProxyType] * 3
    assert all((vm.vcpus, vm.pages, vm.wall_clock_pages, vm.hv_pages))
    assert containers(world) == []
    vm.vcpus = list(vm.vcpus)
    assert containers(world) == ["WatchedVmTime.vcpus"]


def test_what_is_created_is_written_into_a_field():
    """The control of the three above: each new object is found through a write that was seen."""
    world = watched("linux-6.12", everything)
    written = {one for step in world.steps for one in step.writes}
    for name in ("vcpus", "pages", "wall_clock_pages", "hv_pages", "xen_wall_clock"):
        assert ("VmTime0", name) in written
    assert ("KvmState0", "vms") in written
