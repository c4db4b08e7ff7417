"""A recipe carried out with plain integers: one host, a VM that runs, the operation, and what its clocks show.

boot, run 10 s -> look -> pause -> save -> 3 s pass -> create, restore, resume -> look
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from guestclock.kvm.api import ClockReading, Host, Vm, drive, serve
from guestclock.kvm.device.x86 import X86DeviceKvm
from guestclock.kvm.model import lookup
from guestclock.kvm.model.x86 import X86Kvm
from guestclock.machine import HostSpec, X86Machine
from guestclock.sim import Scheduler, Timeline
from guestclock.vmm.recipe import Recipe

STEP_PS = 1_000_000
READ_PS = 20_000
AGE_NS = 10 * 10**9
DOWN_NS = 3 * 10**9
KHZ = 2_596_122


@dataclass
class Look:
    """What each vCPU's clocks show from outside, at about one host TSC."""

    host_tsc: int
    vcpus: list[ClockReading]


@dataclass
class Told:
    """What an operation came to. khz: the host's."""

    before: Look
    after: Look
    vm: Vm
    khz: int
    snapshot: Any = None

    def elapsed_ns(self) -> int:
        return (self.after.host_tsc - self.before.host_tsc) * 1_000_000 // self.khz


async def create(host: Host, vcpus: int) -> Vm:
    vm = await host.create_vm()
    for _ in range(vcpus):
        vcpu = await vm.create_vcpu()
        await vcpu.enable_kvmclock()
    return vm


async def look(host: Host, vm: Vm) -> Look:
    return Look(await host.read_clock("tsc"), [await vcpu.peek() for vcpu in vm.vcpus])


class Operation:
    """recipe's operation on a VM with so many vCPUs. through: what becomes of the snapshot on its way."""

    def __init__(
        self, recipe: Recipe, *, vcpus: int = 2, age_ns: int = AGE_NS, down_ns: int = DOWN_NS,
        through: Callable[[Any], Any] = lambda snapshot: snapshot,
    ) -> None:  # fmt: skip
        self.recipe, self.vcpus, self.through = recipe, vcpus, through
        self.age_ns, self.down_ns = age_ns, down_ns

    async def run(self, khz: int) -> Told:
        host, recipe = Host(), self.recipe
        vm = await self.created(host, None)
        for _ in range(2):
            for vcpu in vm.vcpus:
                await vcpu.run()
        for vcpu in vm.vcpus:
            await vcpu.start()
        await host.wait(self.age_ns)
        before = await look(host, vm)
        snapshot = None
        if recipe.pause is not None:
            await recipe.pause(vm)
        else:
            for vcpu in vm.vcpus:
                await vcpu.kick()
        if recipe.save is not None:
            snapshot = self.through(await recipe.save(vm))
        await host.wait(self.down_ns)
        if recipe.restore is not None:
            vm = await self.created(host, snapshot)
            await recipe.restore(vm, snapshot)
        if recipe.resume is not None:
            await recipe.resume(vm)
        # Whatever has been started already is kicked first; a Start of each serves its requests.
        for vcpu in vm.vcpus:
            await vcpu.kick()
        for vcpu in vm.vcpus:
            await vcpu.start()
        await host.wait(1_000_000)
        after = await look(host, vm)
        for vcpu in vm.vcpus:
            await vcpu.kick()
        return Told(before, after, vm, khz, snapshot)

    async def created(self, host: Host, snapshot: Any) -> Vm:
        if self.recipe.create is None:
            return await create(host, self.vcpus)
        made: Vm = await self.recipe.create(host, self.vcpus, snapshot)
        return made


def on_model(what: Callable[[int], Any], kernel: str, *, spec: HostSpec | None = None) -> Any:
    """The result of a coroutine function that is given the host's kHz, on the model."""
    timeline = Timeline(READ_PS)
    scheduler = Scheduler(timeline, STEP_PS)
    machine = X86Machine(timeline, spec or HostSpec(tsc_khz=KHZ), scheduler=scheduler)
    kvm = X86Kvm(machine, lookup(kernel), scheduler)
    results: list[Any] = []

    async def vmm() -> None:
        results.append(await serve(what(machine.tsc_khz), kvm.execute))

    scheduler.spawn("VMM", vmm())
    scheduler.run()
    return results[0]


def on_kvm(what: Callable[[int], Any], kvm: X86DeviceKvm) -> Any:
    """The same over this machine's ioctls."""
    return drive(what(kvm.tsc_khz), kvm.execute)


def wrong(told: Told, policy: dict[str, str], *, down_ns: int = DOWN_NS, clocks: tuple[str, ...] = ()) -> list[str]:
    """What the clocks show against the policy, one line for each that is off by more than the calls can take.

    Everything but the downtime is the VMM's own work: a clock that stands still may have run for so long, one that
    runs may have lost or gained so much where a value was worked out before it was written.
    """
    elapsed = told.elapsed_ns()
    busy = elapsed - down_ns
    assert busy > 0
    lines = []
    # A vCPU that the operation has plugged in was not there before: nothing is expected of it.
    assert len(told.after.vcpus) >= len(told.before.vcpus) > 0
    for index, (was, now) in enumerate(zip(told.before.vcpus, told.after.vcpus, strict=False)):
        assert was.kvmclock_ns is not None
        assert now.kvmclock_ns is not None
        moved = {
            "tsc": (now.tsc - was.tsc) * 1_000_000 // told.khz,
            "kvmclock": now.kvmclock_ns - was.kvmclock_ns,
        }
        for clock, meant in policy.items():
            least, most = (0, busy) if meant == "freeze" else (elapsed - busy, elapsed + busy)
            if (not clocks or clock in clocks) and not least <= moved[clock] <= most:
                lines.append(f"vCPU {index}: {clock}: moved {moved[clock]} ns, expected {least}..{most} ({meant})")
    return lines
