"""Every recipe that comes along, carried out on the model: the clocks do what its policy says, in microseconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from guestclock.abi.pvclock import PVCLOCK_GUEST_STOPPED, PVCLOCK_TSC_STABLE_BIT
from guestclock.kvm.api import Host
from guestclock.machine import HostSpec
from guestclock.vmm.clocks import X86_64
from guestclock.vmm.recipe import Recipe, load, names
from tests.vmm.world import DOWN_NS, KHZ, Operation, create, look, on_model, wrong

NEEDS_5_16 = {
    "best-since-5.16",
    "cloud-hypervisor-pause-resume",
    "cloud-hypervisor-resume-clock-late",
    "cloud-hypervisor-restore",
    "cloud-hypervisor-restore-without-offset-sync",
    "firecracker-restore-clock-realtime",
    "kernel-doc-migrate",
    "offset-restore",
}


def kernels(name: str) -> list[str]:
    if name == "stop-all-tscs":
        return ["linux-6.12+stop-all-tscs"]
    if name in NEEDS_5_16:
        return ["linux-5.16", "linux-6.7", "linux-6.12", "linux-7.2"]
    if name == "best-before-5.16":
        return ["linux-4.12", "linux-5.4", "linux-5.15", "linux-6.12"]
    return ["linux-3.19", "linux-5.10", "linux-6.7", "linux-6.12", "linux-7.2"]


CASES = [(name, kernel) for name in names(X86_64) for kernel in kernels(name)]


@pytest.mark.parametrize(("name", "kernel"), CASES)
@pytest.mark.parametrize("vcpus", [1, 2, 3])
def test_the_clocks_do_what_the_policy_says(name: str, kernel: str, vcpus: int) -> None:
    recipe = load(name)
    assert set(recipe.policy) == {"tsc", "kvmclock"}
    told = on_model(Operation(recipe, vcpus=vcpus).run, kernel)
    assert wrong(told, dict(recipe.policy)) == []
    assert told.elapsed_ns() - DOWN_NS < 2_000_000, "the calls take microseconds, so that is how exact the check is"


def test_only_a_plugged_in_vcpu_is_not_judged() -> None:
    told = on_model(Operation(load("vcpu-hotplug")).run, "linux-6.7")
    assert (len(told.before.vcpus), len(told.after.vcpus)) == (2, 3)
    flagged = wrong(told, {"tsc": "freeze"})
    assert [line.partition(":")[0] for line in flagged] == ["vCPU 0", "vCPU 1"]


@pytest.mark.parametrize("name", sorted(NEEDS_5_16))
def test_kernels_before_5_16_lack_its_calls(name: str) -> None:
    with pytest.raises(Exception, match="EINVAL"):
        on_model(Operation(load(name)).run, "linux-5.15")


# ---- the check can fail

MISTAKES = {
    "the clock forgotten": ("    await vm.set_clock(snapshot.clock.clock_ns)", "    pass", "kvmclock"),
    "a clock of before": (
        "set_clock(snapshot.clock.clock_ns)", "set_clock(snapshot.clock.clock_ns - 10**7)", "kvmclock",
    ),
    "a second too much": (
        "set_msr(MSR_IA32_TSC, saved.tsc)", "set_msr(MSR_IA32_TSC, saved.tsc + 2_596_122_000)", "tsc",
    ),
    "the TSC forgotten": ("        await vcpu.set_msr(MSR_IA32_TSC, saved.tsc)", "        pass", "tsc"),
    "nanoseconds for cycles": ("saved.tsc)", "snapshot.clock.clock_ns)", "tsc"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_planted_mistake_is_flagged(mistake: str, tmp_path: Path) -> None:
    right, planted, clock = MISTAKES[mistake]
    source = load("by-value-restore").path.read_text()
    assert source.count(right) == 1
    path = tmp_path / "planted.py"
    path.write_text(source.replace(right, planted))
    told = on_model(Operation(load(str(path))).run, "linux-6.12")
    flagged = wrong(told, {"tsc": "freeze", "kvmclock": "freeze"})
    assert [line.split(": ")[1] for line in flagged] == [clock, clock]


def test_the_right_one_under_the_wrong_policy_is_flagged() -> None:
    told = on_model(Operation(load("by-value-restore")).run, "linux-6.12")
    assert len(wrong(told, {"tsc": "advance", "kvmclock": "run"})) == 4
    told = on_model(Operation(load("firecracker-pause-resume")).run, "linux-6.12")
    assert len(wrong(told, {"tsc": "freeze", "kvmclock": "freeze"})) == 4


# ---- what sets one recipe apart from the next


def flags(name: str, kernel: str = "linux-6.12") -> list[int]:
    told = on_model(Operation(load(name)).run, kernel)
    return [reading.page.flags for reading in told.after.vcpus]


@pytest.mark.parametrize(
    ("name", "tells"),
    [
        ("firecracker-restore", True), ("firecracker-restore-without-ctrl", False), ("firecracker-pause-resume", True),
        ("qemu-stop-cont", True), ("qemu-migrate", True), ("crosvm-suspend-resume", True),
        ("cloud-hypervisor-pause-resume", True), ("by-value-restore", False),
    ],
)  # fmt: skip
def test_the_guest_is_told_that_it_was_stopped(name: str, tells: bool) -> None:
    assert [bool(f & PVCLOCK_GUEST_STOPPED) for f in flags(name)] == [tells, tells]


def test_offset_sync_gives_the_masterclock_back() -> None:
    """A creation between two writes spoils the match (kvm-x86.md 3.1); one offset for all repairs it."""
    stable = PVCLOCK_TSC_STABLE_BIT
    assert [bool(f & stable) for f in flags("cloud-hypervisor-restore")] == [True, True]
    assert [bool(f & stable) for f in flags("cloud-hypervisor-restore-without-offset-sync")] == [False, False]


def apart(name: str, kernel: str, delay_ns: int) -> int:
    """How far the vCPUs' TSC offsets are apart if the VMM is held up for so long before its second TSC write."""
    recipe = load(name)

    async def world(khz: int) -> int:
        from guestclock.kvm.api import GetMsr, SetMsr, Wait

        source = await create(Host(), 2)
        for vcpu in (*source.vcpus, *source.vcpus):
            await vcpu.run()
        await Host().wait(100 * 10**9)
        snapshot = await recipe.save(source)
        vm = await create(Host(), 2)
        restoring = recipe.restore(vm, snapshot).__await__()
        answer, written = None, set()
        while True:
            try:
                op = restoring.send(answer)
            except StopIteration:
                break
            if isinstance(op, SetMsr) and op.index == 0x10 and op.vcpu not in written:
                written.add(op.vcpu)
                if len(written) == 2:
                    await Wait(delay_ns)
            answer = await op
        host_tsc = [(await GetMsr(vm.id, index, 0x10), await Host().read_clock("tsc")) for index in (0, 1)]
        (a, at_a), (b, at_b) = host_tsc
        return abs((b - at_b) - (a - at_a)) * 1_000_000 // khz

    return on_model(world, kernel)


