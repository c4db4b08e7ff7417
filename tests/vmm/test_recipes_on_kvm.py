"""The same recipes, unchanged, over this machine's ioctls.

A host that keeps every TSC offset at 0 (kvm-pvm) cannot restore a TSC: there only kvmclock is judged, and the TSC,
which then runs whatever a recipe does, is shown to be flagged by the same check.
"""

from __future__ import annotations

import pytest

from guestclock.abi.pvclock import PVCLOCK_GUEST_STOPPED
from guestclock.kvm.api import Host, KvmError
from guestclock.kvm.device.x86 import X86DeviceKvm
from guestclock.scenario.snapshot_file import decode, encode
from guestclock.vmm.clocks import X86_64
from guestclock.vmm.recipe import load, names
from tests.vmm.world import Operation, Told, create, on_kvm, wrong

pytestmark = pytest.mark.kvm

AGE_NS = 50_000_000
DOWN_NS = 300_000_000

ONLY_ON_THE_MODEL = {"stop-all-tscs"}


@pytest.fixture
def tsc_obeys(kvm: X86DeviceKvm) -> bool:
    """Whether a TSC that is written is the TSC that is read: success alone is no evidence."""

    async def probe(khz: int) -> bool:
        vm = await create(Host(), 1)
        await vm.vcpus[0].set_msr(0x10, 10**15)
        return 10**15 <= await vm.vcpus[0].get_msr(0x10) < 10**15 + khz * 10_000

    answer: bool = on_kvm(probe, kvm)
    return answer


def carried_out(kvm: X86DeviceKvm, name: str, **more: object) -> Told:
    operation = Operation(load(name), age_ns=AGE_NS, down_ns=DOWN_NS, **more)  # type: ignore[arg-type]
    try:
        told: Told = on_kvm(operation.run, kvm)
    except KvmError as refusal:
        if refusal.op.name in ("GetTscOffset", "SetTscOffset", "SetClock"):
            pytest.skip(f"this kernel is older than the recipe: {refusal}")
        raise
    return told


@pytest.mark.parametrize("name", [name for name in names(X86_64) if name not in ONLY_ON_THE_MODEL])
def test_the_clocks_do_what_the_policy_says(name: str, kvm: X86DeviceKvm, tsc_obeys: bool) -> None:
    policy = dict(load(name).policy)
    told = carried_out(kvm, name)
    assert wrong(told, policy, down_ns=DOWN_NS, clocks=() if tsc_obeys else ("kvmclock",)) == []
    if not tsc_obeys and policy["tsc"] == "freeze":
        assert len(wrong(told, policy, down_ns=DOWN_NS, clocks=("tsc",))) == 2


def test_the_check_flags_the_opposite_policy(kvm: X86DeviceKvm) -> None:
    told = carried_out(kvm, "by-value-restore")
    assert len(wrong(told, {"kvmclock": "run"}, down_ns=DOWN_NS)) == 2
    told = carried_out(kvm, "firecracker-pause-resume")
    assert len(wrong(told, {"kvmclock": "freeze", "tsc": "freeze"}, down_ns=DOWN_NS)) == 4


def test_the_guest_is_told_that_it_was_stopped(kvm: X86DeviceKvm) -> None:
    for name, tells in (("firecracker-restore", True), ("firecracker-restore-without-ctrl", False)):
        told = carried_out(kvm, name)
        flags = [reading.page.flags for reading in told.after.vcpus if reading.page is not None]
        assert [bool(f & PVCLOCK_GUEST_STOPPED) for f in flags] == [tells, tells]


def test_by_way_of_a_file_the_recipe_still_holds(kvm: X86DeviceKvm) -> None:
    told = carried_out(kvm, "firecracker-restore", through=lambda s: decode(encode(s), "x.json"))
    assert wrong(told, {"kvmclock": "freeze"}, down_ns=DOWN_NS) == []


def test_restoring_offsets_twice_gives_the_same_bits(kvm: X86DeviceKvm) -> None:
    recipe = load("offset-restore")

    async def world(khz: int) -> list[list[int]]:
        host = Host()
        source = await create(host, 2)
        for vcpu in (*source.vcpus, *source.vcpus):
            await vcpu.run()
        image = encode(await recipe.save(source))  # type: ignore[misc]
        seen = []
        vm = await create(host, 2)
        for fresh in (False, False, True):
            if fresh:
                vm = await create(host, 2)
            await recipe.restore(vm, decode(image, "x.json"))  # type: ignore[misc]
            seen.append([await vcpu.get_tsc_offset() for vcpu in vm.vcpus])
            await host.wait(10_000_000)
        return seen

    try:
        first, again, elsewhere = on_kvm(world, kvm)
    except KvmError as refusal:
        pytest.skip(f"this kernel is older than the recipe: {refusal}")
    assert first == again == elsewhere
