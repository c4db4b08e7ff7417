"""The steps a scenario may take: each verb's keys, what they mean, and the sentence a reader is shown.

What a verb does when it is played is in `guestclock.vmm.steps`.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from guestclock.scenario.quantity import Cycles, Duration, Nanoseconds, Number, Step
from guestclock.scenario.situation import Situation, Wrong
from guestclock.scenario.verb import ANYWHERE, LAB, MODEL, VERBS, OnVcpus, Verb, verb

MIN_KHZ = 1_000
MAX_KHZ = 2**32 - 1
MAX_VCPUS = 64


def check_khz(key: str, khz: int, *, zero: bool) -> None:
    if khz == 0 and zero:
        return
    if not MIN_KHZ <= khz <= MAX_KHZ:
        # A scaled rate of 0 kHz never leaves kvm_get_time_scale(): an unkillable loop in the kernel (until 6.16).
        also = "0 (the host's rate) or " if zero else ""
        raise Wrong(key, f"{khz} kHz, expected {also}{MIN_KHZ} to {MAX_KHZ} kHz (near zero can hang a host)")


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


@verb("vmm", "kick")
class Kick(OnVcpus):
    def sentence(self) -> str:
        return f"{self.who}: kicked out of KVM_RUN"

    def acting(self, now: Situation) -> tuple[int, ...]:
        chosen = self.vcpu.among(now.vcpus) if self.vcpu.chosen else tuple(sorted(now.running_since))
        for index in chosen:
            now.need_vcpu(index)
            if index not in now.running_since:
                raise Wrong("vcpu", f"vCPU {index} is not in KVM_RUN: 'start' it first")
        if not chosen:
            raise Wrong("vcpu", "no vCPU is in KVM_RUN: 'start' one first")
        return chosen

    def after(self, now: Situation) -> None:
        for index in self.acting(now):
            del now.running_since[index]


@verb("vmm", "get-tsc")
class GetTsc(OnVcpus):
    save: str | None = msgspec.field(name="as", default=None)

    def sentence(self) -> str:
        return f"{self.who}: MSR_IA32_TSC is read{_as(self.save)}"


@verb("vmm", "set-tsc")
class SetTsc(OnVcpus):
    value: Cycles

    def sentence(self) -> str:
        return f"{self.who}: MSR_IA32_TSC := {self.value}"


@verb("vmm", "get-tsc-offset")
class GetTscOffset(OnVcpus):
    save: str | None = msgspec.field(name="as", default=None)

    def sentence(self) -> str:
        return f"{self.who}: the TSC offset is read{_as(self.save)}"


@verb("vmm", "set-tsc-offset")
class SetTscOffset(OnVcpus):
    value: Cycles

    def sentence(self) -> str:
        return f"{self.who}: TSC offset := {self.value}"


@verb("vmm", "set-tsc-adjust")
class SetTscAdjust(OnVcpus):
    value: Cycles

    def sentence(self) -> str:
        return f"{self.who}: MSR_IA32_TSC_ADJUST := {self.value}, by the VMM"


@verb("vmm", "set-tsc-khz")
class SetTscKhz(OnVcpus):
    khz: int
    scope: Literal["vm", "vcpu"] = "vcpu"

    def acting(self, now: Situation) -> tuple[int, ...]:
        check_khz("khz", self.khz, zero=True)
        return () if self.scope == "vm" else super().acting(now)

    def sentence(self) -> str:
        who = "the VM" if self.scope == "vm" else self.who
        return f"{who}: TSC rate := {self.khz} kHz" if self.khz else f"{who}: TSC rate := the host's"


@verb("vmm", "get-tsc-khz")
class GetTscKhz(OnVcpus):
    def sentence(self) -> str:
        return f"{self.who}: the TSC rate is read"


@verb("vmm", "read-clock")
class ReadClock(Verb):
    """The host's clock, as a VMM reads it."""

    clock: Literal["tsc", "realtime", "monotonic", "monotonic_raw", "boottime"]
    save: str | None = msgspec.field(name="as", default=None)

    def sentence(self) -> str:
        return f"the VMM reads the host's {self.clock}{_as(self.save)}"

    def saves(self, now: Situation, name: str, acting: tuple[int, ...]) -> None:
        now.save(name, "cycles" if self.clock == "tsc" else "ns")


@verb("vmm", "get-clock")
class GetClock(Verb):
    """As `name`, `name.realtime` (both ns) and `name.host_tsc` (cycles)."""

    save: str | None = msgspec.field(name="as", default=None)

    def sentence(self) -> str:
        return f"KVM_GET_CLOCK{_as(self.save)}"

    def saves(self, now: Situation, name: str, acting: tuple[int, ...]) -> None:
        now.save(name, "ns")
        now.save(f"{name}.realtime", "ns")
        now.save(f"{name}.host_tsc", "cycles")


@verb("vmm", "set-clock")
class SetClock(Verb):
    """realtime: sent along with the REALTIME flag; KVM adds what passed since then."""

    value: Nanoseconds
    realtime: Nanoseconds | None = None

    def sentence(self) -> str:
        as_of = "" if self.realtime is None else f", as of realtime {self.realtime}"
        return f"KVM_SET_CLOCK := {self.value}{as_of}"


@verb("vmm", "enable-kvmclock")
class EnableKvmclock(OnVcpus):
    old: bool = False

    def sentence(self) -> str:
        return f"{self.who}: the kvmclock page is registered{' by the old MSR 0x12' if self.old else ''}"


