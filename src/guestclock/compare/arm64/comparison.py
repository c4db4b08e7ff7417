"""arm64: counters, registers, hypercalls and timer tracepoints, real against model.

A vCPU's counter is the host's less an offset. So real offset minus model offset is one number from whatever set it to
whatever sets it anew, and every reading bounds it: by value it lies in the sandwich of the write, by offset it is 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestclock.abi.arm64 import (
    ARM_SMCCC_VENDOR_HYP_KVM_PTP_FUNC_ID,
    KVM_PTP_PHYS_COUNTER,
    KVM_REG_ARM_PTIMER_CNT,
    KVM_REG_ARM_TIMER_CNT,
)
from guestclock.arith import s64
from guestclock.compare.comparison import Comparison, Group, Unknown
from guestclock.sim import Event, Trace

COUNTERS = {KVM_REG_ARM_TIMER_CNT: "cntvct", KVM_REG_ARM_PTIMER_CNT: "cntpct"}
Sandwich = tuple[int, int]

FROM_THE_FIRST = (0, 0)
"""Of a physical counter that nobody has moved: it is the host's."""

PUT_AND_LOAD = [
    "kvm_get_timer_map", "kvm_timer_save_state", "kvm_timer_save_state",
    "kvm_get_timer_map", "kvm_timer_restore_state", "kvm_timer_restore_state",
]  # fmt: skip
"""What a vCPU says that loses its CPU and gets it back."""

MOVES = ("CreateVcpu", "SetCounterOffset", "SetOneReg", "SetVcpuAttr")
"""Operations after which an offset may be another."""


