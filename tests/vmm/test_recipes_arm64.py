"""Every arm64 recipe that comes along, carried out on the model: counters do what its policy says, in microseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from guestclock.abi.arm64 import KVM_REG_ARM_PTIMER_CNT, KVM_REG_ARM_TIMER_CNT
from guestclock.errors import UserError
from guestclock.kvm.api import Host, Kick, KvmError, ReadCounters, SetCounterOffset, SetOneReg, SetVcpuAttr, Start, Vm
from guestclock.kvm.model import lookup
from guestclock.machine import Arm64Spec
from guestclock.scenario.snapshot_file import decode, encode
from guestclock.vmm.recipe import load, names
from guestclock.vmm.snapshot import ARM64, Arm64Snapshot
from tests.vmm.world_arm64 import AGE_NS, DOWN_NS, HZ, Operation, World, create, refusal, wrong

KERNELS = ["linux-5.10", "linux-6.1", "linux-6.3", "linux-6.4", "linux-6.12", "linux-6.18"]
NEEDS_6_4 = {
    "arm64-by-offset",
    "arm64-by-offset-freeze",
    "arm64-by-offset-migrate",
    "arm64-vcpu-hotplug-with-offset",
    "crosvm-arm64-suspend-resume",
    "crosvm-arm64-suspend-stamped-early",
}
BROADCAST = "broadcast-2021-v2"
HOTPLUG = "arm64-vcpu-hotplug"


def kernels(name: str) -> list[str]:
    if name == BROADCAST:
        return ["linux-5.10-arm64+timer-offset-v2", "linux-6.12-arm64+timer-offset-v2"]
    return [f"{kernel}-arm64" for kernel in KERNELS if name not in NEEDS_6_4 or KERNELS.index(kernel) >= 3]


CASES = [(name, kernel) for name in names(ARM64) if name != HOTPLUG for kernel in kernels(name)]


def judged(name: str, kernel: str) -> dict[str, str]:
    """The policy, as far as the kernel has something to keep it by: without a register of the physical counter nobody
    moves it, and nobody but the guest can tell.
    """
    policy = dict(load(name).policy)
    if KVM_REG_ARM_PTIMER_CNT not in lookup(kernel).timer_regs:
        del policy["cntpct"]
    return policy


@pytest.mark.parametrize(("name", "kernel"), CASES)
@pytest.mark.parametrize("vcpus", [1, 2, 3])
@pytest.mark.parametrize("spec", [Arm64Spec(), Arm64Spec(vhe=False)], ids=["vhe", "nvhe"])
def test_the_counters_do_what_the_policy_says(name: str, kernel: str, vcpus: int, spec: Arm64Spec) -> None:
    told = Operation(load(name), World(kernel, spec), vcpus=vcpus).carried_out()
    assert wrong(told, judged(name, kernel)) == []
    assert told.elapsed_ns() - DOWN_NS < 2_000_000, "the calls take microseconds, so that is how exact the check is"


@pytest.mark.parametrize("name", sorted(NEEDS_6_4))
def test_kernels_before_6_4_have_no_offset_to_give(name: str) -> None:
    for kernel in KERNELS[:3]:
        refused = refusal(load(name), f"{kernel}-arm64")
        assert refused is not None
        assert refused.op.name == "SetCounterOffset"


def test_no_kernel_has_2021_s_attributes() -> None:
    for kernel in KERNELS:
        refused = refusal(load(BROADCAST), f"{kernel}-arm64")
        assert refused is not None
        assert refused.op.name == "SetVcpuAttr"


# ---- the check can fail

MISTAKES = {
    "the counters forgotten": ("        await written(vcpu, saved, COUNTERS)", "        pass", ["cntvct", "cntpct"]),
    "one of the two": (
        "written(vcpu, saved, COUNTERS)", "written(vcpu, saved, COUNTERS[:1])", ["cntpct"],
    ),
    "a second too much": (
        "cntvct=await vcpu.get_one_reg(KVM_REG_ARM_TIMER_CNT)",
        "cntvct=await vcpu.get_one_reg(KVM_REG_ARM_TIMER_CNT) + 62_500_000", ["cntvct"],
    ),
    "the timer's compare value, by its encoding": (
        "from guestclock.abi.arm64 import KVM_REG_ARM_PTIMER_CNT, KVM_REG_ARM_TIMER_CNT",
        "from guestclock.abi.arm64 import KVM_REG_ARM_PTIMER_CNT, KVM_REG_ARM_TIMER_CVAL as KVM_REG_ARM_TIMER_CNT",
        ["cntvct"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_flagged(mistake: str, tmp_path: Path) -> None:
    right, planted, clocks = MISTAKES[mistake]
    source = load("arm64-by-value").path.read_text()
    assert source.count(right) == 1
    path = tmp_path / "planted.py"
    path.write_text(source.replace(right, planted))
    told = Operation(load(str(path)), World("linux-6.12-arm64")).carried_out()
    flagged = wrong(told, {"cntvct": "freeze", "cntpct": "freeze"})
    assert [line.split(": ")[1] for line in flagged] == clocks * 2


def test_the_right_one_under_the_wrong_policy_is_flagged() -> None:
    told = Operation(load("arm64-by-value"), World("linux-6.12-arm64")).carried_out()
    assert len(wrong(told, {"cntvct": "advance", "cntpct": "run"})) == 4
    told = Operation(load("arm64-by-offset"), World("linux-6.12-arm64")).carried_out()
    assert len(wrong(told, {"cntvct": "freeze", "cntpct": "freeze"})) == 4


# ---- to another host

SOURCE = Arm64Spec()
ELSEWHERE = Arm64Spec(uptime_ns=77 * 10**9, counter_at_start=42)
"""Booted at another time; its wall clock is right."""


@pytest.mark.parametrize("kernel", ["linux-6.4-arm64", "linux-6.12-arm64", "linux-6.18-arm64"])
@pytest.mark.parametrize(
    "name",
    [
        "arm64-by-value", "arm64-by-offset-freeze", "arm64-by-offset-migrate", "cloud-hypervisor-arm64",
        "firecracker-arm64", "qemu-arm64-migrate",
    ],
)  # fmt: skip
def test_on_another_host_too(name: str, kernel: str) -> None:
    recipe = load(name)
    told = Operation(recipe, World(kernel, SOURCE, ELSEWHERE)).carried_out()
    assert wrong(told, dict(recipe.policy)) == []


def test_the_bare_offset_is_for_one_host() -> None:
    told = Operation(load("arm64-by-offset"), World("linux-6.12-arm64", SOURCE, ELSEWHERE)).carried_out()
    assert len(wrong(told, {"cntvct": "advance", "cntpct": "advance"})) == 4


@pytest.mark.parametrize("ahead_ns", [-5_000_000, 5_000_000])
def test_a_wrong_wall_clock_is_what_a_migration_by_offset_is_wrong_by(ahead_ns: int) -> None:
    spec = Arm64Spec(uptime_ns=77 * 10**9, realtime_ns=SOURCE.realtime_ns + ahead_ns)
    world = World("linux-6.12-arm64", SOURCE, spec)
    told = Operation(load("arm64-by-offset-migrate"), world).carried_out()
    off_by = [now - then for now, then in zip(lines(told.after), lines(told.before), strict=True)]
    assert all(abs(ns - ahead_ns) < 1_000 for ns in off_by), off_by


def lines(look: Any) -> list[int]:
    """Each vCPU's CNTVCT as time, less true time; ns."""
    first_host = look.vcpus[0].host_counter[0]
    return [
        (reading.cntvct - (reading.host_counter[0] - first_host)) * 10**9 // HZ - look.at_ns for reading in look.vcpus
    ]


