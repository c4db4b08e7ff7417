"""Reads an x86 guest's trace: TSCs with their rates, pages, KVM_GET_CLOCK."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from typing import Any

from guestclock.abi.msr import MSR_IA32_TSC, MSR_IA32_TSC_ADJUST, SYSTEM_TIME_MSRS
from guestclock.abi.pvclock import PvclockVcpuTimeInfo
from guestclock.arith import tsc_khz_tolerance, tsc_ratio
from guestclock.check.reader.base import Reader
from guestclock.check.story import CLOCK_HOST_TSC, Count, Rate, Reading, VmClock
from guestclock.errors import UserError
from guestclock.sim.trace import Event, Trace
from guestclock.vmm.clocks import X86_64

HARMLESS = ("ReadClocks", "Rdmsr", "ClearGuestStopped")
"""What a guest can do without moving its TSC."""


class X86Reader(Reader):
    """Raises UserError where the trace's first line does not say the host's TSC rate."""

    arch, counter = X86_64, "tsc"

    def __init__(self, trace: Trace) -> None:
        khz = trace.meta.get("tsc_khz")
        if not isinstance(khz, int) or khz <= 0:
            raise UserError(f"trace: tsc_khz: expected the host's TSC rate in kHz, got {khz!r}")
        hz = Fraction(trace.meta.get("tsc_hz") or khz * 1000)
        super().__init__(trace, hz, khz * 1000, trace.meta.get("tsc_start"))
        self.khz = khz
        self.frac_bits = trace.meta.get("tsc_frac_bits") or 0
        self.ppm = trace.meta.get("tsc_tolerance_ppm", 250)
        self.default_rate = Rate()
        self.rates: dict[tuple[int, int], Rate] = {}
        self.pages: Counter[tuple[int, int]] = Counter()
        self.stopped = False

    def trusted(self) -> bool:
        return bool(self.trace.meta.get("clocksource", "tsc") == "tsc")

    def moves(self, event: Event, asked: dict[str, Any]) -> None:
        vm, vcpu = asked.get("vm", -1), asked.get("vcpu")
        match event.name:
            case "SetMsr" if asked["index"] in (MSR_IA32_TSC, MSR_IA32_TSC_ADJUST):
                self.unbroken.moved(vm, vcpu)
            case "SetTscOffset" | "MoveToCpu":
                self.unbroken.moved(vm, vcpu)
            case "Run" if any(a["action"] not in HARMLESS for a in asked["actions"]):
                self.unbroken.moved(vm, vcpu)
            case "SetTscKhz":
                self.unbroken.leave_out(vm, vcpu)
            case "HostSleep" | "MarkTscUnstable" | "SetClocksource" | "StopAllTscs" | "StartAllTscs":
                self.unbroken.all_moved()

    def done(self, event: Event, asked: dict[str, Any], result: Any) -> None:
        vcpu: Any = asked.get("vcpu")
        match event.name:
            case "CreateVcpu":
                self.rates[asked["vm"], result] = self.default_rate
            case "SetTscKhz" if vcpu is None:
                self.default_rate = self.rate(asked["khz"])
            case "SetTscKhz":
                self.rates[asked["vm"], vcpu] = self.rate(asked["khz"])
            case "HostSleep" if asked.get("tsc", "running") != "running":
                self.line, self.anchor = self.line + 1, None
            case "StopAllTscs" | "StartAllTscs":
                self.stopped = event.name == "StopAllTscs"
                self.pauses += 1
            case "Run":
                registered = [a for a in asked["actions"] if a["action"] == "Wrmsr" and a["index"] in SYSTEM_TIME_MSRS]
                self.pages[asked["vm"], vcpu] += len(registered)
            case "EnableKvmclock":
                self.pages[asked["vm"], vcpu] += 1
            case "SetMsr" if asked["index"] in SYSTEM_TIME_MSRS:
                self.pages[asked["vm"], vcpu] += 1
            case "GetClock":
                host_tsc = result["host_tsc"] if result["flags"] & CLOCK_HOST_TSC else None
                when = self.instant(event, None if host_tsc is None else (host_tsc, host_tsc))
                self.looks[-1].clock = VmClock(result["clock_ns"], result["flags"], result["realtime_ns"], when)

    def seen(self, event: Event) -> Reading:
        data, vcpu = event.data, event.vcpu
        assert vcpu is not None
        which = vm, _ = data.get("vm", self.vm), vcpu
        self.pauses += self.stopped
        return Reading(
            self.looks[-1].step, vm, vcpu, event.kind,
            {"tsc": Count(data["tsc"], self.instant(event, data["host_tsc"]))}, self.rates.get(which, Rate()),
            page=PvclockVcpuTimeInfo(**data["page"]) if data["page"] else None, kvmclock_ns=data["kvmclock_ns"],
            pauses=self.pauses, moves=self.unbroken.moves(vm, vcpu), pages=self.pages[which],
            in_run=which in self.in_run,
        )  # fmt: skip

    def rate(self, khz: int) -> Rate:
        """What a successful KVM_SET_TSC_KHZ makes of a guest's rate: nothing within tolerance, or without scaling."""
        lo, hi = tsc_khz_tolerance(self.khz, self.ppm)
        if khz == 0 or lo <= khz <= hi or not self.frac_bits:
            return Rate()
        return Rate(tsc_ratio(khz, self.khz, self.frac_bits), self.frac_bits)
