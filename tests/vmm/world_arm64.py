"""An arm64 recipe carried out with plain integers: one host or two, a VM that runs, and what its counters show.

boot, run 10 s -> look -> pause -> save -> 3 s pass -> create, restore, resume -> look
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from guestclock.kvm.api import CounterReading, Host, KvmError, Op, Vm, serve
from guestclock.kvm.model import lookup, model_kvm
from guestclock.machine import Arm64Machine, Arm64Spec
from guestclock.sim import Scheduler, Timeline
from guestclock.vmm.recipe import Recipe

STEP_PS = 1_000_000
READ_PS = 20_000
AGE_NS = 10 * 10**9
DOWN_NS = 3 * 10**9
HZ = 62_500_000


@dataclass
class Look:
    """What each vCPU's counters show from outside, at about one true time."""

    at_ns: int
    vcpus: list[CounterReading]


@dataclass
class Told:
    """What an operation came to. ops: every call and its true time at the end, ns."""

    before: Look
    after: Look
    vm: Vm
    ops: list[tuple[Op, int]]
    snapshot: Any = None

    def elapsed_ns(self) -> int:
        return self.after.at_ns - self.before.at_ns


async def create(host: Host, vcpus: int) -> Vm:
    vm = await host.create_vm()
    for _ in range(vcpus):
        await vm.create_vcpu()
    return vm


class World:
    """Hosts on one true time, and a VMM that can go from the first to the second."""

    def __init__(self, kernel: str, *specs: Arm64Spec) -> None:
        self.timeline = Timeline(READ_PS)
        self.scheduler = Scheduler(self.timeline, STEP_PS)
        machines = [Arm64Machine(self.timeline, s, scheduler=self.scheduler) for s in specs or (Arm64Spec(),)]
        self.kvms = [model_kvm(machine, lookup(kernel), self.scheduler) for machine in machines]
        self.at = 0
        self.ops: list[tuple[Op, int]] = []

    def now_ns(self) -> int:
        return self.timeline.now_ps // 1000

    async def execute(self, op: Op) -> Any:
        try:
            return await self.kvms[self.at].execute(op)
        finally:
            self.ops.append((op, self.now_ns()))

    def run(self, what: Any) -> Any:
        """The result of a coroutine of the VMM's."""
        results: list[Any] = []

        async def vmm() -> None:
            results.append(await serve(what, self.execute))

        self.scheduler.spawn("VMM", vmm())
        self.scheduler.run()
        return results[0]

    async def look(self, vm: Vm) -> Look:
        return Look(self.now_ns(), [await vcpu.peek() for vcpu in vm.vcpus])


class Operation:
    """A recipe's operation on a VM with so many vCPUs. through: what becomes of the snapshot on its way."""

    def __init__(
        self, recipe: Recipe, world: World, *, vcpus: int = 2, through: Callable[[Any], Any] = lambda snapshot: snapshot
    ) -> None:
        self.recipe, self.world, self.vcpus, self.through = recipe, world, vcpus, through

    def carried_out(self) -> Told:
        told: Told = self.world.run(self.course())
        return told

    async def course(self) -> Told:
        host, recipe, world = Host(), self.recipe, self.world
        vm = await self.created(host, None)
        for vcpu in vm.vcpus:
            await vcpu.start()
        await host.wait(AGE_NS)
        before = await world.look(vm)
        snapshot = None
        if recipe.pause is not None:
            await recipe.pause(vm)
        else:
            for vcpu in vm.vcpus:
                await vcpu.kick()
        if recipe.save is not None:
            snapshot = self.through(await recipe.save(vm))
        await host.wait(DOWN_NS)
        if recipe.restore is not None:
            world.at = len(world.kvms) - 1
            vm = await self.created(host, snapshot)
            await recipe.restore(vm, snapshot)
        if recipe.resume is not None:
            await recipe.resume(vm)
        # Whoever has been started already is kicked first; a Start of each loads what is to be loaded.
        for vcpu in vm.vcpus:
            await vcpu.kick()
        for vcpu in vm.vcpus:
            await vcpu.start()
        await host.wait(1_000_000)
        after = await world.look(vm)
        for vcpu in vm.vcpus:
            await vcpu.kick()
        return Told(before, after, vm, world.ops, snapshot)

    async def created(self, host: Host, snapshot: Any) -> Vm:
        if self.recipe.create is None:
            return await create(host, self.vcpus)
        made: Vm = await self.recipe.create(host, self.vcpus, snapshot)
        return made


def refusal(recipe: Recipe, kernel: str) -> KvmError | None:
    """The first call that this kernel refuses the recipe, if any."""
    try:
        Operation(recipe, World(kernel)).carried_out()
    except KvmError as error:
        return error
    return None


def wrong(told: Told, policy: dict[str, str], *, hz: int = HZ, slack_ns: int = 0) -> list[str]:
    """What the counters show against the policy, one line for each that is off by more than the calls can take.

    Everything but the downtime is the VMM's own work: a counter that stands still may have run for so long, one that
    runs may have lost or gained so much where a value was worked out before it was written. slack_ns: and what the
    hosts' wall clocks are wrong by.
    """
    elapsed = told.elapsed_ns()
    busy = elapsed - DOWN_NS
    assert busy > 0
    lines = []
    # A vCPU that the operation has plugged in was not there before: nothing is expected of it.
    assert len(told.after.vcpus) >= len(told.before.vcpus) > 0
    for index, (was, now) in enumerate(zip(told.before.vcpus, told.after.vcpus, strict=False)):
        for clock, meant in policy.items():
            ticks = getattr(now, clock) - getattr(was, clock)
            moved = (
                (ticks if -(2**63) <= ticks < 2**63 else ticks - 2**64 if ticks > 0 else ticks + 2**64) * 10**9 // hz
            )
            least, most = (0, busy) if meant == "freeze" else (elapsed - busy, elapsed + busy)
            if not least - slack_ns <= moved <= most + slack_ns:
                lines.append(f"vCPU {index}: {clock}: moved {moved} ns, expected {least}..{most} ({meant})")
    return lines