def test_a_wall_clock_that_went_back_is_no_time_at_all_to_cloud_hypervisor() -> None:
    spec = Arm64Spec(uptime_ns=77 * 10**9, realtime_ns=SOURCE.realtime_ns - 3600 * 10**9)
    told = Operation(load("cloud-hypervisor-arm64"), World("linux-6.12-arm64", SOURCE, spec)).carried_out()
    assert wrong(told, {"cntvct": "freeze"}) == []


@pytest.mark.parametrize("name", ["arm64-by-offset-freeze", "arm64-by-offset-migrate", "cloud-hypervisor-arm64"])
def test_a_host_of_another_rate_is_refused_before_anything_is_written(name: str) -> None:
    world = World("linux-6.12-arm64", SOURCE, Arm64Spec(counter_hz=10**9))
    with pytest.raises(UserError, match=r"62500000 Hz, expected this host's, 1000000000 Hz"):
        Operation(load(name), world).carried_out()
    at_destination = world.ops[next(i for i, (op, _) in enumerate(world.ops) if op.name == "Wait" and i > 5) :]
    written = [op for op, _ in at_destination if isinstance(op, SetCounterOffset)]
    assert written == []


@pytest.mark.parametrize("kernel", kernels(BROADCAST))
def test_2021_s_broadcast_carries_both_counters_of_every_vcpu(kernel: str) -> None:
    recipe = load(BROADCAST)

    async def course() -> list[Any]:
        host = Host()
        vm: Vm = await recipe.create(host, 2, None)  # type: ignore[misc]
        readings = [(await vcpu.run(ReadCounters()))[0] for vcpu in vm.vcpus]
        snapshot = await recipe.save(vm)  # type: ignore[misc]
        await host.wait(DOWN_NS)
        vm = await recipe.create(host, 2, snapshot)  # type: ignore[misc]
        await recipe.restore(vm, snapshot)  # type: ignore[misc]
        return readings + [(await vcpu.run(ReadCounters()))[0] for vcpu in vm.vcpus]

    readings = World(kernel).run(course())
    assert all(reading.cntvct <= reading.cntpct <= reading.cntvct_after for reading in readings)
    # One offset fits them all: each read of a counter lies between two of the host's.
    least = max(reading.host_counter[0] - reading.cntvct for reading in readings)
    most = min(reading.host_counter[1] - reading.cntvct_after for reading in readings)
    assert least <= most
    assert most - least <= 2


