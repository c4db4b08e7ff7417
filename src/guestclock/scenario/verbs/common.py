"""Steps that every architecture has: what they need and mean, and the sentence a reader is shown."""

from __future__ import annotations

from typing import Any

import msgspec

from guestclock.scenario.quantity import Cycles, Duration, Step
from guestclock.scenario.situation import Situation, Wrong
from guestclock.scenario.verb import ANYWHERE, LAB, MODEL, OnVcpus, Verb, as_saved, verb

MAX_VCPUS = 64


def _some_vcpus(key: str, count: int) -> None:
    if not 1 <= count <= MAX_VCPUS:
        raise Wrong(key, f"{count}, expected 1 to {MAX_VCPUS} vCPUs")


# ---- what the VMM does


class Wait(Verb):
    value: Duration = msgspec.field(name="wait")

    def sentence(self) -> str:
        return f"{self.value} pass"


Wait.actor, Wait.name, Wait.runs_on = "vmm", "wait", ANYWHERE


@verb("vmm", "create-vm")
class CreateVm(Verb):
    """The steps after it act on the new VM. vcpus: as many as the first one had, if left out. boot: run each once."""

    count: int | None = msgspec.field(name="vcpus", default=None)
    boot: bool = False

    def sentence(self) -> str:
        with_ = "" if self.count is None else f" with {self.count} vCPU{'s' if self.count != 1 else ''}"
        return f"a new VM{with_}{'' if self.boot else ', not yet run'}"

    def compile(self, now: Situation) -> dict[str, Any]:
        count = now.default_vcpus if self.count is None else self.count
        _some_vcpus("vcpus", count)
        now.new_vm(count)
        return {**super().compile(now), "count": count}


@verb("vmm", "create-vcpu")
class CreateVcpu(Verb):
    count: int = 1

    def sentence(self) -> str:
        return "a vCPU is plugged in" if self.count == 1 else f"{self.count} vCPUs are plugged in"

    def after(self, now: Situation) -> None:
        _some_vcpus("count", self.count)
        now.vcpus += self.count
        _some_vcpus("count", now.vcpus)


@verb("vmm", "run")
class Run(OnVcpus):
    def sentence(self) -> str:
        return f"{self.who}: KVM_RUN, in and out"


@verb("vmm", "start")
class Start(OnVcpus):
    def sentence(self) -> str:
        return f"{self.who}: into KVM_RUN, to stay"

    def after(self, now: Situation) -> None:
        now.running_since |= dict.fromkeys(self.vcpu.among(now.vcpus), now.step)


class OnRunning(OnVcpus, kw_only=True):
    """A step that takes vCPUs in KVM_RUN; all of those if none is named."""

    def acting(self, now: Situation) -> tuple[int, ...]:
        chosen = self.vcpu.among(now.vcpus) if self.vcpu.chosen else tuple(sorted(now.running_since))
        for index in chosen:
            now.need_vcpu(index)
            if index not in now.running_since:
                raise Wrong("vcpu", f"vCPU {index} is not in KVM_RUN: 'start' it first")
        if not chosen:
            raise Wrong("vcpu", "no vCPU is in KVM_RUN: 'start' one first")
        return chosen


@verb("vmm", "kick")
class Kick(OnRunning):
    def sentence(self) -> str:
        return f"{self.who}: kicked out of KVM_RUN"

    def after(self, now: Situation) -> None:
        for index in self.acting(now):
            del now.running_since[index]


class ReadClock(Verb, kw_only=True):
    """The host's clock, as a VMM reads it. An architecture says which there are, its counter among them."""

    clock: str
    save: str | None = msgspec.field(name="as", default=None)

    def sentence(self) -> str:
        return f"the VMM reads the host's {self.clock}{as_saved(self.save)}"

    def saves(self, now: Situation, name: str, acting: tuple[int, ...]) -> None:
        now.save(name, now.counts if self.clock in ("tsc", "counter") else "ns")


@verb("vmm", "move-to-cpu")
class MoveToCpu(OnVcpus):
    cpu: int

    def acting(self, now: Situation) -> tuple[int, ...]:
        if self.cpu < 0:
            raise Wrong("cpu", f"{self.cpu}, expected a physical CPU, counted from 0")
        return super().acting(now)

    def sentence(self) -> str:
        return f"{self.who}: moves to physical CPU {self.cpu}"


# ---- what the guest does


@verb("guest", "exit-l2", on={MODEL})
class ExitL2(OnVcpus):
    def sentence(self) -> str:
        return f"{self.who}: the L2 exits to its hypervisor"

    def acting(self, now: Situation) -> tuple[int, ...]:
        acting = super().acting(now)
        now.exit_l2(acting)
        return acting


class EnterL2(OnVcpus, kw_only=True):
    """value: the offset of the nested guest's counter."""

    value: Cycles

    def acting(self, now: Situation) -> tuple[int, ...]:
        acting = super().acting(now)
        now.enter_l2(acting)
        written = {term.kind for term in self.value.terms}
        if written == {"int"} and not -(1 << 63) <= self.value.literal < 1 << 64:
            raise Wrong("value", f"{self.value}, expected an offset of 64 bits")
        return acting


# ---- what happens to the host


@verb("host", "step-realtime", on={MODEL, LAB})
class StepRealtime(Verb):
    value: Step

    def sentence(self) -> str:
        return f"the host's wall clock is stepped by {self.value}"


@verb("host", "adjust-frequency", on={MODEL, LAB})
class AdjustFrequency(Verb):
    ppb: int

    def acting(self, now: Situation) -> tuple[int, ...]:
        if abs(self.ppb) > 500_000:
            raise Wrong("ppb", f"{self.ppb}, expected -500000 to 500000 (what adjtimex takes)")
        return ()

    def sentence(self) -> str:
        return f"NTP makes the host's clock run {abs(self.ppb)} ppb {'fast' if self.ppb >= 0 else 'slow'}"


class Sleep(Verb, kw_only=True):
    """An architecture says what kinds of it there are, and what the counter may do meanwhile."""

    value: Duration