@verb("vmm", "kvmclock-ctrl")
class KvmclockCtrl(OnVcpus):
    def sentence(self) -> str:
        return f"{self.who}: KVM_KVMCLOCK_CTRL, the guest shall know that it was stopped"


@verb("vmm", "set-msr")
class SetMsr(OnVcpus):
    index: int
    value: Number

    def acting(self, now: Situation) -> tuple[int, ...]:
        _msr(self.index)
        return super().acting(now)

    def sentence(self) -> str:
        return f"{self.who}: MSR {self.index:#x} := {self.value}, by the VMM"


@verb("vmm", "move-to-cpu")
class MoveToCpu(OnVcpus):
    cpu: int

    def acting(self, now: Situation) -> tuple[int, ...]:
        if self.cpu < 0:
            raise Wrong("cpu", f"{self.cpu}, expected a physical CPU, counted from 0")
        return super().acting(now)

    def sentence(self) -> str:
        return f"{self.who}: moves to physical CPU {self.cpu}"


@verb("vmm", "stop-all-tscs", on={MODEL})
class StopAllTscs(Verb):
    """The assistance that was asked for in 2010 and never came (overlay stop-all-tscs)."""

    save: str | None = msgspec.field(name="as", default=None)

    def sentence(self) -> str:
        return f"the kernel stops every vCPU's TSC at one instant{_as(self.save)}"


@verb("vmm", "start-all-tscs", on={MODEL})
class StartAllTscs(Verb):
    value: Cycles

    def sentence(self) -> str:
        return f"the kernel starts every vCPU's TSC from {self.value}, at one instant"


@verb("vmm", "xen-shared-info-init")
class XenSharedInfoInit(Verb):
    def sentence(self) -> str:
        return "the Xen shared info page is set up"


# ---- what the guest does


@verb("guest", "read")
class Read(OnVcpus):
    """As `name` (its TSC, cycles) and `name.kvmclock` (ns)."""

    save: str | None = msgspec.field(name="as", default=None)

    def sentence(self) -> str:
        return f"{self.who}: the guest reads its clocks{_as(self.save)}"

    def saves(self, now: Situation, name: str, acting: tuple[int, ...]) -> None:
        now.save(name, "cycles", acting)
        now.save(f"{name}.kvmclock", "ns")


@verb("guest", "write-tsc")
class WriteTsc(OnVcpus):
    value: Cycles

    def sentence(self) -> str:
        return f"{self.who}: the guest writes MSR_IA32_TSC := {self.value}"


@verb("guest", "write-tsc-adjust")
class WriteTscAdjust(OnVcpus):
    value: Cycles

    def sentence(self) -> str:
        return f"{self.who}: the guest writes MSR_IA32_TSC_ADJUST := {self.value}"


@verb("guest", "write-msr")
class WriteMsr(OnVcpus):
    index: int
    value: Number

    def acting(self, now: Situation) -> tuple[int, ...]:
        _msr(self.index)
        return super().acting(now)

    def sentence(self) -> str:
        return f"{self.who}: the guest writes MSR {self.index:#x} := {self.value}"


@verb("guest", "read-msr")
class ReadMsr(OnVcpus):
    index: int
    save: str | None = msgspec.field(name="as", default=None)

    def acting(self, now: Situation) -> tuple[int, ...]:
        _msr(self.index)
        return super().acting(now)

    def sentence(self) -> str:
        return f"{self.who}: the guest reads MSR {self.index:#x}{_as(self.save)}"


@verb("guest", "clear-stopped")
class ClearStopped(OnVcpus):
    def sentence(self) -> str:
        return f"{self.who}: the guest clears GUEST_STOPPED in its page"


@verb("guest", "enter-l2", on={MODEL})
class EnterL2(OnVcpus):
    """value: the TSC offset of the nested guest. ratio: its TSC ratio, in the host's fraction bits."""

    value: Cycles
    ratio: int | None = None

    def sentence(self) -> str:
        scaled = "" if self.ratio is None else f" and ratio {self.ratio:#x}"
        return f"{self.who}: the guest enters an L2 with TSC offset {self.value}{scaled}"


@verb("guest", "exit-l2", on={MODEL})
class ExitL2(OnVcpus):
    def sentence(self) -> str:
        return f"{self.who}: the L2 exits to its hypervisor"


# ---- what happens to the host


@verb("host", "clocksource", on={MODEL, LAB})
class Clocksource(Verb):
    to: Literal["tsc", "hpet", "acpi_pm", "kvm-clock", "hyperv"]

    def sentence(self) -> str:
        return f"the host's clocksource becomes {self.to}"


@verb("host", "mark-tsc-unstable", on={MODEL})
class MarkTscUnstable(Verb):
    def sentence(self) -> str:
        return "the host finds its TSC unstable"


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


@verb("host", "sleep", on={MODEL})
class Sleep(Verb):
    """tsc: what the counter does meanwhile: "running", "stopped" or "reset" (starts again at 0)."""

    value: Duration
    tsc: Literal["running", "stopped", "reset"] = "running"

    def sentence(self) -> str:
        how = {"running": "counts on", "stopped": "stands still", "reset": "starts again at 0"}[self.tsc]
        return f"the host sleeps for {self.value}; its TSC {how}"


def _as(save: str | None) -> str:
    return "" if save is None else f", as ${save}"


def _msr(index: int) -> None:
    if not 0 <= index < 2**32:
        raise Wrong("index", f"{index}, expected an MSR's index, 0 to 0xffffffff")


# VERBS is complete once this module is loaded: take it from here, not from `verb`.
__all__ = ["MAX_VCPUS", "VERBS", "Sleep", "Wait", "check_khz"]
