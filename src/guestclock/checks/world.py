"""The world of a check: hosts, the guest's life, the VMM's operation."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from guestclock.abi.msr import MSR_IA32_TSC, MSR_IA32_TSC_DEADLINE
from guestclock.checks.architectures import architecture
from guestclock.checks.outcome import MIDDLE, Call, Outcome
from guestclock.checks.spec import Spec
from guestclock.checks.windows import AFTER, BEFORE, BOOT, DURING
from guestclock.errors import UserError
from guestclock.explore.world import Between, World
from guestclock.kvm.api import Host, KvmError, Note, Op, Rdmsr, Vcpu, Vm, Wrmsr, serve
from guestclock.kvm.model import lookup
from guestclock.sim import PS_PER_NS, Emit, cp
from guestclock.sim.field import flag
from guestclock.sim.state import State
from guestclock.vmm import recipe as recipes
from guestclock.vmm.steps import play

LIFE, AWAY = "life", "away"
RESTORED_TWICE = "idempotent-restore"
"""The property for whose sake a snapshot is restored a second time."""

BOOT_CALL_NS = 1_000_000
"""A guest boots without delays: each of its VMM's calls takes no more than this."""


class _Course(State):
    """How far the operation has come, as far as others wait for it."""

    alive = flag("the guest runs")
    lived = flag("it has run for as long as it shall")
    gone = flag("the first half of the operation is over")
    back = flag("its middle is over")


def build(spec: Spec, emit: Emit | None = None) -> Callable[[World], Outcome]:
    """A builder of the world that `spec` describes, for explore.Search and explore.IntegerWorld alike.

    Raises UserError for a recipe or a kernel that is not there.
    """
    arch = architecture(lookup(spec.kernel).arch)
    profiles = [lookup(site.kernel or spec.kernel) for site in spec.sites]
    recipe = recipes.load(spec.recipe) if spec.recipe else None
    program = json.loads(spec.program) if spec.program else None

    def made(world: World) -> Outcome:
        kvms = [arch.kvm(world, *of, emit, spec) for of in zip(spec.sites, profiles, strict=True)]
        phase = [BOOT]
        tracker = arch.tracker(world, [k.host for k in kvms], phase)
        outcome = Outcome(spec, world, kvms, tracker, arch)
        stage = _Stage(outcome, phase, recipe)
        if recipe is not None:
            world.spawn("VMM", stage.drive(stage.operation))
            world.spawn(LIFE, stage.life())
            world.spawn(AWAY, stage.away())
        else:
            assert program is not None
            world.spawn("VMM", stage.drive(partial(stage.scenario, program)))
        return outcome

    return made