# ---- what sets one recipe apart from the next


def test_a_late_write_by_offset_is_no_other() -> None:
    """The VMM is held up for 5 s right before the call: by value the guest is so much behind, by offset not at all."""
    assert late_ns("arm64-by-value") == 5_000_000_000
    assert late_ns("arm64-by-offset") == 0
    assert late_ns("arm64-by-offset-migrate") == 0


def late_ns(name: str) -> int:
    """How far the guest's counter is behind where it is without the delay."""
    ends = []
    for delay_ns in (0, 5_000_000_000):
        world = World("linux-6.12-arm64")
        recipe = load(name)

        async def course(recipe: Any = recipe, world: World = world, delay_ns: int = delay_ns) -> int:
            host = Host()
            source: Vm = await recipe.create(host, 1, None) if recipe.create else await create(host, 1)
            await host.wait(AGE_NS)
            snapshot = await recipe.save(source)
            vm: Vm = await recipe.create(host, 1, snapshot) if recipe.create else await create(host, 1)
            await held_up(recipe.restore(vm, snapshot), delay_ns)
            await host.wait(60 * 10**9 - delay_ns)
            reading = await vm.vcpus[0].peek()
            answer: int = reading.cntvct - reading.host_counter[0]
            return answer

        ends.append(world.run(course()))
    return (ends[0] - ends[1]) * 10**9 // HZ


async def held_up(restoring: Any, delay_ns: int) -> None:
    """The recipe's calls, the first that writes a counter late."""
    awaited, answer, late = restoring.__await__(), None, False
    while True:
        try:
            op = awaited.send(answer)
        except StopIteration:
            return
        if isinstance(op, SetCounterOffset | SetOneReg | SetVcpuAttr) and not late:
            late = True
            await Host().wait(delay_ns)
        answer = await op


def crosses_ns(name: str, vcpus: int) -> int:
    """What the guest's counter gains between the last vCPU's leaving the guest and the first one's entering it, ns."""
    world = World("linux-6.12-arm64")
    told = Operation(load(name), world, vcpus=vcpus).carried_out()
    out = max(at for op, at in world.ops if isinstance(op, Kick) and at < told.after.at_ns - DOWN_NS)
    into = min(at for op, at in world.ops if isinstance(op, Start) and at > out)
    before, after = lines(told.before)[0] + out, lines(told.after)[0] + into
    return after - before


def test_crosvm_s_early_stamp_lets_the_guest_go_back_and_the_right_one_does_not() -> None:
    """By what the kicks take, less what lies between the second stamp and the guest: three vCPUs are enough."""
    right, early = ([crosses_ns(f"crosvm-arm64-suspend-{how}", vcpus) for vcpus in (1, 3)] for how in CROSVM)
    assert all(0 <= ns < 20_000 for ns in right)
    assert right[0] > early[0] > 0 > early[1] > -20_000


CROSVM = ("resume", "stamped-early")


