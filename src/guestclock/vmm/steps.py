"""A scenario's steps as a recipe: the same on the model, on this host's KVM and on a kernel in the lab.

A program is JSON: {"vcpus": n, "kvmclock": "new"|"old"|null, "boot": bool, "look": bool, "steps": [...]}. A step is
{"actor": "vmm"|"guest"|"host", "do": verb, "say": sentence, "vcpus": [i, ...], ...verb's own keys}.
`guestclock.scenario` makes programs from TOML and checks them; nothing here is met by unchecked input.

A number that a step needs is a sum of terms, [kind, value, factor], the factor 1 if left out:

    ["int", 400]                  an integer
    ["ns", 5_000_000_000]         a duration
    ["var", "saved", -1]          a value that an earlier step saved ("saved.0": vCPU 0's of several)
    ["own", "saved"]              the one saved for the vCPU that the step is acting on
    ["max", ["saved.0", ...]]     the highest of several

Where cycles are meant, durations, and saved values in ns ("var-ns", "own-ns", "max-ns"), are summed first and then
turned into cycles of vCPU 0's TSC, rounded down: one rounding, the same for every vCPU.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from guestclock.abi.msr import MSR_IA32_TSC, MSR_IA32_TSC_ADJUST
from guestclock.arith import s64, u64
from guestclock.kvm.api import (
    AdjustFrequency,
    ClearGuestStopped,
    ClockReading,
    EnterL2,
    ExitL2,
    GuestAction,
    Host,
    HostSleep,
    KvmError,
    MarkTscUnstable,
    Note,
    Rdmsr,
    ReadClocks,
    ReadHostClock,
    SetClocksource,
    StepRealtime,
    Vcpu,
    Vm,
    Wrmsr,
)

Step = dict[str, Any]
HOST_CLOCKS = ("tsc", "realtime", "monotonic", "monotonic_raw", "boottime")


class Unsaved(Exception):
    """A value that this step needs was never saved, because the step that should have saved it was refused."""


class Play:
    """One program under way: the VM the steps act on (the newest), and the values they saved."""

    def __init__(self, host: Host, program: dict[str, Any]) -> None:
        self.host, self.program = host, program
        self.vm: Vm
        self.saved: dict[str, int] = {}
        self.tsc_khz = 0

    async def run(self) -> None:
        await Note("start", "step", (("index", -1),))
        await self.new_vm(self.program["vcpus"], boot=self.program.get("boot", True))
        looks = self.program.get("look", True)
        if looks:
            await self.look()
        for index, step in enumerate(self.program["steps"]):
            await Note(step["say"], "step", (("index", index), ("do", step["do"])))
            try:
                await VERBS[step["actor"], step["do"]](self, step)
            except KvmError as refusal:
                # A refusal is something the kernel says, not the end of the scenario.
                await Note("refused", "note", (("errno", refusal.errno), ("op", refusal.op.name)))
            except Unsaved as missing:
                await Note("left out", "note", (("missing", missing.args[0]),))
            if looks and step.get("look", True):
                await self.look()

    async def look(self) -> None:
        """What every clock shows now, without any of KVM's requests being served for it."""
        for clock in HOST_CLOCKS:
            await ReadHostClock(clock)
        for vcpu in self.vm.vcpus:
            await vcpu.peek()
        await self.vm.get_clock()

    async def new_vm(self, vcpus: int, *, boot: bool) -> None:
        self.vm = await self.host.create_vm()
        for _ in range(vcpus):
            await self.new_vcpu()
        await self.learn_khz()
        if boot:
            # Twice: every vCPU whose creation asked for a masterclock update takes a snapshot of its own at its first
            # entry (kvm-x86.md 7.26), and the pages of those that entered before it follow at their second.
            for _ in range(2):
                for vcpu in self.vm.vcpus:
                    await vcpu.run()

    async def learn_khz(self) -> None:
        """vCPU 0's rate, for durations. Kernels before KVM_GET_TSC_KHZ have one, the host's: the program names it."""
        try:
            self.tsc_khz = await self.vm.vcpus[0].get_tsc_khz()
        except KvmError:
            if "tsc_khz" not in self.program:
                raise
            self.tsc_khz = self.program["tsc_khz"]

    async def new_vcpu(self) -> None:
        vcpu = await self.vm.create_vcpu()
        kvmclock = self.program.get("kvmclock", "new")
        if kvmclock is not None:
            await vcpu.enable_kvmclock(old=kvmclock == "old")

    def chosen(self, step: Step) -> list[Vcpu]:
        return [self.vm.vcpus[i] for i in step["vcpus"]] if "vcpus" in step else list(self.vm.vcpus)

    async def in_turn(self, step: Step, vcpu: Vcpu) -> None:
        """What the VMM lets pass between two vCPUs of one step."""
        if "gap" in step and vcpu.index != step["vcpus"][0]:
            await self.host.wait(self.number(step["gap"]))

    def number(self, terms: list[list[Any]], own: Vcpu | None = None) -> int:
        """The sum of `terms` as it is. own: whose values the "own" terms are."""
        return sum(amount for _, amount in self.amounts(terms, own))

    def cycles(self, terms: list[list[Any]], own: Vcpu | None = None) -> int:
        """The sum of `terms` in cycles, mod 2^64: the C type of the ioctls' arguments."""
        amounts = list(self.amounts(terms, own))
        ns = sum(amount for is_ns, amount in amounts if is_ns)
        return u64(sum(amount for is_ns, amount in amounts if not is_ns) + ns * self.tsc_khz // 1_000_000)

    def amounts(self, terms: list[list[Any]], own: Vcpu | None) -> Iterator[tuple[bool, int]]:
        """Each term's amount, and whether that is nanoseconds where cycles are meant."""
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
            raise Unsaved(name)
        return self.saved[name]

    def save(self, step: Step, value: int, vcpu: Vcpu | None = None) -> None:
        """Under the step's own name, and with the vCPU's index for those who mean that one."""
        if "as" in step:
            self.saved[step["as"]] = value
            if vcpu is not None:
                self.saved[f"{step['as']}.{vcpu.index}"] = value

    async def guest(self, step: Step, action: Callable[[Vcpu], GuestAction]) -> None:
        for vcpu in self.chosen(step):
            await self.in_turn(step, vcpu)
            (answer,) = await vcpu.run(action(vcpu))
            if isinstance(answer, ClockReading):
                self.save(step, answer.tsc, vcpu)
                if "as" in step and answer.kvmclock_ns is not None:
                    self.saved[step["as"] + ".kvmclock"] = answer.kvmclock_ns
            elif answer is not None and answer is not True and answer is not False:
                self.save(step, answer, vcpu)


async def play(host: Host, program: dict[str, Any]) -> None:
    """Runs a checked program to its end. KVM's refusals are noted and the next step follows."""
    await Play(host, program).run()


# ---- verbs, a function each

Verb = Callable[[Play, Step], Awaitable[None]]
VERBS: dict[tuple[str, str], Verb] = {}


def verb(actor: str, do: str) -> Callable[[Verb], Verb]:
    def enter(function: Verb) -> Verb:
        VERBS[actor, do] = function
        return function

    return enter


@verb("vmm", "create-vm")
async def _create_vm(p: Play, s: Step) -> None:
    await p.new_vm(s["count"], boot=s.get("boot", False))


@verb("vmm", "create-vcpu")
async def _create_vcpu(p: Play, s: Step) -> None:
    for _ in range(s.get("count", 1)):
        await p.new_vcpu()


@verb("vmm", "run")
async def _run(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.run()


@verb("vmm", "start")
async def _start(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.start()


@verb("vmm", "kick")
async def _kick(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.kick()


@verb("vmm", "get-tsc")
async def _get_tsc(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        p.save(s, await vcpu.get_msr(MSR_IA32_TSC), vcpu)


@verb("vmm", "set-tsc")
async def _set_tsc(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.set_msr(MSR_IA32_TSC, p.cycles(s["value"], vcpu))


@verb("vmm", "get-tsc-offset")
async def _get_tsc_offset(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        p.save(s, await vcpu.get_tsc_offset(), vcpu)


@verb("vmm", "set-tsc-offset")
async def _set_tsc_offset(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.set_tsc_offset(p.cycles(s["value"], vcpu))


@verb("vmm", "set-tsc-adjust")
async def _set_tsc_adjust(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.set_msr(MSR_IA32_TSC_ADJUST, p.cycles(s["value"], vcpu))


@verb("vmm", "set-tsc-khz")
async def _set_tsc_khz(p: Play, s: Step) -> None:
    if s.get("scope") == "vm":
        await p.vm.set_tsc_khz(s["khz"])
        return
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.set_tsc_khz(s["khz"])
    await p.learn_khz()


@verb("vmm", "get-tsc-khz")
async def _get_tsc_khz(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.get_tsc_khz()


@verb("vmm", "read-clock")
async def _read_clock(p: Play, s: Step) -> None:
    p.save(s, await p.host.read_clock(s["clock"]))


@verb("vmm", "get-clock")
async def _get_clock(p: Play, s: Step) -> None:
    data = await p.vm.get_clock()
    p.save(s, data.clock_ns)
    if "as" in s:
        p.saved[s["as"] + ".realtime"], p.saved[s["as"] + ".host_tsc"] = data.realtime_ns, data.host_tsc


@verb("vmm", "set-clock")
async def _set_clock(p: Play, s: Step) -> None:
    clock_ns = u64(p.number(s["value"]))
    if "realtime" in s:
        await p.vm.set_clock(clock_ns, 4, u64(p.number(s["realtime"])))
    else:
        await p.vm.set_clock(clock_ns)


@verb("vmm", "enable-kvmclock")
async def _enable_kvmclock(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.enable_kvmclock(old=s.get("old", False))


@verb("vmm", "kvmclock-ctrl")
async def _kvmclock_ctrl(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.kvmclock_ctrl()


@verb("vmm", "set-msr")
async def _set_msr(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.set_msr(s["index"], u64(p.number(s["value"], vcpu)))


@verb("vmm", "move-to-cpu")
async def _move_to_cpu(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.move_to_cpu(s["cpu"])


@verb("vmm", "stop-all-tscs")
async def _stop_all_tscs(p: Play, s: Step) -> None:
    p.save(s, await p.vm.stop_all_tscs())


@verb("vmm", "start-all-tscs")
async def _start_all_tscs(p: Play, s: Step) -> None:
    await p.vm.start_all_tscs(p.cycles(s["value"]))


@verb("vmm", "xen-shared-info-init")
async def _xen_shared_info_init(p: Play, s: Step) -> None:
    await p.vm.xen_shared_info_init()


@verb("vmm", "wait")
async def _wait(p: Play, s: Step) -> None:
    await p.host.wait(p.number(s["value"]))


@verb("guest", "read")
async def _read(p: Play, s: Step) -> None:
    await p.guest(s, lambda _: ReadClocks())


@verb("guest", "write-tsc")
async def _write_tsc(p: Play, s: Step) -> None:
    await p.guest(s, lambda v: Wrmsr(MSR_IA32_TSC, p.cycles(s["value"], v)))


@verb("guest", "write-tsc-adjust")
async def _write_tsc_adjust(p: Play, s: Step) -> None:
    await p.guest(s, lambda v: Wrmsr(MSR_IA32_TSC_ADJUST, p.cycles(s["value"], v)))


@verb("guest", "write-msr")
async def _write_msr(p: Play, s: Step) -> None:
    await p.guest(s, lambda v: Wrmsr(s["index"], u64(p.number(s["value"], v))))


@verb("guest", "read-msr")
async def _read_msr(p: Play, s: Step) -> None:
    await p.guest(s, lambda _: Rdmsr(s["index"]))


@verb("guest", "clear-stopped")
async def _clear_stopped(p: Play, s: Step) -> None:
    await p.guest(s, lambda _: ClearGuestStopped())


@verb("guest", "enter-l2")
async def _enter_l2(p: Play, s: Step) -> None:
    await p.guest(s, lambda v: EnterL2(s64(p.cycles(s["value"], v)), s.get("ratio")))


@verb("guest", "exit-l2")
async def _exit_l2(p: Play, s: Step) -> None:
    await p.guest(s, lambda _: ExitL2())


@verb("host", "clocksource")
async def _clocksource(p: Play, s: Step) -> None:
    await SetClocksource(s["to"])


@verb("host", "mark-tsc-unstable")
async def _mark_tsc_unstable(p: Play, s: Step) -> None:
    await MarkTscUnstable()


@verb("host", "step-realtime")
async def _step_realtime(p: Play, s: Step) -> None:
    await StepRealtime(p.number(s["value"]))


@verb("host", "adjust-frequency")
async def _adjust_frequency(p: Play, s: Step) -> None:
    await AdjustFrequency(s["ppb"])


@verb("host", "sleep")
async def _sleep(p: Play, s: Step) -> None:
    await HostSleep(p.number(s["value"]), s.get("tsc", "running"))
