"""Reads an arm64 guest's trace: two counters per vCPU, each the host's minus an offset that its VM's vCPUs share."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

from guestclock.abi.arm64 import (
    KVM_ARM_VCPU_TIMER_CTRL,
    KVM_ARM_VCPU_TIMER_OFFSET_PTIMER,
    KVM_ARM_VCPU_TIMER_OFFSET_VTIMER,
    KVM_REG_ARM_PTIMER_CTL,
    KVM_REG_ARM_PTIMER_CVAL,
    KVM_REG_ARM_TIMER_CTL,
    KVM_REG_ARM_TIMER_CVAL,
    TIMER_REGS,
)
from guestclock.arith import u64
from guestclock.check.reader.base import Reader
from guestclock.check.span import Span, through_zero
from guestclock.check.story import Count, Instant, Rate, Reading, floor
from guestclock.errors import UserError
from guestclock.sim.timeline import PS_PER_S
from guestclock.sim.trace import Event, Trace
from guestclock.vmm.clocks import ARM64

HARMLESS = (KVM_REG_ARM_TIMER_CTL, KVM_REG_ARM_TIMER_CVAL, KVM_REG_ARM_PTIMER_CTL, KVM_REG_ARM_PTIMER_CVAL)
"""Registers of the timers: no counter moves for them."""

ANSWERS = ("GetOneReg", "GetVcpuAttr", "Run")
REGISTERS = {id_: name for name, id_ in TIMER_REGS.items()}
ATTRIBUTES = {
    (KVM_ARM_VCPU_TIMER_CTRL, KVM_ARM_VCPU_TIMER_OFFSET_VTIMER): "OFFSET_VTIMER",
    (KVM_ARM_VCPU_TIMER_CTRL, KVM_ARM_VCPU_TIMER_OFFSET_PTIMER): "OFFSET_PTIMER",
}


class Arm64Reader(Reader):
    """Raises UserError where the trace's first line does not say the host counter's rate.

    A vCPU in KVM_RUN counts with the offsets it loaded when it was entered, or last scheduled in. One that was changed
    behind its back it takes over at an instant that nobody tells: until it is out, each of its readings is on a line of
    its own.
    """

    arch, counter = ARM64, "counter"

    def __init__(self, trace: Trace) -> None:
        hz = trace.meta.get("counter_hz")
        if not isinstance(hz, int) or hz <= 0:
            raise UserError(f"trace: counter_hz: expected the host counter's rate in Hz, got {hz!r}")
        true_hz = Fraction(trace.meta.get("counter_true_hz") or hz)
        super().__init__(trace, true_hz, hz, trace.meta.get("counter_start"))
        self.behind_its_back: set[tuple[int, int]] = set()
        self.had_l2: set[tuple[int, int | None]] = set()
        self.ran: dict[int, Instant] = {}
        """By VM, when a vCPU was last in the guest and came out."""
        self.away: dict[int, tuple[Instant, Instant]] = {}
        """From then until its counters had been moved, the last time they were."""

    def moves(self, event: Event, asked: dict[str, Any]) -> None:
        which = vm, vcpu = asked.get("vm", -1), asked.get("vcpu")
        match event.name:
            case "SetOneReg" if asked["id"] not in HARMLESS:
                self.vm_moved(vm, event)
            case "CreateVcpu" | "SetCounterOffset" | "SetVcpuAttr":  # creation resets, even one that is refused
                self.vm_moved(vm, event)
            case "Run" if any(a["action"] in ("EnterL2", "ExitL2") for a in asked["actions"]):
                self.moved(vm, vcpu, event)
                self.had_l2.add(which)
            case "Kick" if which in self.behind_its_back:
                self.moved(vm, vcpu, event)

    def on_peek(self, event: Event) -> None:
        # KVM's register of a guest hypervisor's virtual counter takes off CNTVOFF_EL2, also where it itself reads none.
        if (event.data.get("vm", self.vm), event.vcpu) not in self.had_l2:
            self.reading(event)

    def vm_moved(self, vm: int, event: Event) -> None:
        self.moved(vm, None, event)
        self.behind_its_back |= {which for which in self.in_run if which[0] == vm}

    def moved(self, vm: int, vcpu: int | None, event: Event) -> None:
        self.unbroken.moved(vm, vcpu)
        now = self.told(Span.of(event.end_ps))
        if any(running == vm for running, _ in self.in_run):
            self.away[vm] = now, now
        elif vm in self.ran:
            self.away[vm] = self.ran[vm], now

    def done(self, event: Event, asked: dict[str, Any], result: Any) -> None:
        if event.name in ("Run", "Start", "Kick"):
            self.ran[asked["vm"]] = self.told(Span(event.start_ps, event.end_ps))
        if event.name in ANSWERS:
            self.looks[-1].answers += [(asked["vcpu"], name, value) for name, value in answers(asked, result)]
        if event.name == "Kick":
            self.behind_its_back.discard((asked["vm"], asked["vcpu"]))

    def told(self, at_ps: Span) -> Instant:
        """An instant known by its true time alone, with the counter that goes with it."""
        if self.start is None:
            return Instant(at_ps)
        # Where true time was itself told by the counter, it was rounded down to the ps.
        lo, hi = (self.start + floor(ps * self.hz / PS_PER_S) for ps in (at_ps.lo, at_ps.hi + 1))
        return Instant(at_ps, Span(lo, hi))

    def seen(self, event: Event) -> Reading:
        data, vcpu = event.data, event.vcpu
        assert vcpu is not None
        which = vm, _ = data.get("vm", self.vm), vcpu
        if which in self.behind_its_back:
            self.moved(vm, vcpu, event)
        before, after = data["host_counter"]
        first, last, cntpct = data["cntvct"], data["cntvct_after"], data["cntpct"]
        between = u64(last - first)
        if between > after - before:  # it moved between the two reads: what the second one says of the first is lost
            between = 0
            took = Span(0, after - before)
        else:
            took = Span(0, between)
        counts = {"cntvct": Count(first, self.instant(event, (before, after - between)))}
        apart = None
        if cntpct is not None:
            counts["cntpct"] = Count(cntpct, self.instant(event, (before, after)))
            apart = through_zero(Span.of(u64(cntpct - first)) - took)
        return Reading(
            self.looks[-1].step, vm, vcpu, event.kind, counts, Rate(), apart=apart, pauses=self.pauses,
            moves=self.unbroken.moves(vm, vcpu), in_run=which in self.in_run,
            fresh=vm not in self.ran, away=self.away.get(vm),
        )  # fmt: skip


def answers(asked: dict[str, Any], result: Any) -> Iterator[tuple[str, int]]:
    """The registers that a call, or the guest itself, has read one by one, and what they were."""
    match asked["op"]:
        case "GetOneReg":
            yield REGISTERS.get(asked["id"], f"register {asked['id']:#x}"), result
        case "GetVcpuAttr":
            group, attr = asked["group"], asked["attr"]
            yield ATTRIBUTES.get((group, attr), f"attribute {group}/{attr}"), result
        case "Run":
            for action, got in zip(asked["actions"], result, strict=True):
                if action["action"] == "ReadSysreg":
                    yield action["name"], got
                elif action["action"] == "Hvc":
                    yield from ((f"x{number}", register) for number, register in enumerate(got))