def test_qemu_writes_last_what_it_read_first() -> None:
    """The last vCPU's value is what stays: read first, written last (kvm-arm64.md 3.2)."""
    world = World("linux-6.12-arm64")
    Operation(load("qemu-arm64-stop-cont"), world, vcpus=3).carried_out()
    written = [op for op, _ in world.ops if isinstance(op, SetOneReg)]
    assert [op.vcpu for op in written] == [0, 1, 2]
    assert written[0].value > written[1].value > written[2].value


@pytest.mark.parametrize(("kernel", "sets"), [("linux-6.1-arm64", 3), ("linux-6.12-arm64", 1)])
def test_cloud_hypervisor_programs_every_vcpu_where_it_knows_no_better(kernel: str, sets: int) -> None:
    world = World(kernel)
    Operation(load("cloud-hypervisor-arm64"), world, vcpus=3).carried_out()
    started = next(i for i, (op, _) in enumerate(world.ops) if i > 20 and isinstance(op, Start))
    last = [op for op, _ in world.ops[started - sets : started]]
    assert [(op.vcpu, op.id) for op in last] == [(vcpu, KVM_REG_ARM_TIMER_CNT) for vcpu in range(sets)]
    assert len({op.value for op in last}) == 1


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_plugged_in_vcpu_takes_the_counter_back_to_nothing(kernel: str) -> None:
    told = Operation(load(HOTPLUG), World(f"{kernel}-arm64")).carried_out()
    assert (len(told.before.vcpus), len(told.after.vcpus)) == (2, 3)
    flagged = wrong(told, {"cntvct": "run"})
    assert [line.partition(": ")[0] for line in flagged] == ["vCPU 0", "vCPU 1"]
    assert all(reading.cntvct * 10**9 // HZ < 2_000_000 for reading in told.after.vcpus)


# ---- snapshots


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("arm64-by-value", "linux-6.1-arm64"), ("arm64-by-value", "linux-6.12-arm64"),
        ("arm64-by-offset", "linux-6.12-arm64"), ("arm64-by-offset-migrate", "linux-6.18-arm64"),
        ("firecracker-arm64", "linux-6.12-arm64"), ("cloud-hypervisor-arm64", "linux-6.12-arm64"),
        ("qemu-arm64-migrate", "linux-5.10-arm64"), (BROADCAST, "linux-5.10-arm64+timer-offset-v2"),
    ],
)  # fmt: skip
def test_by_way_of_a_file_everything_is_the_same(name: str, kernel: str) -> None:
    plain = Operation(load(name), World(kernel)).carried_out()
    by_file = Operation(load(name), World(kernel), through=filed).carried_out()
    assert by_file.snapshot == plain.snapshot
    assert by_file.after == plain.after


def filed(snapshot: Arm64Snapshot) -> Any:
    return decode(encode(snapshot), "x.json", arch=ARM64)


@pytest.mark.parametrize(("name", "same"), [("arm64-by-offset", True), ("arm64-by-value", False)])
def test_an_offset_restored_twice_is_the_same_twice_a_value_is_not(name: str, same: bool) -> None:
    recipe = load(name)

    async def course() -> list[int]:
        host = Host()
        source: Vm = await recipe.create(host, 2, None) if recipe.create else await create(host, 2)  # type: ignore[misc]
        await host.wait(10**9)
        image = encode(await recipe.save(source))  # type: ignore[misc]
        seen = []
        for _ in range(2):
            vm: Vm = await recipe.create(host, 2, None) if recipe.create else await create(host, 2)  # type: ignore[misc]
            for _ in range(2):
                await recipe.restore(vm, decode(image, "x.json", arch=ARM64))  # type: ignore[misc]
                reading = await vm.vcpus[1].peek()
                seen.append(reading.host_counter[0] - reading.cntvct)
                await host.wait(10**9)
        return seen

    seen = World("linux-6.12-arm64").run(course())
    assert (len(set(seen)) == 1) == same


def test_an_offset_is_refused_while_a_vcpu_runs() -> None:
    async def course() -> str:
        vm = await create(Host(), 2)
        await vm.vcpus[1].start()
        try:
            await vm.set_counter_offset(5)
        except KvmError as refused:
            await vm.vcpus[1].kick()
            return refused.errno
        return ""

    assert World("linux-6.12-arm64").run(course()) == "EBUSY"
