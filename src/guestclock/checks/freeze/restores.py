"""One frozen image, restored twice while its original goes on: three VMs, and each must know that it is another one.

A frozen image is valid anywhere and as often as one likes; every restore is a step 7 of its own (`tests/guest` has the
clocks of it). What must differ is the generation (VMGENID, vmclock's vm_generation_counter): the same random numbers,
sequence numbers and leases are in every copy. So whoever restores takes a number that nobody else has, and writes it
before the guest runs anything but V0's handler. The original keeps its own: it is the VM that was always there.

Limits: what the guest's kernel does with a new generation is not here, nor how management makes its numbers durable:
the one that issues them forgets none. Order alone; the unit of time is 1 ns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from guestclock.checks.asks import Ask, Question
from guestclock.explore.world import Bounds, World
from guestclock.sim import State, cp
from guestclock.sim.field import flag, integer

BOUNDS = Bounds(horizon=10**10, delay=10**9, section=1000, ps=(1000, 1))
ISSUED, NEXT = "issued", "next"
"""Where a restore has its generation from: one issuer for all hosts, or the image's own and one more."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Restores:
    """What a design of restoring decides. copies: how many. numbers: ISSUED, NEXT. dies: the first copy's host loses
    its power at any moment before the copy runs, and the restore is done once more.

    told_first: the generation is written before V0 runs; else when it has told that it is thawed.
    """

    copies: int = 2
    numbers: str = ISSUED
    told_first: bool = True
    dies: bool = False


class Vm(State):
    """One VM made of the image, or the original (copy 0)."""

    generation = integer("what its guest reads")
    told = flag("the record is written: V0 may go on")
    thawed = flag("V0 has told that it is not frozen any more")
    runs = flag("all its vCPUs may be in guest mode")
    alive = flag("its host has power", True)


class Issuer(State):
    """Management's: the last generation that was given out."""

    last = integer("a number")


@dataclass
class Outcome:
    """used: (VM, generation) of each first step of a guest's own, after step 10."""

    world: World
    restores: Restores
    vms: tuple[Vm, ...]
    used: list[tuple[int, int]] = field(default_factory=list)
    finished: bool = True
    reached: set[str] = field(default_factory=set)
    contracts: set[str] = field(default_factory=set)

    @property
    def shared(self) -> int:
        """VMs that have begun by a generation that another one has begun by."""
        numbers = [generation for _, generation in self.used]
        return sum(numbers.count(number) > 1 for number in numbers)


def build(restores: Restores) -> Callable[[World], Outcome]:
    """The world of one design of restoring."""
    return lambda world: _World(restores, world).outcome


class _World:
    def __init__(self, restores: Restores, world: World) -> None:
        self.restores = restores
        self.vms = tuple(Vm(generation=1) for _ in range(restores.copies + 1))
        self.issuer = Issuer(last=1)
        self.outcome = Outcome(world, restores, self.vms)
        world.spawn("the original's VMM", self.original(), daemon=True)
        for n in range(restores.copies):
            world.spawn(f"VMM {n + 1}", self.restore(n + 1), daemon=True)
        for n in range(len(self.vms)):
            world.spawn(f"guest {n}", self.guest(n), daemon=True)
        if restores.dies:
            world.spawn("power", self.power(), daemon=True)

    async def original(self) -> None:
        """SAME_HOST: it was frozen for its image to be taken, and goes on."""
        vm = self.vms[0]
        await cp("7 writes SAME_HOST")
        vm.told = True
        await cp("11 lets all run", until=lambda: vm.thawed)
        vm.runs = True

    async def restore(self, n: int) -> None:
        vm, restores = self.vms[n], self.restores
        while True:
            await cp("loads the image")
            vm.generation, vm.told, vm.thawed, vm.alive = 1, False, False, True
            if restores.told_first:
                await cp("7 writes the generation")
                vm.generation = self._number()
            await cp("8 lets V0 run")
            vm.told = True
            await cp("11 lets all run", until=lambda: vm.thawed or not vm.alive)
            if vm.alive:
                break
            self.outcome.reached.add("restored once more")
        vm.runs = True
        if not restores.told_first:
            await cp("writes the generation")
            vm.generation = self._number()

    def _number(self) -> int:
        if self.restores.numbers == NEXT:
            return 2  # the image's, which is 1, and one more
        self.issuer.last += 1
        return self.issuer.last

    async def guest(self, n: int) -> None:
        """V0 thaws; then a program on any vCPU draws a random number, or stamps a packet."""
        vm, outcome = self.vms[n], self.outcome
        while not vm.runs:
            await cp("10 unfreezes", until=lambda: vm.told and not vm.thawed and vm.alive)
            vm.thawed = True
            await cp("a program begins", until=lambda: (vm.runs and vm.alive) or not vm.thawed)
            if vm.runs:
                outcome.used.append((n, vm.generation))
                outcome.reached.add(f"VM {n} runs")

    async def power(self) -> None:
        vm = self.vms[1]
        await cp("the power fails", until=lambda: vm.told and not vm.runs)
        vm.alive = False


def generations_differ(outcome: Any) -> Iterator[Ask]:
    """C6, I19: of the VMs that were made of one image no two begin by one generation."""
    numbers = tuple(range(len(outcome.world.events)))
    shared = outcome.shared
    yield Ask("with another's generation", "VM", "the copies", "shared", numbers, (), (), lambda _: shared)


RESTORE_QUESTIONS = (
    Question(
        "generations-differ", "VMs that were restored from one image have generations of their own when they go on",
        source="C6: two restores of one image are two VMs; I19",
        breaks="two guests that draw the same random numbers, and hold the same lease", asks=generations_differ,
    ),
)  # fmt: skip
