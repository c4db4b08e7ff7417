"""x86's steps: TSC, kvmclock, MSRs. What a verb does when it is played is in `guestclock.vmm.steps`."""

from __future__ import annotations

from functools import partial
from typing import Literal

import msgspec

from guestclock.scenario import verb as verbs
from guestclock.scenario.quantity import Cycles, Nanoseconds, Number
from guestclock.scenario.situation import Situation, Wrong
from guestclock.scenario.verb import LAB, MODEL, OnVcpus, Verb, as_saved
from guestclock.scenario.verbs import common
from guestclock.vmm.clocks import X86_64

MIN_KHZ = 1_000
MAX_KHZ = 2**32 - 1

verb = partial(verbs.verb, arch=(X86_64,))


def check_khz(key: str, khz: int, *, zero: bool) -> None:
    if khz == 0 and zero:
        return
    if not MIN_KHZ <= khz <= MAX_KHZ:
        # A scaled rate of 0 kHz never leaves kvm_get_time_scale(): an unkillable loop in the kernel (until 6.16).
        also = "0 (the host's rate) or " if zero else ""
        raise Wrong(key, f"{khz} kHz, expected {also}{MIN_KHZ} to {MAX_KHZ} kHz (near zero can hang a host)")


# ---- what the VMM does


@verb("vmm", "get-tsc")
class GetTsc(OnVcpus):
    save: str | None = msgspec.field(name="as", default=None)

    def sentence(self) -> str:
        return f"{self.who}: MSR_IA32_TSC is read{as_saved(self.save)}"


@verb("vmm", "set-tsc")
class SetTsc(OnVcpus):
    value: Cycles

    def sentence(self) -> str:
        return f"{self.who}: MSR_IA32_TSC := {self.value}"


@verb("vmm", "get-tsc-offset")
class GetTscOffset(OnVcpus):
    save: str | None = msgspec.field(name="as", default=None)

    def sentence(self) -> str:
        return f"{self.who}: the TSC offset is read{as_saved(self.save)}"


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
class ReadClock(common.ReadClock):
    clock: Literal["tsc", "realtime", "monotonic", "monotonic_raw", "boottime"]


@verb("vmm", "get-clock")
class GetClock(Verb):
    """As `name`, `name.realtime` (both ns) and `name.host_tsc` (cycles)."""

    save: str | None = msgspec.field(name="as", default=None)

    def sentence(self) -> str:
        return f"KVM_GET_CLOCK{as_saved(self.save)}"

    def saves(self, now: Situation, name: str, acting: tuple[int, ...]) -> None:
        now.save(name, "ns")
        now.save(f"{name}.realtime", "ns")
        now.save(f"{name}.host_tsc", now.counts)


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


@verb("vmm", "stop-all-tscs", on={MODEL})
class StopAllTscs(Verb):
    """The assistance that was asked for in 2010 and never came (overlay stop-all-tscs)."""

    save: str | None = msgspec.field(name="as", default=None)

    def sentence(self) -> str:
        return f"the kernel stops every vCPU's TSC at one instant{as_saved(self.save)}"


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
        return f"{self.who}: the guest reads its clocks{as_saved(self.save)}"

    def saves(self, now: Situation, name: str, acting: tuple[int, ...]) -> None:
        now.save(name, now.counts, acting)
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
        return f"{self.who}: the guest reads MSR {self.index:#x}{as_saved(self.save)}"


@verb("guest", "clear-stopped")
class ClearStopped(OnVcpus):
    def sentence(self) -> str:
        return f"{self.who}: the guest clears GUEST_STOPPED in its page"


@verb("guest", "enter-l2", on={MODEL})
class EnterL2(common.EnterL2):
    """value: the TSC offset of the nested guest. ratio: its TSC ratio, in the host's fraction bits."""

    ratio: int | None = None

    def acting(self, now: Situation) -> tuple[int, ...]:
        if self.ratio is not None:
            if now.tsc_scaling is None:
                raise Wrong("ratio", f"{self.ratio:#x}: this host scales no TSC, expected tsc_scaling in [host]")
            most, one = ("2^64", 48) if now.tsc_scaling == "vmx" else ("2^40", 32)
            if not 0 < self.ratio < 1 << int(most[2:]):
                raise Wrong("ratio", f"{self.ratio}, expected 1 to {most} - 1: 2^{one} is 1.0 on this host")
        return super().acting(now)

    def sentence(self) -> str:
        scaled = "" if self.ratio is None else f" and ratio {self.ratio:#x}"
        return f"{self.who}: the guest enters an L2 with TSC offset {self.value}{scaled}"


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


@verb("host", "sleep", on={MODEL, LAB})
class Sleep(common.Sleep):
    """tsc: what the counter does meanwhile: "running", "stopped" or "reset" (starts again at 0).

    kind: "s3", or "s2idle", in which it can but run. A lab's TSC runs on, and it has no CPU state for s2idle.
    """

    tsc: Literal["running", "stopped", "reset"] = "running"
    kind: Literal["s3", "s2idle"] | None = None

    def can_be_done_on(self) -> frozenset[str]:
        return self.runs_on if self.tsc == "running" and self.kind != "s2idle" else self.runs_on - {LAB}

    def acting(self, now: Situation) -> tuple[int, ...]:
        if self.kind == "s2idle" and self.tsc != "running":
            raise Wrong("tsc", f"{self.tsc!r}, expected 'running' in s2idle, which takes no hardware down")
        return ()

    def sentence(self) -> str:
        how = {"running": "counts on", "stopped": "stands still", "reset": "starts again at 0"}[self.tsc]
        idle = " in s2idle" if self.kind == "s2idle" else ""
        return f"the host sleeps for {self.value}{idle}; its TSC {how}"


def _msr(index: int) -> None:
    if not 0 <= index < 2**32:
        raise Wrong("index", f"{index}, expected an MSR's index, 0 to 0xffffffff")
