"""An x86 guest's story: TSC writes and offsets, pages, snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestclock.abi.msr import MSR_IA32_TSC, MSR_IA32_TSC_ADJUST, MSR_IA32_TSC_DEADLINE
from guestclock.arith import u64
from guestclock.checks.outcome import Call
from guestclock.checks.story import Rule, Step
from guestclock.checks.telling import Teller, rule_at
from guestclock.checks.windows import BEFORE, BOOT
from guestclock.checks.x86.state import effect_of
from guestclock.checks.x86.windows import Window
from guestclock.kvm.model import lookup
from guestclock.kvm.model.x86.profile import masterclock_request, set_clock, snapshot, tsc_matching

WRITES_TSC = ("SetTscOffset", "SetTscKhz", "StartAllTscs", "StopAllTscs")
READS_TSC = ("GetTscOffset",)
CLOCK_CALLS = ("SetClock", "GetClock", "ReadHostClock", "XenSharedInfoInit")
HOST_CALLS = ("SetClocksource", "MarkTscUnstable", "StepRealtime", "AdjustFrequency", "HostSleep")
TSC_MSRS = (MSR_IA32_TSC, MSR_IA32_TSC_ADJUST)


class X86Teller(Teller):
    """Tells of TSCs and kvmclocks."""

    def clock_of(self, property_: str) -> str:
        about = property_.split("-")[0]
        return "tsc" if about == "tsc" or not any(w.has_page for w in self.windows) else "kvmclock"

    def reading(self, window: Window, units: int) -> Step:
        tsc = u64(window.tsc(self.outcome.world, units))
        data: dict[str, Any] = {"clock": self.clock, "tsc": tsc, "stable": window.stable}
        if window.has_page:
            data["kvmclock"] = u64(window.kvmclock(self.outcome.world, units))
        data["value"] = data.get(self.clock, tsc)
        return Step(units, 1 << 30, "guest", "read", window.site, window.vm, window.vcpu, data)

    def others(self) -> Iterator[Step]:
        """Pages of vCPUs that are not in the guest, where the ask compares with them: what they say at its instant."""
        if not self.windows:
            return
        instants = [i.name for i in self.ask.instants] or [self.windows[-1].opened]
        units = max(self.values[symbol] for symbol in instants)
        spans = [s for s in self.outcome.tracker.pages() if s.opener in self.ask.events and s.vcpu not in self.vcpus]
        for span in {s.who: s for s in spans if s.has_page}.values():
            tsc, kvmclock = (u64(read(self.outcome.world, units)) for read in (span.tsc, span.kvmclock))
            data = {"clock": "kvmclock", "tsc": tsc, "kvmclock": kvmclock, "value": kvmclock, "stable": span.stable}
            yield Step(units, (1 << 30) - 1, "kvm", "read", span.site, span.vm, span.vcpu, {**data, "page": True})

    def matters(self, call: Call) -> bool:
        op: Any = call.op
        vm, vcpu = getattr(op, "vm", None), getattr(op, "vcpu", None)
        if call.error or op.name in HOST_CALLS:
            return True
        if op.name == "ReadHostClock":
            return self.clock == "kvmclock" or op.clock == "tsc"
        if vm is None or (call.site, vm) not in self.vms:
            return False
        if op.name in ("GetMsr", "SetMsr"):
            if op.index == MSR_IA32_TSC_DEADLINE:
                return self.question.name.startswith("deadline")
            return op.index in TSC_MSRS and (op.name == "SetMsr" or vcpu in self.vcpus)
        if op.name in READS_TSC:
            return vcpu in self.vcpus
        if op.name in WRITES_TSC or op.name == "CreateVcpu":
            return True
        return self.clock == "kvmclock" and op.name in CLOCK_CALLS

    def moved(self, which: tuple[int, int], number: int) -> bool:
        before, after = self.watch.around(which, number, number)
        if before is None or after is None:
            return before is not after
        return (before.offsets, before.clock_offset) != (after.offsets, after.clock_offset)

    def effect(self, before: Any, after: Any, vcpu: int | None) -> dict[str, Any]:
        return effect_of(before, after, vcpu)

    def changes(self, calls: list[Step]) -> Iterator[Step]:
        """The page each window was read through, and the snapshot that page was made from."""
        if self.clock != "kvmclock":
            return
        seen: set[tuple[int, str, int | None]] = set()
        for window in self.windows:
            page = self.page_of(window)
            if page is None:
                continue
            if window.phase in (BOOT, BEFORE) and window is not self.windows[-1] and self.spec.recipe:
                continue  # made at the boot: what it reads is in the story
            # Without STABLE a page is made from clocks read for it alone.
            taken = self.snapshot_before(window, page.number) if page.data["flags"] & 1 else None
            for step in (taken, page):
                if step is not None and (step.number, step.kind, step.vcpu) not in seen:
                    seen.add((step.number, step.kind, step.vcpu))
                    yield step

    def page_of(self, window: Window) -> Step | None:
        """The last store of the page that the window has."""
        which = window.site, window.vm
        for number in range(window.opener, 0, -1):
            before, after = self.watch.around(which, number, number)
            if after is None or window.vcpu >= len(after.pages):
                return None
            new = after.pages[window.vcpu]
            old = before.pages[window.vcpu] if before is not None and window.vcpu < len(before.pages) else None
            if new is not None and new.version % 2 == 0 and (old is None or old.version != new.version):
                event = self.world.events[number]
                data = {
                    "version": new.version,
                    "tsc": new.tsc_timestamp,
                    "ns": new.system_time,
                    "flags": new.flags,
                    "cause": self.actor(event),
                }
                return Step(self.values[event.end], number, "kvm", "page", *which, window.vcpu, data)
        return None

    def snapshot_before(self, window: Window, until: int) -> Step | None:
        which = window.site, window.vm
        for number in range(until, 0, -1):
            before, after = self.watch.around(which, number, number)
            if after is None:
                return None
            old = None if before is None else (before.stable, before.tsc)
            if old != (after.stable, after.tsc):
                event = self.world.events[number]
                data = {"tsc": after.tsc, "ns": after.ns, "stable": after.stable, "cause": self.actor(event)}
                return Step(self.values[event.end], number, "kvm", "snapshot", *which, None, data)
        return None

    def rules(self, steps: list[Step]) -> Iterator[Rule]:
        profile = lookup(self.spec.kernel)
        ops = [s.data["op"] for s in steps if s.kind == "call"]
        written = [s for s in steps if s.kind == "call" and s.data["op"].get("index") == MSR_IA32_TSC]
        written = [s for s in written if s.data["op"]["op"] == "SetMsr"]
        if (self.clock == "tsc" and written) or any(s.data["effect"].get("matched") is False for s in written[1:]):
            yield rule_at(profile, tsc_matching)
        if self.clock == "kvmclock":
            pages = [s for s in steps if s.kind == "page"]
            if any(not p.data["flags"] & 1 for p in pages):
                yield rule_at(profile, snapshot)
            elif any(s.kind == "snapshot" and s.data["cause"] != "vmm" for s in steps):
                yield rule_at(profile, masterclock_request)
            if any(op["op"] == "SetClock" for op in ops) and "policy" in self.question.name:
                yield rule_at(profile, set_clock)

    def saved(self, op: Any, answer: Any) -> tuple[str, int] | None:
        if op.name == "GetMsr" and op.index == MSR_IA32_TSC and isinstance(answer, int):
            return "tsc", answer
        if op.name == "GetTscOffset" and isinstance(answer, int):
            return "offset", answer
        return ("clock", answer["clock_ns"]) if op.name == "GetClock" and isinstance(answer, dict) else None

    def written(self, op: dict[str, Any]) -> tuple[str, int] | None:
        if op["op"] == "SetMsr" and op["index"] == MSR_IA32_TSC:
            return "tsc", op["data"]
        if op["op"] == "SetTscOffset":
            return "offset", op["offset"]
        return ("clock", op["clock_ns"]) if op["op"] == "SetClock" else None

    def writes(self, op: dict[str, Any]) -> bool:
        return op["op"] == "SetTscOffset" or (op["op"] == "SetMsr" and op["index"] in TSC_MSRS)