@pytest.mark.parametrize("delay_ns", [0, 900_000_000, 5_000_000_000])
def test_zeros_tie_the_others_to_vcpu_0_whatever_the_delay(delay_ns: int) -> None:
    for kernel in ("linux-4.12", "linux-5.15"):
        assert apart("best-before-5.16", kernel, delay_ns) < 1_000


def test_by_value_the_second_is_late_by_the_delay_beyond_the_window() -> None:
    assert apart("by-value-restore", "linux-5.15", 900_000_000) < 1_000
    assert 5_000_000_000 <= apart("by-value-restore", "linux-5.15", 5_000_000_000) < 5_000_100_000


def pairing_ns(name: str, kernel: str, **more: object) -> list[int]:
    """By how much TSC and kvmclock moved differently, ns, per vCPU."""
    told = on_model(Operation(load(name), **more).run, kernel)  # type: ignore[arg-type]
    return [
        (now.tsc - was.tsc) * 1_000_000 // told.khz - (now.kvmclock_ns - was.kvmclock_ns)
        for was, now in zip(told.before.vcpus, told.after.vcpus, strict=True)
    ]


@pytest.mark.parametrize("kernel", ["linux-5.16", "linux-6.7", "linux-6.12", "linux-7.2"])
def test_the_best_recipe_keeps_tsc_and_kvmclock_together(kernel: str) -> None:
    """The drift of the raw clock against the page, -49.9 ns/s, over the guest's 10 s, is taken out at the snapshot:
    what is left are roundings.
    """
    assert all(abs(ns) <= 3 for ns in pairing_ns("best-since-5.16", kernel))


