"""One program under way, whatever the architecture: the VM the steps act on, what they saved, and the common steps."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any, ClassVar

from guestclock.arith import u64
from guestclock.kvm.api import (
    AdjustFrequency,
    ExitL2,
    GuestAction,
    Host,
    HostSleep,
    KvmError,
    Note,
    ReadHostClock,
    StepRealtime,
    Vcpu,
    Vm,
)

Step = dict[str, Any]
Verb = Callable[[Any, Step], Awaitable[None]]
Verbs = dict[tuple[str, str], Verb]


class Missing(Exception):
    """Something that this step needs is not there, because the step that should have made it was refused."""

    def __init__(self, name: str, why: str = "") -> None:
        super().__init__(name)
        self.name, self.why = name, why


class Play:
    """One program under way: the VM the steps act on (the newest), and the values they saved.

    A subclass is an architecture: its verbs, its clocks, how durations become a counter's values.
    """

    verbs: ClassVar[Mapping[tuple[str, str], Verb]]
    host_clocks: ClassVar[tuple[str, ...]]
    boots: ClassVar[int]
    """How often every vCPU runs before step 1, so that nothing KVM puts off to an entry is left."""

    def __init__(self, host: Host, program: dict[str, Any]) -> None:
        self.host, self.program = host, program
        self.vm: Vm
        self.saved: dict[str, int] = {}

    # ---- what an architecture says

    async def learn_rate(self) -> None:
        """Learns at what rate a guest's counter counts, for durations."""
        raise NotImplementedError

    def counted(self, ns: int) -> int:
        """A duration by a guest's counter, rounded down."""
        raise NotImplementedError

    async def set_up(self, vcpu: Vcpu) -> None:
        """What a new vCPU is given before it runs."""

    async def look_at_vm(self) -> None:
        """What KVM tells of the VM as a whole."""

    def keep(self, step: Step, answer: Any, vcpu: Vcpu) -> None:
        """Saves what the guest's action answered, where the step asks for it."""
        raise NotImplementedError

    # ---- the course

    async def run(self) -> None:
        await Note("start", "step", (("index", -1),))
        await self.new_vm(self.program["vcpus"], boot=self.program.get("boot", True))
        looks = self.program.get("look", True)
        if looks:
            await self.look()
        for index, step in enumerate(self.program["steps"]):
            await Note(step["say"], "step", (("index", index), ("do", step["do"])))
            try:
                await self.verbs[step["actor"], step["do"]](self, step)
            except KvmError as refusal:
                # A refusal is something the kernel says, not the end of the scenario.
                await Note("refused", "note", (("errno", refusal.errno), ("op", refusal.op.name)))
            except Missing as missing:
                why = (("why", missing.why),) if missing.why else ()
                await Note("left out", "note", (("missing", missing.name), *why))
            if looks and step.get("look", True):
                await self.look()

    async def look(self) -> None:
        """What every clock shows now, without any of KVM's requests being served for it."""
        for clock in self.host_clocks:
            await ReadHostClock(clock)
        for vcpu in self.vm.vcpus:
            await vcpu.peek()
        await self.look_at_vm()

    async def new_vm(self, vcpus: int, *, boot: bool) -> None:
        self.vm = await self.host.create_vm()
        for _ in range(vcpus):
            await self.new_vcpu()
        await self.learn_rate()
        if boot:
            for _ in range(self.boots):
                for vcpu in self.vm.vcpus:
                    await vcpu.run()

    async def new_vcpu(self) -> None:
        await self.set_up(await self.vm.create_vcpu())

    # ---- what a step says

    def chosen(self, step: Step) -> list[Vcpu]:
        """The vCPUs the step acts on, of those there are: the kernel may have refused to make one."""
        if "vcpus" not in step:
            return list(self.vm.vcpus)
        there = [self.vm.vcpus[i] for i in step["vcpus"] if i < len(self.vm.vcpus)]
        if not there:
            raise Missing(f"vCPU {step['vcpus'][0]}", "does not exist")
        return there

    async def in_turn(self, step: Step, vcpu: Vcpu) -> None:
        """What the VMM lets pass between two vCPUs of one step."""
        if "gap" in step and vcpu.index != step["vcpus"][0]:
            await self.host.wait(self.number(step["gap"]))

    def number(self, terms: list[list[Any]], own: Vcpu | None = None) -> int:
        """The sum of `terms` as it is. own: whose values the "own" terms are."""
        return sum(amount for _, amount in self.amounts(terms, own))

    def counter(self, terms: list[list[Any]], own: Vcpu | None = None) -> int:
        """The sum of `terms` as a counter's value, mod 2^64: the C type of the ioctls' arguments."""
        amounts = list(self.amounts(terms, own))
        ns = sum(amount for is_ns, amount in amounts if is_ns)
        return u64(sum(amount for is_ns, amount in amounts if not is_ns) + self.counted(ns))

    def amounts(self, terms: list[list[Any]], own: Vcpu | None) -> Iterator[tuple[bool, int]]:
        """Each term's amount, and whether that is nanoseconds where a counter's value is meant."""
        for kind, value, *factor in terms:
            what, _, unit = kind.partition("-")
            if what in ("int", "ns"):
                amount = value
            elif what == "max":
                amount = max(self.value(name) for name in value)
            elif what == "own":
                assert own is not None
                amount = self.value(f"{value}.{own.index}")
            else:
                assert what == "var", kind
                amount = self.value(value)
            yield what == "ns" or unit == "ns", amount * (factor[0] if factor else 1)

    def value(self, name: str) -> int:
        if name not in self.saved:
            raise Missing(name)
        return self.saved[name]

    def save(self, step: Step, value: int, vcpu: Vcpu | None = None) -> None:
        """Under the step's own name, and with the vCPU's index for those who mean that one."""
        if "as" in step:
            self.saved[step["as"]] = value
            if vcpu is not None:
                self.saved[f"{step['as']}.{vcpu.index}"] = value

    def save_part(self, step: Step, part: str, value: int) -> None:
        """What comes along with the value that the step saves, as `name.part`."""
        if "as" in step:
            self.saved[f"{step['as']}.{part}"] = value

    async def guest(self, step: Step, action: Callable[[Vcpu], GuestAction]) -> None:
        for vcpu in self.chosen(step):
            await self.in_turn(step, vcpu)
            (answer,) = await vcpu.run(action(vcpu))
            self.keep(step, answer, vcpu)


