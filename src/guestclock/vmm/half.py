"""One half of a migration, by a recipe: what a VMM does on the one host until the guest is saved, or on the other.

A program is {"recipe": a built-in's name, or a file's and "source", its text, "half": "save" or "restore",
"vcpus": n}, and for "save": "life_ns", for "restore": "snapshot", as the first half gave it, and "realtime_ns", which
CLOCK_REALTIME is set to before anything else. Around the recipe every vCPU reads its clocks: the last thing that its
guest does on the one host, the first on the other, where it is started. Just before the one and after the other an
arm64 guest asks its host by hypercall what the wall clock says at one value of its counters. At the end, readings that
tie clocks to each other are left in the trace. Standard library only: it runs inside the lab.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from contextlib import suppress
from dataclasses import asdict
from types import coroutine
from typing import Any

from guestclock.abi.arm64 import ARM_SMCCC_VENDOR_HYP_KVM_PTP_FUNC_ID, KVM_PTP_PHYS_COUNTER, KVM_PTP_VIRT_COUNTER
from guestclock.errors import UserError
from guestclock.kvm.api import (
    ClockData,
    GuestAction,
    Host,
    Hvc,
    KvmError,
    Note,
    Op,
    ReadClocks,
    ReadCounters,
    ReadHostClock,
    Run,
    Start,
    StepRealtime,
    Vm,
)
from guestclock.vmm import recipe as recipes
from guestclock.vmm.clocks import ARM64, X86_64
from guestclock.vmm.snapshot import Arm64Snapshot, Arm64VcpuSnapshot, Snapshot, VcpuSnapshot

SAVE, RESTORE = "save", "restore"
OVER = "the recipe is over"


async def play_half(host: Host, program: dict[str, Any]) -> dict[str, Any] | None:
    """Plays a half; the snapshot that "save" gives, as JSON values.

    Raises UserError for a recipe that does not save and restore, or where something goes wrong in it.
    """
    recipe = _recipe(program)
    play = {SAVE: _save, RESTORE: _restore}[program["half"]]
    try:
        return await play(host, recipe, program)
    except UserError:
        raise
    except Exception as error:
        raise recipes.blame(recipe, error) from error


def _recipe(program: dict[str, Any]) -> recipes.Recipe:
    name = program["recipe"]
    recipe = recipes.from_text(name, program["source"]) if "source" in program else recipes.load(name)
    if recipe.save is None:
        raise UserError(f"recipe {name!r}: it pauses and resumes: expected one that saves and restores")
    return recipe


async def _save(host: Host, recipe: recipes.Recipe, program: dict[str, Any]) -> dict[str, Any]:
    assert recipe.save is not None
    vm = await _made(host, recipe, program["vcpus"], None)
    for _ in range(2):  # see vmm.steps
        for vcpu in vm.vcpus:
            await vcpu.run()
    await host.wait(program["life_ns"])
    await _ask_the_host(recipe, vm)
    await _read(recipe, vm)
    if recipe.pause is not None:
        await recipe.pause(vm)
    snapshot = await recipe.save(vm)
    await _tie(recipe, vm)
    return as_json(snapshot)


async def _restore(host: Host, recipe: recipes.Recipe, program: dict[str, Any]) -> None:
    assert recipe.restore is not None
    await StepRealtime(program["realtime_ns"] - await host.read_clock("realtime"))
    snapshot = from_json(recipe.arch, program["snapshot"])
    vm = await _made(host, recipe, program["vcpus"], snapshot)
    await recipe.restore(vm, snapshot)
    if recipe.resume is not None:
        await _resumed(recipe.resume(vm), _reads(recipe))
    await _read(recipe, vm)
    await _ask_the_host(recipe, vm)
    await _tie(recipe, vm)


async def _made(host: Host, recipe: recipes.Recipe, vcpus: int, snapshot: Any) -> Vm:
    """The VM, by the recipe's own way or by the usual one; its vCPUs boot as a guest's kernel makes them."""
    vm: Vm
    if recipe.create is not None:
        vm = await recipe.create(host, vcpus, snapshot)
    else:
        vm = await host.create_vm()
        for _ in range(vcpus):
            await vm.create_vcpu()
    if recipe.arch == X86_64:
        for vcpu in vm.vcpus:
            await vcpu.enable_kvmclock()
    return vm


def _reads(recipe: recipes.Recipe) -> GuestAction:
    return ReadCounters() if recipe.arch == ARM64 else ReadClocks()


async def _read(recipe: recipes.Recipe, vm: Vm) -> None:
    for vcpu in vm.vcpus:
        await vcpu.run(_reads(recipe))


@coroutine
def _resumed(resume: Coroutine[Op, Any, Any], reads: GuestAction) -> Generator[Op, Any, None]:
    """Plays a recipe's resume. Whoever it starts reads its clocks at once, and stops: who spun would read nothing."""
    answer: Any = None
    failure: KvmError | None = None
    while True:
        try:
            op = resume.send(answer) if failure is None else resume.throw(failure)
        except StopIteration:
            return
        try:
            answer, failure = (yield Run(op.vm, op.vcpu, (reads,)) if isinstance(op, Start) else op), None
        except KvmError as error:
            answer, failure = None, error


async def _ask_the_host(recipe: recipes.Recipe, vm: Vm) -> None:
    """Each vCPU's counters to the host's CLOCK_REALTIME, of one instant each."""
    if recipe.arch == ARM64:
        for vcpu in vm.vcpus:
            for counter in (KVM_PTP_VIRT_COUNTER, KVM_PTP_PHYS_COUNTER):
                await vcpu.run(Hvc(ARM_SMCCC_VENDOR_HYP_KVM_PTP_FUNC_ID, counter))


async def _tie(recipe: recipes.Recipe, vm: Vm) -> None:
    """Guests' counters to the host's, the host's to its CLOCK_REALTIME. A note says that the recipe is over."""
    await Note(OVER, "note")
    if recipe.arch == X86_64:
        for vcpu in vm.vcpus:
            with suppress(KvmError):  # there is no such attribute before 5.16
                await vcpu.get_tsc_offset()
        await vm.get_clock()
    await ReadHostClock("realtime")


def as_json(snapshot: Snapshot | Arm64Snapshot) -> dict[str, Any]:
    """A snapshot as JSON values."""
    return asdict(snapshot)


def from_json(arch: str, values: dict[str, Any]) -> Snapshot | Arm64Snapshot:
    """The snapshot that `as_json` made these of."""
    vcpus = values["vcpus"]
    if arch == ARM64:
        return Arm64Snapshot(**{**values, "vcpus": tuple(Arm64VcpuSnapshot(**vcpu) for vcpu in vcpus)})
    clock = ClockData(**values["clock"])
    return Snapshot(**{**values, "vcpus": tuple(VcpuSnapshot(**vcpu) for vcpu in vcpus), "clock": clock})
