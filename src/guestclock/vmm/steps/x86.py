"""x86's steps: TSC, kvmclock, MSRs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from guestclock.abi.msr import MSR_IA32_TSC, MSR_IA32_TSC_ADJUST
from guestclock.arith import s64, u64
from guestclock.kvm.api import (
    ClearGuestStopped,
    ClockReading,
    EnterL2,
    Host,
    KvmError,
    MarkTscUnstable,
    Rdmsr,
    ReadClocks,
    SetClocksource,
    Vcpu,
    Wrmsr,
)
from guestclock.vmm.steps.base import VERBS as COMMON
from guestclock.vmm.steps.base import Play, Step, Verb, Verbs, verb

VERBS: Verbs = {**COMMON}


class X86Play(Play):
    """A program on x86_64. Durations are cycles of vCPU 0's TSC."""

    verbs: ClassVar[Mapping[tuple[str, str], Verb]] = VERBS
    host_clocks = ("tsc", "realtime", "monotonic", "monotonic_raw", "boottime")
    # Twice: every vCPU whose creation asked for a masterclock update takes a snapshot of its own at its first entry
    # (kvm-x86.md 7.26), and the pages of those that entered before it follow at their second.
    boots = 2

    def __init__(self, host: Host, program: dict[str, Any]) -> None:
        super().__init__(host, program)
        self.tsc_khz = 0

    async def learn_rate(self) -> None:
        """vCPU 0's. Kernels before KVM_GET_TSC_KHZ have one, the host's: the program names it."""
        try:
            self.tsc_khz = await self.vm.vcpus[0].get_tsc_khz()
        except KvmError:
            if "tsc_khz" not in self.program:
                raise
            self.tsc_khz = self.program["tsc_khz"]

    def counted(self, ns: int) -> int:
        return ns * self.tsc_khz // 1_000_000

    async def set_up(self, vcpu: Vcpu) -> None:
        kvmclock = self.program.get("kvmclock", "new")
        if kvmclock is not None:
            await vcpu.enable_kvmclock(old=kvmclock == "old")

    async def look_at_vm(self) -> None:
        await self.vm.get_clock()

    def keep(self, step: Step, answer: Any, vcpu: Vcpu) -> None:
        if isinstance(answer, ClockReading):
            self.save(step, answer.tsc, vcpu)
            if answer.kvmclock_ns is not None:
                self.save_part(step, "kvmclock", answer.kvmclock_ns)
        elif answer is not None and answer is not True and answer is not False:
            self.save(step, answer, vcpu)


@verb(VERBS, "vmm", "get-tsc")
async def _get_tsc(p: X86Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        p.save(s, await vcpu.get_msr(MSR_IA32_TSC), vcpu)


@verb(VERBS, "vmm", "set-tsc")
async def _set_tsc(p: X86Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.set_msr(MSR_IA32_TSC, p.counter(s["value"], vcpu))


@verb(VERBS, "vmm", "get-tsc-offset")
async def _get_tsc_offset(p: X86Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        p.save(s, await vcpu.get_tsc_offset(), vcpu)


@verb(VERBS, "vmm", "set-tsc-offset")
async def _set_tsc_offset(p: X86Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.set_tsc_offset(p.counter(s["value"], vcpu))


@verb(VERBS, "vmm", "set-tsc-adjust")
async def _set_tsc_adjust(p: X86Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.set_msr(MSR_IA32_TSC_ADJUST, p.counter(s["value"], vcpu))


@verb(VERBS, "vmm", "set-tsc-khz")
async def _set_tsc_khz(p: X86Play, s: Step) -> None:
    if s.get("scope") == "vm":
        await p.vm.set_tsc_khz(s["khz"])
        return
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.set_tsc_khz(s["khz"])
    await p.learn_rate()


@verb(VERBS, "vmm", "get-tsc-khz")
async def _get_tsc_khz(p: X86Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.get_tsc_khz()


@verb(VERBS, "vmm", "get-clock")
async def _get_clock(p: X86Play, s: Step) -> None:
    data = await p.vm.get_clock()
    p.save(s, data.clock_ns)
    p.save_part(s, "realtime", data.realtime_ns)
    p.save_part(s, "host_tsc", data.host_tsc)


@verb(VERBS, "vmm", "set-clock")
async def _set_clock(p: X86Play, s: Step) -> None:
    clock_ns = u64(p.number(s["value"]))
    if "realtime" in s:
        await p.vm.set_clock(clock_ns, 4, u64(p.number(s["realtime"])))
    else:
        await p.vm.set_clock(clock_ns)


@verb(VERBS, "vmm", "enable-kvmclock")
async def _enable_kvmclock(p: X86Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.enable_kvmclock(old=s.get("old", False))


@verb(VERBS, "vmm", "kvmclock-ctrl")
async def _kvmclock_ctrl(p: X86Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.kvmclock_ctrl()


@verb(VERBS, "vmm", "set-msr")
async def _set_msr(p: X86Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.set_msr(s["index"], u64(p.number(s["value"], vcpu)))


@verb(VERBS, "vmm", "stop-all-tscs")
async def _stop_all_tscs(p: X86Play, s: Step) -> None:
    p.save(s, await p.vm.stop_all_tscs())


@verb(VERBS, "vmm", "start-all-tscs")
async def _start_all_tscs(p: X86Play, s: Step) -> None:
    await p.vm.start_all_tscs(p.counter(s["value"]))


@verb(VERBS, "vmm", "xen-shared-info-init")
async def _xen_shared_info_init(p: X86Play, s: Step) -> None:
    await p.vm.xen_shared_info_init()


@verb(VERBS, "guest", "read")
async def _read(p: X86Play, s: Step) -> None:
    await p.guest(s, lambda _: ReadClocks())


@verb(VERBS, "guest", "write-tsc")
async def _write_tsc(p: X86Play, s: Step) -> None:
    await p.guest(s, lambda v: Wrmsr(MSR_IA32_TSC, p.counter(s["value"], v)))


@verb(VERBS, "guest", "write-tsc-adjust")
async def _write_tsc_adjust(p: X86Play, s: Step) -> None:
    await p.guest(s, lambda v: Wrmsr(MSR_IA32_TSC_ADJUST, p.counter(s["value"], v)))


@verb(VERBS, "guest", "write-msr")
async def _write_msr(p: X86Play, s: Step) -> None:
    await p.guest(s, lambda v: Wrmsr(s["index"], u64(p.number(s["value"], v))))


@verb(VERBS, "guest", "read-msr")
async def _read_msr(p: X86Play, s: Step) -> None:
    await p.guest(s, lambda _: Rdmsr(s["index"]))


@verb(VERBS, "guest", "clear-stopped")
async def _clear_stopped(p: X86Play, s: Step) -> None:
    await p.guest(s, lambda _: ClearGuestStopped())


@verb(VERBS, "guest", "enter-l2")
async def _enter_l2(p: X86Play, s: Step) -> None:
    await p.guest(s, lambda v: EnterL2(s64(p.counter(s["value"], v)), s.get("ratio")))


@verb(VERBS, "host", "clocksource")
async def _clocksource(p: X86Play, s: Step) -> None:
    await SetClocksource(s["to"])


@verb(VERBS, "host", "mark-tsc-unstable")
async def _mark_tsc_unstable(p: X86Play, s: Step) -> None:
    await MarkTscUnstable()
