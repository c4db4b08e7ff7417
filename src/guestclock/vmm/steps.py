"""A scenario's steps as a recipe: the same on the model, on this host's KVM and on a kernel in the lab.

A program is JSON: {"vcpus": n, "kvmclock": "new"|"old"|null, "boot": bool, "steps": [step, ...]}. A step is
{"actor": "vmm"|"guest"|"host", "do": verb, "say": sentence, "vcpus": [i, ...], ...verb's own keys}. `guestclock.scenario`
makes programs from TOML and checks them; nothing here is met by unchecked input.

A number that a step needs is a sum of terms, [["int", 400], ["ns", 5_000_000_000], ["var", "saved", -1]]: integers,
durations (as cycles of vCPU 0's TSC where cycles are meant), and values saved by earlier steps; the last item is the
factor, 1 if left out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from guestclock.abi.msr import MSR_IA32_TSC, MSR_IA32_TSC_ADJUST
from guestclock.kvm.api import (
    AdjustFrequency,
    ClearGuestStopped,
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
        await self.look()
        for index, step in enumerate(self.program["steps"]):
            await Note(step["say"], "step", (("index", index), ("do", step["do"])))
            try:
                await VERBS[step["actor"], step["do"]](self, step)
            except KvmError as refusal:
                # A refusal is something the kernel says, not the end of the scenario.
                await Note("refused", "note", (("errno", refusal.errno), ("op", refusal.op.name)))
            if step.get("look", True):
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
        self.tsc_khz = await self.vm.vcpus[0].get_tsc_khz()
        if boot:
            # Twice: every vCPU whose creation asked for a masterclock update takes a snapshot of its own at its first
            # entry (kvm-x86.md 7.26), and the pages of those that entered before it follow at their second.
            for _ in range(2):
                for vcpu in self.vm.vcpus:
                    await vcpu.run()

    async def new_vcpu(self) -> None:
        vcpu = await self.vm.create_vcpu()
        kvmclock = self.program.get("kvmclock", "new")
        if kvmclock is not None:
            await vcpu.enable_kvmclock(old=kvmclock == "old")

    def chosen(self, step: Step) -> list[Vcpu]:
        return [self.vm.vcpus[i] for i in step["vcpus"]] if "vcpus" in step else list(self.vm.vcpus)

    def number(self, terms: list[list[Any]], *, cycles: bool) -> int:
        """The sum of `terms`, ns terms as cycles (truncated, one by one) if `cycles`."""
        total = 0
        for kind, value, *factor in terms:
            if kind == "var":
                amount = self.saved[value]
            elif kind == "ns" and cycles:
                amount = value * self.tsc_khz // 1_000_000
            else:
                amount = value
            total = total + amount * (factor[0] if factor else 1)
        return total

    def save(self, step: Step, value: int) -> None:
        if "as" in step:
            self.saved[step["as"]] = value

    async def guest(self, step: Step, *actions: GuestAction) -> None:
        for vcpu in self.chosen(step):
            answers = await vcpu.run(*actions)
            if answers and isinstance(answers[0], int):
                self.save(step, answers[0])


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


def u64(value: int) -> int:
    """As the C type of an ioctl argument: a negative number is given as its two's complement."""
    return value % 2**64


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
        await vcpu.run()