def test_by_value_they_come_apart_by_the_time_between_the_writes() -> None:
    assert all(1_000 < abs(ns) < 100_000 for ns in pairing_ns("by-value-restore", "linux-6.12"))


def test_best_before_5_16_is_off_by_the_time_from_reading_to_writing_only() -> None:
    for kernel in ("linux-4.12", "linux-5.15"):
        assert all(abs(ns) < 5_000 for ns in pairing_ns("best-before-5.16", kernel)), kernel


def test_the_best_recipe_leaves_nothing_pending() -> None:
    """Entering the guest takes no further snapshot: every page stays what it is. The documented one takes one."""

    def pages_change(name: str) -> bool:
        recipe = load(name)

        async def world(khz: int) -> bool:
            host = Host()
            source = await create(host, 2)
            for vcpu in (*source.vcpus, *source.vcpus):
                await vcpu.run()
            await host.wait(10**9)
            snapshot = await recipe.save(source)
            vm = await (recipe.create(host, 2, snapshot) if recipe.create else create(host, 2))
            await recipe.restore(vm, snapshot)
            for vcpu in vm.vcpus:
                await vcpu.run()
            shown = [(r.page.tsc_timestamp, r.page.system_time) for r in (await look(host, vm)).vcpus]
            await host.wait(10**9)
            for vcpu in (*reversed(vm.vcpus), *vm.vcpus):
                await vcpu.run()
            return shown != [(r.page.tsc_timestamp, r.page.system_time) for r in (await look(host, vm)).vcpus]

        return on_model(world, "linux-6.12")

    assert not pages_change("best-since-5.16")
    assert pages_change("kernel-doc-migrate")


def test_guests_that_set_their_tscs_apart_stay_apart_by_offset() -> None:
    async def world(khz: int, recipe: Recipe) -> tuple[int, int]:
        host = Host()
        source = await create(host, 2)
        await source.vcpus[1].set_tsc_offset(await source.vcpus[0].get_tsc_offset() + 12_345)
        for vcpu in (*source.vcpus, *source.vcpus):
            await vcpu.run()
        await host.wait(10**9)
        snapshot = await recipe.save(source)
        vm = await create(host, 2)
        await recipe.restore(vm, snapshot)
        a, b = [await vcpu.get_tsc_offset() for vcpu in vm.vcpus]
        return a, b

    for name in ("best-since-5.16", "kernel-doc-migrate", "offset-restore"):
        a, b = on_model(lambda khz, name=name: world(khz, load(name)), "linux-6.12")
        assert (b - a) % 2**64 == 12_345, name


def test_a_rate_beyond_the_tolerance_is_given_to_the_vcpus() -> None:
    """Firecracker scales beyond 250 ppm only; the snapshot says 3 GHz here, the host has VMX scaling."""
    recipe = load("firecracker-restore")

    async def world(khz: int, saved_khz: int) -> int:
        from dataclasses import replace

        source = await create(Host(), 2)
        for vcpu in source.vcpus:
            await vcpu.run()
        snapshot = await recipe.save(source)
        snapshot = replace(snapshot, vcpus=tuple(replace(v, tsc_khz=saved_khz) for v in snapshot.vcpus))
        vm = await create(Host(), 2)
        await recipe.restore(vm, snapshot)
        return await vm.vcpus[1].get_tsc_khz()

    spec = HostSpec(tsc_khz=KHZ, tsc_scaling="vmx")
    assert on_model(lambda khz: world(khz, 3_000_000), "linux-6.12", spec=spec) == 3_000_000
    assert on_model(lambda khz: world(khz, KHZ + 600), "linux-6.12", spec=spec) == KHZ