class Arm64Comparison(Comparison):
    """Two arm64 traces of one program."""

    def __init__(self, real: Trace, model: Trace, true_hz: int | None = None) -> None:
        super().__init__(real, model, true_hz)
        self.offsets: dict[tuple[int, int, str], Unknown] = {}
        self.of_vms: dict[tuple[int, str], Sandwich] = {}

    # ---- operations

    def operation(self, real: Event, model: Event) -> None:
        if real.name in MOVES and "error" not in real.data:
            self.moved(real)
        super().operation(real, model)

    def moved(self, real: Event) -> None:
        """A VM's offsets may be others from now on, or not: a write may be ignored, and who is in his guest goes on."""
        asked = real.data["op"]
        clocks: tuple[str, ...] = tuple(COUNTERS.values())
        if real.name == "SetOneReg":
            clocks = (COUNTERS[asked["id"]],) if asked["id"] in COUNTERS else ()
        host, model = self.sandwiches(real)
        lo, hi = (0, 0) if real.name == "SetCounterOffset" else (host[0] - model[1], host[1] - model[0])
        for clock in clocks:
            least, most = self.of_vms.get((asked["vm"], clock), FROM_THE_FIRST)
            self.of_vms[asked["vm"], clock] = min(least, lo), max(most, hi)
            for (vm, _, which), unknown in self.offsets.items():
                if (vm, which) == (asked["vm"], clock):
                    unknown.widen(lo, hi)

    def offset(self, vm: int, vcpu: int, clock: str) -> Unknown:
        """Real offset less the model's: what the VM's can be, and what readings of this vCPU have left of it."""
        if (vm, vcpu, clock) not in self.offsets:
            self.offsets[vm, vcpu, clock] = Unknown()
            self.offsets[vm, vcpu, clock].fits(*self.of_vms.get((vm, clock), FROM_THE_FIRST))
        return self.offsets[vm, vcpu, clock]

    def answer(self, real: Event, answered: Any, model: Any) -> None:
        asked = real.data["op"]
        if real.name == "GetOneReg" and asked["id"] in COUNTERS:
            self.counted(COUNTERS[asked["id"]], asked["vm"], asked["vcpu"], answered, model, *self.sandwiches(real))
        elif real.name == "Run":
            for action, one, other in zip(asked["actions"], answered, model, strict=True):
                self.acted(real, action, one, other)
        else:
            self.same("answer", answered, model)

    def acted(self, event: Event, action: dict[str, Any], real: Any, model: Any) -> None:
        """What one action of the guest's answered."""
        if action["action"] == "ReadCounters":
            self.reading("guest's ", event, real, model)
        elif action["action"] == "Hvc" and action["x0"] == ARM_SMCCC_VENDOR_HYP_KVM_PTP_FUNC_ID and real[0] >> 63 == 0:
            self.ptp(event, action["x1"], real, model)
        elif action["action"] == "ReadSysreg" and ("CNTVCT" in action["name"] or "CNTPCT" in action["name"]):
            clock = "cntvct" if "CNTVCT" in action["name"] else "cntpct"
            self.counted(clock, event.data["op"]["vm"], event.vcpu or 0, real, model, *self.sandwiches(event))
        else:
            told = action.get("name", "")
            self.same(f"guest's {action['action']} {told}".rstrip(), real, model)

    def reading(self, whose: str, event: Event, real: dict[str, Any], model: dict[str, Any]) -> None:
        vm, vcpu = event.data.get("vm", event.data.get("op", {}).get("vm", 0)), event.vcpu or 0
        real_host, model_host = real["host_counter"], model["host_counter"]
        for clock, key in (("cntvct", "cntvct"), ("cntpct", "cntpct"), ("cntvct", "cntvct_after")):
            if real[key] is None or model[key] is None:
                self.same(f"{whose}{key}", real[key], model[key])
            else:
                self.counted(clock, vm, vcpu, real[key], model[key], real_host, model_host, whose)

    def counted(
        self, clock: str, vm: int, vcpu: int, real: int, model: int, host: Sandwich, at: Sandwich, whose: str = ""
    ) -> None:
        """A counter read on the real host somewhere in `host`, on the model in `at`."""
        # real = h - O with h in its sandwich; model = m - o with m in its own.
        lo = s64(host[0] - real - (at[1] - model))
        hi = s64(host[1] - real - (at[0] - model))
        self.bounded(f"{whose}{clock}, ticks", self.offset(vm, vcpu, clock), lo, hi)

    def ptp(self, event: Event, which: int, real: Any, model: Any) -> None:
        """Wall clock and counter of one instant: what the wall clock says is the same line on both, to a tick."""
        vm, vcpu = event.data["op"]["vm"], event.vcpu or 0
        clock = "cntpct" if which == KVM_PTP_PHYS_COUNTER else "cntvct"
        told = real[2] << 32 | real[3], model[2] << 32 | model[3]
        self.counted(clock, vm, vcpu, *told, *self.sandwiches(event), "PTP's ")

    def sandwiches(self, event: Event) -> tuple[Sandwich, Sandwich]:
        """Of the operation's own, on the real host and on the model."""
        model = self.model_event
        return (
            (self.counter.at(event.start_ps), self.counter.at(event.end_ps)),
            (self.counter.at_true(model.start_ps), self.counter.at_true(model.end_ps)),
        )

    # ---- tracepoints

    def real_groups(self) -> Iterator[Group]:
        for operation, points in super().real_groups():
            yield operation, _loaded_once(points) if operation.name == "Run" else points

    def telling(self, groups: Iterator[Group]) -> Iterator[Group]:
        """Without what depends on when the host's interrupts and its scheduler threw a vCPU out.

        Each exit may say a level of an interrupt again, so only its changes are told. A vCPU that is in KVM_RUN to
        stay is put and loaded whenever another thread wants its CPU, so its lines are left out until it is kicked.
        """
        levels: dict[tuple[int | None, int], int] = {}
        spinning: set[int | None] = set()
        for operation, points in groups:
            if operation.name == "Start" and "error" not in operation.data:
                spinning.add(operation.vcpu)
            told = []
            for point in points:
                if point.vcpu in spinning:
                    continue
                if point.name == "kvm_timer_update_irq":
                    which = point.vcpu, point.data["irq"]
                    if levels.get(which) == point.data["level"]:
                        continue
                    levels[which] = point.data["level"]
                told.append(point)
            yield operation, told
            if operation.name == "Kick":
                spinning.discard(operation.vcpu)


def _loaded_once(points: list[Event]) -> list[Event]:
    """Without the put and the load in between: the host's scheduler gave the CPU to another thread for a moment."""
    names = [point.name for point in points]
    for n in range(len(points)):
        away = n + len(PUT_AND_LOAD)
        if names[n:away] == PUT_AND_LOAD and {point.vcpu for point in points[n:away]} == {points[n].vcpu}:
            return points[:n] + _loaded_once(points[away:])
    return points