class _Stage:
    """The VMM's thread, and the two stretches of time that are no step of its own."""

    def __init__(self, outcome: Outcome, phase: list[str], recipe: recipes.Recipe | None) -> None:
        self.outcome, self.phase, self.recipe = outcome, phase, recipe
        self.spec, self.kvms = outcome.spec, outcome.kvms
        self.course = _Course()
        self.site = 0
        self.started: set[tuple[int, int, int]] = set()
        self.calls = 0
        self.halves = 0
        self.single = 0

    async def drive(self, course: Callable[[], Any]) -> None:
        try:
            await serve(course(), self.execute)
        except (UserError, AssertionError):
            raise
        except Exception as error:
            if self.recipe is None:
                raise
            raise recipes.blame(self.recipe, error) from error

    async def execute(self, op: Any) -> Any:
        """Carries out one operation on the host that the VMM is on, or one of this stage's own waits."""
        if isinstance(op, _Until):
            await cp(op.label, until=op.ready)
            return None
        outcome = self.outcome
        world, kvm = outcome.world, self.kvms[self.site]
        if isinstance(op, Note) and ("index", 0) in op.data:
            self.phase[0] = BEFORE  # a scenario's first step
        self.calls += 1
        world.new_call(self.within(op))
        call = Call(op, self.site, self.phase[0], self.calls, world.latest, "")
        which: tuple[int, Any] = getattr(op, "vm", -1), getattr(op, "vcpu", None)
        if op.name == "Start":
            self.started.add((self.site, *which))
        elif op.name == "Kick":
            self.started.discard((self.site, *which))
        elif (self.site, *which) in self.started and op.name not in ("Peek", "MoveToCpu"):
            raise UserError(f"{op.name} waits for vCPU {which[1]}'s mutex, which its KVM_RUN holds: kick it first")
        try:
            call.answer = await kvm.execute(op)
        except KvmError as error:
            call.error = error.errno
            raise
        finally:
            call.after = world.latest
            outcome.calls.append(call)
        return call.answer

    def within(self, op: Op) -> int | None:
        """The bound of the call that begins, units; None: the usual one."""
        spec = self.spec
        if self.phase[0] == BOOT:
            return spec.units(BOOT_CALL_NS)
        if self.single < len(spec.calls_ns) and spec.calls_ns[self.single][0] == op.name:
            self.single += 1
            return spec.units(spec.calls_ns[self.single - 1][1])
        own = spec.restore_delay_ns if self.halves else spec.save_delay_ns
        return spec.units(own) if own and self.phase[0] != BEFORE else None

    # ---- a recipe

    async def operation(self) -> None:
        recipe, course = self.recipe, self.course
        assert recipe is not None
        vm = await self.made(None)
        for _ in range(2):
            # Twice: each vCPU whose creation asked for a masterclock update takes a snapshot of its own when it first
            # enters, and the pages of those that entered before it follow at their second entry (kvm-x86.md 7.26).
            for vcpu in vm.vcpus:
                await vcpu.run()
        if self.spec.deadline_ns:
            await self.arm(vm.vcpus[0])
        self.phase[0] = BEFORE
        await self.start_rest(vm)
        course.alive = True
        await _Until("the guest has run", lambda: course.lived)
        self.phase[0] = DURING
        if recipe.pause is not None:
            await recipe.pause(vm)
        if recipe.save is None:
            await self.middle()
            assert recipe.resume is not None
            await recipe.resume(vm)
            await self.done(vm)
            return
        if recipe.pause is None:
            for vcpu in vm.vcpus:
                if (self.site, vm.id, vcpu.index) in self.started:
                    await vcpu.kick()
        snapshot = await recipe.save(vm)
        await self.middle()
        self.site = len(self.kvms) - 1
        there = await self.made(snapshot)
        assert recipe.restore is not None
        if RESTORED_TWICE in self.spec.properties:
            from guestclock.checks.twice import restored_twice

            await restored_twice(recipe.restore, there, snapshot)
        else:
            await recipe.restore(there, snapshot)
        if recipe.resume is not None:
            await recipe.resume(there)
        await self.done(there)

    async def made(self, snapshot: Any) -> Vm:
        """The VM, by the recipe's own way or by the usual one; its vCPUs boot as a guest's kernel makes them."""
        recipe, spec = self.recipe, self.spec
        assert recipe is not None
        if recipe.create is not None:
            vm: Vm = await recipe.create(Host(), spec.vcpus, snapshot)
        else:
            vm = await Host().create_vm()
            for _ in range(spec.vcpus):
                await vm.create_vcpu()
            if snapshot is None and spec.khz:
                for vcpu in vm.vcpus:
                    await vcpu.set_tsc_khz(spec.khz)
        for vcpu in vm.vcpus:
            await self.outcome.architecture.boots(vcpu)
        self.outcome.vms.append((self.site, vm.id))
        if spec.readers:
            from guestclock.checks.x86.readers import spawn_readers

            spawn_readers(self.outcome, self.outcome.world, spec.readers)
        return vm

    async def arm(self, vcpu: Vcpu) -> None:
        """The guest arms its timer, spec.deadline_ns ahead by its own TSC."""
        khz = await vcpu.get_tsc_khz()
        [tsc] = await vcpu.run(Rdmsr(MSR_IA32_TSC))
        await vcpu.run(Wrmsr(MSR_IA32_TSC_DEADLINE, tsc + self.spec.deadline_ns * khz // 1_000_000))

    async def middle(self) -> None:
        course = self.course
        course.gone = True
        await _Until(MIDDLE, lambda: course.back)
        self.halves = 1

    async def start_rest(self, vm: Vm) -> None:
        for vcpu in vm.vcpus:
            if (self.site, vm.id, vcpu.index) not in self.started:
                await vcpu.start()

    async def done(self, vm: Vm) -> None:
        self.phase[0] = AFTER
        if self.spec.start:
            await self.start_rest(vm)
        else:
            self.outcome.tracker.as_they_will_run(self.site, vm.id)
        self.outcome.finished = True

    # ---- a scenario

    async def scenario(self, program: dict[str, Any]) -> None:
        await play(Host(), {**program, "look": False})
        self.phase[0] = AFTER
        self.outcome.finished = True

    # ---- time

    async def life(self) -> None:
        """From when all of the guest's vCPUs run until the VMM begins its operation."""
        await cp("the guest boots", until=lambda: self.course.alive and self.inside())
        await cp("the guest lives", delay_ps=_between(self.spec.life_min_ns, self.spec.life_ns))
        self.course.lived = True

    def inside(self) -> bool:
        vm = self.kvms[0].vms[0]
        return all(vcpu.in_guest for vcpu in vm.vcpus)

    async def away(self) -> None:
        await cp("the guest runs", until=lambda: self.course.gone)
        await cp("the guest is away", delay_ps=_between(self.spec.away_min_ns, self.spec.away_ns))
        self.course.back = True


def _between(least_ns: int, most_ns: int) -> Between:
    return Between.of(least_ns * PS_PER_NS, most_ns * PS_PER_NS)


class _Until:
    """A wait of the stage's own; awaiting it hands it to the driver of the recipe."""

    name = "until"

    def __init__(self, label: str, ready: Callable[[], bool]) -> None:
        self.label, self.ready = label, ready

    def __await__(self) -> Any:
        return (yield self)