@verb("vmm", "start")
async def _start(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await vcpu.start()


@verb("vmm", "kick")
async def _kick(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await vcpu.kick()


@verb("vmm", "get-tsc")
async def _get_tsc(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        p.save(s, await vcpu.get_msr(MSR_IA32_TSC))


@verb("vmm", "set-tsc")
async def _set_tsc(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await vcpu.set_msr(MSR_IA32_TSC, u64(p.number(s["value"], cycles=True)))


@verb("vmm", "get-tsc-offset")
async def _get_tsc_offset(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        p.save(s, await vcpu.get_tsc_offset())


@verb("vmm", "set-tsc-offset")
async def _set_tsc_offset(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await vcpu.set_tsc_offset(u64(p.number(s["value"], cycles=True)))


@verb("vmm", "set-tsc-adjust")
async def _set_tsc_adjust(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await vcpu.set_msr(MSR_IA32_TSC_ADJUST, u64(p.number(s["value"], cycles=True)))


@verb("vmm", "set-tsc-khz")
async def _set_tsc_khz(p: Play, s: Step) -> None:
    if s.get("scope") == "vm":
        await p.vm.set_tsc_khz(s["khz"])
        return
    for vcpu in p.chosen(s):
        await vcpu.set_tsc_khz(s["khz"])


@verb("vmm", "get-clock")
async def _get_clock(p: Play, s: Step) -> None:
    data = await p.vm.get_clock()
    p.save(s, data.clock_ns)
    if "as" in s:
        p.saved[s["as"] + ".realtime"], p.saved[s["as"] + ".host_tsc"] = data.realtime_ns, data.host_tsc


@verb("vmm", "set-clock")
async def _set_clock(p: Play, s: Step) -> None:
    clock_ns = u64(p.number(s["value"], cycles=False))
    if "realtime" in s:
        await p.vm.set_clock(clock_ns, 4, u64(p.number(s["realtime"], cycles=False)))
    else:
        await p.vm.set_clock(clock_ns)


@verb("vmm", "enable-kvmclock")
async def _enable_kvmclock(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await vcpu.enable_kvmclock(old=s.get("old", False))


@verb("vmm", "kvmclock-ctrl")
async def _kvmclock_ctrl(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await vcpu.kvmclock_ctrl()


@verb("vmm", "set-msr")
async def _set_msr(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await vcpu.set_msr(s["index"], u64(p.number(s["value"], cycles=False)))


@verb("vmm", "move-to-cpu")
async def _move_to_cpu(p: Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await vcpu.move_to_cpu(s["cpu"])


@verb("vmm", "stop-all-tscs")
async def _stop_all_tscs(p: Play, s: Step) -> None:
    p.save(s, await p.vm.stop_all_tscs())


@verb("vmm", "start-all-tscs")
async def _start_all_tscs(p: Play, s: Step) -> None:
    await p.vm.start_all_tscs(u64(p.number(s["value"], cycles=True)))


@verb("vmm", "xen-shared-info-init")
async def _xen_shared_info_init(p: Play, s: Step) -> None:
    await p.vm.xen_shared_info_init()


@verb("vmm", "wait")
async def _wait(p: Play, s: Step) -> None:
    await p.host.wait(p.number(s["value"], cycles=False))


@verb("guest", "read")
async def _read(p: Play, s: Step) -> None:
    await p.guest(s, ReadClocks())


@verb("guest", "write-tsc")
async def _write_tsc(p: Play, s: Step) -> None:
    await p.guest(s, Wrmsr(MSR_IA32_TSC, u64(p.number(s["value"], cycles=True))))


@verb("guest", "write-tsc-adjust")
async def _write_tsc_adjust(p: Play, s: Step) -> None:
    await p.guest(s, Wrmsr(MSR_IA32_TSC_ADJUST, u64(p.number(s["value"], cycles=True))))


@verb("guest", "write-msr")
async def _write_msr(p: Play, s: Step) -> None:
    await p.guest(s, Wrmsr(s["index"], u64(p.number(s["value"], cycles=False))))


@verb("guest", "read-msr")
async def _read_msr(p: Play, s: Step) -> None:
    await p.guest(s, Rdmsr(s["index"]))


@verb("guest", "clear-stopped")
async def _clear_stopped(p: Play, s: Step) -> None:
    await p.guest(s, ClearGuestStopped())


@verb("guest", "enter-l2")
async def _enter_l2(p: Play, s: Step) -> None:
    await p.guest(s, EnterL2(p.number(s["value"], cycles=True), s.get("ratio")))


@verb("guest", "exit-l2")
async def _exit_l2(p: Play, s: Step) -> None:
    await p.guest(s, ExitL2())


@verb("host", "clocksource")
async def _clocksource(p: Play, s: Step) -> None:
    await SetClocksource(s["to"])


@verb("host", "mark-tsc-unstable")
async def _mark_tsc_unstable(p: Play, s: Step) -> None:
    await MarkTscUnstable()


@verb("host", "step-realtime")
async def _step_realtime(p: Play, s: Step) -> None:
    await StepRealtime(p.number(s["value"], cycles=False))


@verb("host", "adjust-frequency")
async def _adjust_frequency(p: Play, s: Step) -> None:
    await AdjustFrequency(s["ppb"])


@verb("host", "sleep")
async def _sleep(p: Play, s: Step) -> None:
    await HostSleep(p.number(s["value"], cycles=False), s.get("tsc", "running"))
