"""An arm64 guest's story: counters by value, offsets, and what a running vCPU still counts with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestclock.abi import arm64 as abi
from guestclock.arith import s64, u64
from guestclock.checks.arm64.state import effect_of
from guestclock.checks.outcome import Call
from guestclock.checks.story import Rule, Step
from guestclock.checks.telling import Teller, rule_at
from guestclock.kvm.model import lookup

COUNTS = (abi.KVM_REG_ARM_TIMER_CNT, abi.KVM_REG_ARM_PTIMER_CNT)
HOST_CALLS = ("StepRealtime", "AdjustFrequency", "HostSleep")
NAMES = {"cntvct": abi.KVM_REG_ARM_TIMER_CNT, "cntpct": abi.KVM_REG_ARM_PTIMER_CNT}


class Arm64Teller(Teller):
    """Tells of CNTVCT and CNTPCT."""

    def clock_of(self, property_: str) -> str:
        return "cntpct" if property_.startswith("cntpct") else "cntvct"

    def reading(self, window: Any, units: int) -> Step:
        world = self.outcome.world
        read = {clock: u64(window.read(clock, world, units)) for clock in ("cntvct", "cntpct")}
        data = {"clock": self.clock, **read, "physical": window.physical, "value": read[self.clock]}
        return Step(units, 1 << 30, "guest", "read", window.site, window.vm, window.vcpu, data)

    def matters(self, call: Call) -> bool:
        op: Any = call.op
        if call.error or op.name in HOST_CALLS:
            return True
        if op.name == "ReadHostClock":
            return op.clock in ("counter", "realtime")
        if (call.site, getattr(op, "vm", None)) not in self.vms:
            return False
        if op.name in ("GetOneReg", "SetOneReg"):
            return op.id == NAMES[self.clock] or (op.name == "SetOneReg" and op.id in COUNTS)
        if op.name == "SetVcpuAttr":
            return bool(op.group == abi.KVM_ARM_VCPU_TIMER_CTRL)
        return op.name in ("SetCounterOffset", "CreateVcpu", "MoveToCpu", "Preempt")

    def moved(self, which: tuple[int, int], number: int) -> bool:
        before, after = self.watch.around(which, number, number)
        if before is None or after is None:
            return before is not after
        return bool((before.voffsets, before.poffsets) != (after.voffsets, after.poffsets))

    def effect(self, before: Any, after: Any, vcpu: int | None) -> dict[str, Any]:
        return effect_of(before, after)

    def changes(self, calls: list[Step]) -> Iterator[Step]:
        """A vCPU that is in its guest, and there counts with an offset that KVM has replaced."""
        for window in self.windows:
            which = window.site, window.vm
            last = window.closer if window.closer is not None else len(self.world.events) - 1
            for number in range(window.opener + 1, last):
                if self.moved(which, number):
                    _, after = self.watch.around(which, number, number)
                    kept = after.voffsets if self.clock == "cntvct" else after.poffsets
                    shown = window.voffset if self.clock == "cntvct" else window.poffset
                    if window.vcpu < len(kept) and kept[window.vcpu] != shown:
                        data = {"offset": s64(shown), "kept": s64(kept[window.vcpu])}
                        event = self.world.events[number]
                        yield Step(self.values[event.end], number, "kvm", "stale", *which, window.vcpu, data)
                    break

    def rules(self, steps: list[Step]) -> Iterator[Rule]:
        from guestclock.kvm.model.arm64 import profile as hooks

        profile = lookup(self.spec.kernel)
        ops = [s.data["op"] for s in steps if s.kind == "call"]
        if any(op["op"] == "CreateVcpu" for op in ops):
            yield rule_at(profile, hooks.creation_offsets)
        if any(op["op"] == "SetOneReg" for op in ops):
            yield rule_at(profile, hooks.write_counter)
        if any(op["op"] == "SetVcpuAttr" for op in ops):
            yield rule_at(profile, hooks.set_offset_attribute)

    def saved(self, op: Any, answer: Any) -> tuple[str, int] | None:
        if op.name == "GetOneReg" and op.id in COUNTS and isinstance(answer, int):
            return str(op.id), answer
        return None

    def written(self, op: dict[str, Any]) -> tuple[str, int] | None:
        if op["op"] == "SetOneReg" and op["id"] in COUNTS:
            return str(op["id"]), op["value"]
        return None

    def writes(self, op: dict[str, Any]) -> bool:
        return op["op"] in ("SetCounterOffset", "SetVcpuAttr") or (op["op"] == "SetOneReg" and op["id"] in COUNTS)
