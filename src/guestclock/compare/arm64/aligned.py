"""arm64: the model at the instants of a real run.

KVM_ARM_SET_COUNTER_OFFSET is exact by itself. What a write by value made of an offset lies in its sandwich; the
hypercall of PTP tells it to the tick, as its wall clock and its counter are of one instant. Where the offset is known,
that hypercall gives away when the VMM read the wall clock.
"""

from __future__ import annotations

from typing import Any

from guestclock.arith import u64
from guestclock.compare.aligned import Aligned, Circumstances
from guestclock.kvm.api import Kick, Op, Peek, Start, Wait
from guestclock.kvm.model import lookup
from guestclock.kvm.model.arm64 import Arm64Kvm
from guestclock.machine import Arm64Machine, Arm64Spec
from guestclock.runs.readings import hypercalls
from guestclock.sim import PS_PER_NS, Trace, cp

NS_PER_S = 10**9


def run_aligned(
    real: Trace, program: dict[str, Any], profile: str, circumstances: Circumstances | None = None
) -> Trace:
    """The model's trace of `program` under `profile`, at the instants of `real`. Raises NotAligned."""
    return Arm64Aligned(real, program, profile, circumstances or Circumstances()).run()


class Arm64Aligned(Aligned):
    """A program on the model of arm64."""

    kvm: Arm64Kvm
    spinning: list[Start]
    """What is in KVM_RUN until it is kicked."""

    def __init__(self, real: Trace, program: dict[str, Any], profile: str, told: Circumstances) -> None:
        super().__init__(real, program, told)
        spec = Arm64Spec(
            counter_hz=self.counter.hz,
            counter_at_start=self.counter.start,
            vhe=told.vhe,
            cpus=real.meta.get("cpus", 1),
            uptime_ns=self.first_read("monotonic", 1_000 * NS_PER_S),
            realtime_ns=self.first_read("realtime", 1_760_000_000 * NS_PER_S),
        )
        self.machine = Arm64Machine(self.timeline, spec, scheduler=self.scheduler)
        self.trace.meta |= {"kernel": profile, "arch": "arm64", "counter_hz": spec.counter_hz}
        self.kvm = Arm64Kvm(self.machine, lookup(profile), self.scheduler, self.trace.emit)
        self.spinning = []

    def given_away(self) -> list[int]:
        """By the wall clock that a hypercall tied to the counter last, where the VM was given one offset.

        A clock that somebody has set since was not where this says, and its reading not in its sandwich.
        """
        offsets = {e.data["op"]["offset"] for e in self.real.of("op") if e.name == "SetCounterOffset"}
        ties = list(hypercalls(self.real).values())
        if len(offsets) != 1 or not ties:
            return []
        (offset,), (realtime_ns, count) = offsets, ties[-1]
        passed = [e.data["value"] - realtime_ns for e in self.real.of("host") if e.name == "realtime"]
        return sorted(u64(count + offset + (ns * self.counter.hz + NS_PER_S // 2) // NS_PER_S) for ns in passed)

    async def before(self, op: Op, instants: list[int]) -> list[int]:
        """On a host of one CPU the VMM's call takes it from every vCPU in KVM_RUN; they get it back when it is done."""
        if self.machine.cpus == 1 and not isinstance(op, Wait | Peek | Kick):
            await self.until(instants[0])
            for started in self.spinning:
                vcpu = self.kvm.vcpu(started)
                vcpu.preempted_ns = (instants[-1] - self.timeline.now_ps) // PS_PER_NS + 1
                vcpu.preempted = True
                await cp("preempted by the VMM", until=lambda vcpu=vcpu: not vcpu.preempted)  # type: ignore[misc]
        return instants

    async def after(self, op: Op) -> None:
        if isinstance(op, Start):
            self.spinning.append(op)
        elif isinstance(op, Kick):
            self.spinning = [s for s in self.spinning if (s.vm, s.vcpu) != (op.vm, op.vcpu)]