# ---- verbs, a function each

VERBS: Verbs = {}


def verb(verbs: Verbs, actor: str, do: str) -> Callable[[Verb], Verb]:
    """Enters a function among an architecture's verbs, or among those that all have."""

    def enter(function: Verb) -> Verb:
        verbs[actor, do] = function
        return function

    return enter


@verb(VERBS, "vmm", "create-vm")
async def _create_vm(p: Play, s: Step) -> None:
    await p.new_vm(s["count"], boot=s.get("boot", False))


@verb(VERBS, "vmm", "create-vcpu")
async def _create_vcpu(p: Play, s: Step) -> None:
    for _ in range(s.get("count", 1)):
        await p.new_vcpu()


@verb(VERBS, "vmm", "run")
async def _run(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.run()


@verb(VERBS, "vmm", "start")
async def _start(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.start()


@verb(VERBS, "vmm", "kick")
async def _kick(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.kick()


@verb(VERBS, "vmm", "read-clock")
async def _read_clock(p: Play, s: Step) -> None:
    p.save(s, await p.host.read_clock(s["clock"]))


@verb(VERBS, "vmm", "move-to-cpu")
async def _move_to_cpu(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.move_to_cpu(s["cpu"])


@verb(VERBS, "vmm", "wait")
async def _wait(p: Play, s: Step) -> None:
    await p.host.wait(p.number(s["value"]))


@verb(VERBS, "guest", "exit-l2")
async def _exit_l2(p: Play, s: Step) -> None:
    await p.guest(s, lambda _: ExitL2())


@verb(VERBS, "host", "step-realtime")
async def _step_realtime(p: Play, s: Step) -> None:
    await StepRealtime(p.number(s["value"]))


@verb(VERBS, "host", "adjust-frequency")
async def _adjust_frequency(p: Play, s: Step) -> None:
    await AdjustFrequency(s["ppb"])


@verb(VERBS, "host", "sleep")
async def _sleep(p: Play, s: Step) -> None:
    await HostSleep(p.number(s["value"]), s.get("tsc", "running"), s.get("kind", "s3"))
