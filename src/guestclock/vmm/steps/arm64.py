"""arm64's steps: the counters CNTVCT and CNTPCT, by value and by offset, and the timers' registers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from guestclock.abi.arm64 import (
    KVM_ARM_VCPU_TIMER_CTRL,
    KVM_ARM_VCPU_TIMER_OFFSET_PTIMER,
    KVM_ARM_VCPU_TIMER_OFFSET_VTIMER,
    KVM_REG_ARM_PTIMER_CNT,
    KVM_REG_ARM_TIMER_CNT,
    TIMER_REGS,
)
from guestclock.kvm.api import (
    CounterReading,
    EnterL2,
    Host,
    Hvc,
    Preempt,
    ReadCounters,
    ReadSysreg,
    Vcpu,
    WriteSysreg,
)
from guestclock.vmm.steps.base import VERBS as COMMON
from guestclock.vmm.steps.base import Play, Step, Verb, Verbs, verb

NS_PER_S = 1_000_000_000

CNT_OF = {"virtual": KVM_REG_ARM_TIMER_CNT, "physical": KVM_REG_ARM_PTIMER_CNT}
OFFSET_OF = {"virtual": KVM_ARM_VCPU_TIMER_OFFSET_VTIMER, "physical": KVM_ARM_VCPU_TIMER_OFFSET_PTIMER}

VERBS: Verbs = {**COMMON}


class Arm64Play(Play):
    """A program on arm64. Durations are ticks of the counter, which no guest's rate can differ from."""

    verbs: ClassVar[Mapping[tuple[str, str], Verb]] = VERBS
    host_clocks = ("counter", "realtime", "monotonic", "monotonic_raw", "boottime")
    boots = 1  # a vCPU's timers are live from its first KVM_RUN on

    def __init__(self, host: Host, program: dict[str, Any]) -> None:
        super().__init__(host, program)
        self.counter_hz = 0

    async def learn_rate(self) -> None:
        """CNTFRQ_EL0: the same for host and guest, for ever."""
        if not self.counter_hz:
            self.counter_hz = await self.host.read_clock("cntfrq")

    def counted(self, ns: int) -> int:
        return ns * self.counter_hz // NS_PER_S

    def keep(self, step: Step, answer: Any, vcpu: Vcpu) -> None:
        if isinstance(answer, CounterReading):
            self.save(step, answer.cntvct, vcpu)
            if answer.cntpct is not None:
                self.save_part(step, "cntpct", answer.cntpct)
        elif isinstance(answer, tuple | list):  # a hypercall's x0 to x3
            self.save(step, answer[0], vcpu)
            for number, register in enumerate(answer):
                self.save_part(step, f"x{number}", register)
        elif answer is not None:
            self.save(step, answer, vcpu)


@verb(VERBS, "vmm", "get-counter")
async def _get_counter(p: Arm64Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        p.save(s, await vcpu.get_one_reg(CNT_OF[s.get("timer", "virtual")]), vcpu)


@verb(VERBS, "vmm", "set-counter")
async def _set_counter(p: Arm64Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.set_one_reg(CNT_OF[s.get("timer", "virtual")], p.counter(s["value"], vcpu))


@verb(VERBS, "vmm", "set-counter-offset")
async def _set_counter_offset(p: Arm64Play, s: Step) -> None:
    await p.vm.set_counter_offset(p.counter(s["value"]), s.get("reserved", 0))


@verb(VERBS, "vmm", "get-reg")
async def _get_reg(p: Arm64Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        p.save(s, await vcpu.get_one_reg(TIMER_REGS[s["reg"]]), vcpu)


@verb(VERBS, "vmm", "set-reg")
async def _set_reg(p: Arm64Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.set_one_reg(TIMER_REGS[s["reg"]], p.counter(s["value"], vcpu))


@verb(VERBS, "vmm", "init")
async def _init(p: Arm64Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await vcpu.init()


@verb(VERBS, "vmm", "set-timer-offset")
async def _set_timer_offset(p: Arm64Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        attr = OFFSET_OF[s.get("timer", "virtual")]
        await vcpu.set_attr(KVM_ARM_VCPU_TIMER_CTRL, attr, p.counter(s["value"], vcpu))


@verb(VERBS, "vmm", "get-timer-offset")
async def _get_timer_offset(p: Arm64Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        p.save(s, await vcpu.get_attr(KVM_ARM_VCPU_TIMER_CTRL, OFFSET_OF[s.get("timer", "virtual")]), vcpu)


@verb(VERBS, "vmm", "create-irqchip")
async def _create_irqchip(p: Arm64Play, s: Step) -> None:
    await p.vm.create_irqchip()


@verb(VERBS, "vmm", "preempt")
async def _preempt(p: Arm64Play, s: Step) -> None:
    for vcpu in p.chosen(s):
        await p.in_turn(s, vcpu)
        await Preempt(p.vm.id, vcpu.index, p.number(s["value"]))


@verb(VERBS, "guest", "read")
async def _read(p: Arm64Play, s: Step) -> None:
    await p.guest(s, lambda _: ReadCounters())


@verb(VERBS, "guest", "read-sysreg")
async def _read_sysreg(p: Arm64Play, s: Step) -> None:
    await p.guest(s, lambda _: ReadSysreg(s["reg"]))


@verb(VERBS, "guest", "write-sysreg")
async def _write_sysreg(p: Arm64Play, s: Step) -> None:
    await p.guest(s, lambda v: WriteSysreg(s["reg"], p.counter(s["value"], v)))


@verb(VERBS, "guest", "hvc")
async def _hvc(p: Arm64Play, s: Step) -> None:
    await p.guest(s, lambda _: Hvc(s["x0"], s.get("x1", 0), s.get("x2", 0), s.get("x3", 0)))


@verb(VERBS, "guest", "enter-l2")
async def _enter_l2(p: Arm64Play, s: Step) -> None:
    await p.guest(s, lambda v: EnterL2(p.counter(s["value"], v)))
