"""arm64's steps: counters by value and by offset, timers' registers. What they do is in `guestclock.vmm.steps`."""

from __future__ import annotations

from functools import partial
from typing import Literal

import msgspec

from guestclock.scenario import verb as verbs
from guestclock.scenario.quantity import Cycles, Duration
from guestclock.scenario.situation import Situation, Wrong
from guestclock.scenario.verb import LAB, MODEL, OnVcpus, Verb, as_saved
from guestclock.scenario.verbs import common
from guestclock.vmm.clocks import ARM64

verb = partial(verbs.verb, arch=(ARM64,))

Timer = Literal["virtual", "physical"]
Register = Literal["TIMER_CTL", "TIMER_CNT", "TIMER_CVAL", "PTIMER_CTL", "PTIMER_CVAL", "PTIMER_CNT"]
"""Those of `abi.arm64.TIMER_REGS`."""

Sysreg = Literal[
    "CNTFRQ_EL0", "CNTPCT_EL0", "CNTVCT_EL0", "CNTP_TVAL_EL0", "CNTP_CTL_EL0", "CNTP_CVAL_EL0", "CNTV_TVAL_EL0",
    "CNTV_CTL_EL0", "CNTV_CVAL_EL0",
]  # fmt: skip
"""Those of `abi.arm64.GUEST_SYSREGS`."""

U64_MAX = 2**64 - 1


# ---- what the VMM does


class _Counter(OnVcpus, kw_only=True):
    """By value, of the virtual timer's counter (CNTVCT) or the physical one's (CNTPCT; KVM has it since 6.4)."""

    timer: Timer = "virtual"

    @property
    def register(self) -> str:
        return "TIMER_CNT" if self.timer == "virtual" else "PTIMER_CNT"


@verb("vmm", "get-counter")
class GetCounter(_Counter):
    save: str | None = msgspec.field(name="as", default=None)

    def sentence(self) -> str:
        return f"{self.who}: {self.register} is read{as_saved(self.save)}"


@verb("vmm", "set-counter")
class SetCounter(_Counter):
    value: Cycles

    def sentence(self) -> str:
        return f"{self.who}: {self.register} := {self.value}"


@verb("vmm", "set-counter-offset")
class SetCounterOffset(Verb):
    """reserved: 0, or KVM refuses it."""

    value: Cycles
    reserved: int = 0

    def acting(self, now: Situation) -> tuple[int, ...]:
        _register("reserved", self.reserved)
        return ()

    def sentence(self) -> str:
        reserved = f", reserved {self.reserved}" if self.reserved else ""
        return f"SET_COUNTER_OFFSET := {self.value}{reserved}"


@verb("vmm", "get-reg")
class GetReg(OnVcpus):
    reg: Register
    save: str | None = msgspec.field(name="as", default=None)

    def sentence(self) -> str:
        return f"{self.who}: {self.reg} is read{as_saved(self.save)}"


@verb("vmm", "set-reg")
class SetReg(OnVcpus):
    reg: Register
    value: Cycles

    def sentence(self) -> str:
        return f"{self.who}: {self.reg} := {self.value}"


@verb("vmm", "init")
class Init(OnVcpus):
    def sentence(self) -> str:
        return f"{self.who}: KVM_ARM_VCPU_INIT once more, as for a reset"


class _TimerOffset(OnVcpus, kw_only=True):
    """The vCPU attributes of 2021, which no kernel has: with the overlay timer-offset-v2 only."""

    timer: Timer = "virtual"

    @property
    def attribute(self) -> str:
        return "OFFSET_VTIMER" if self.timer == "virtual" else "OFFSET_PTIMER"


@verb("vmm", "get-timer-offset")
class GetTimerOffset(_TimerOffset):
    save: str | None = msgspec.field(name="as", default=None)

    def sentence(self) -> str:
        return f"{self.who}: the attribute {self.attribute} is read{as_saved(self.save)}"


@verb("vmm", "set-timer-offset")
class SetTimerOffset(_TimerOffset):
    value: Cycles

    def sentence(self) -> str:
        return f"{self.who}: the attribute {self.attribute} := {self.value}"


@verb("vmm", "create-irqchip")
class CreateIrqchip(Verb):
    def sentence(self) -> str:
        return "the in-kernel vGIC is created and initialised"


@verb("vmm", "preempt", on={MODEL})
class Preempt(common.OnRunning):
    value: Duration

    def sentence(self) -> str:
        return f"{self.who}: the host takes the CPU away for {self.value}"


@verb("vmm", "read-clock")
class ReadClock(common.ReadClock):
    clock: Literal["counter", "realtime", "monotonic", "monotonic_raw", "boottime"]


# ---- what the guest does


@verb("guest", "read")
class Read(OnVcpus):
    """As `name` (CNTVCT, ticks) and `name.cntpct` (ticks)."""

    save: str | None = msgspec.field(name="as", default=None)

    def sentence(self) -> str:
        return f"{self.who}: the guest reads its counters{as_saved(self.save)}"

    def saves(self, now: Situation, name: str, acting: tuple[int, ...]) -> None:
        now.save(name, now.counts, acting)
        now.save(f"{name}.cntpct", now.counts)


@verb("guest", "read-sysreg")
class ReadSysreg(OnVcpus):
    reg: Sysreg
    save: str | None = msgspec.field(name="as", default=None)

    def sentence(self) -> str:
        return f"{self.who}: the guest reads {self.reg}{as_saved(self.save)}"


@verb("guest", "write-sysreg")
class WriteSysreg(OnVcpus):
    reg: Sysreg
    value: Cycles

    def sentence(self) -> str:
        return f"{self.who}: the guest writes {self.reg} := {self.value}"


@verb("guest", "hvc")
class Hvc(OnVcpus):
    """x0: the function; x1 to x3: its arguments. As `name` (x0 afterwards) and `name.x0` to `name.x3`."""

    x0: int
    x1: int = 0
    x2: int = 0
    x3: int = 0
    save: str | None = msgspec.field(name="as", default=None)

    def acting(self, now: Situation) -> tuple[int, ...]:
        for key in ("x0", "x1", "x2", "x3"):
            _register(key, getattr(self, key))
        return super().acting(now)

    def sentence(self) -> str:
        arguments = [self.x0, self.x1, self.x2, self.x3]
        while len(arguments) > 1 and not arguments[-1]:
            arguments.pop()
        return f"{self.who}: the guest's HVC {', '.join(map(hex, arguments))}{as_saved(self.save)}"

    def saves(self, now: Situation, name: str, acting: tuple[int, ...]) -> None:
        now.save(name, now.counts, acting)
        for number in range(4):
            now.save(f"{name}.x{number}", now.counts)


@verb("guest", "enter-l2", on={MODEL})
class EnterL2(common.EnterL2):
    """value: the nested guest's CNTVOFF_EL2, ticks."""

    def sentence(self) -> str:
        return f"{self.who}: the guest enters an L2 with CNTVOFF_EL2 {self.value}"


# ---- what happens to the host


@verb("host", "sleep", on={MODEL, LAB})
class Sleep(common.Sleep):
    """The counter counts on through both kinds: it is always on."""

    kind: Literal["s2idle", "s3"] = "s2idle"

    def sentence(self) -> str:
        return f"the host sleeps for {self.value}{'' if self.kind == 's2idle' else ' in ' + self.kind}"


def _register(key: str, value: int) -> None:
    if not 0 <= value <= U64_MAX:
        raise Wrong(key, f"{value}, expected 0 to 2^64 - 1")
