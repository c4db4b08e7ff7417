"""x86: TSCs, pages, KVM_GET_CLOCK and tracepoints, real against model."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

from guestclock.abi.ioctl import KVM_CLOCK_TSC_STABLE
from guestclock.arith import s64, tsc_khz_tolerance, u64
from guestclock.compare.aligned import operations
from guestclock.compare.comparison import Comparison, Group, Unknown
from guestclock.kvm.device.x86.tracing import parse_fields
from guestclock.linux.clocksource import clocksource
from guestclock.sim import Event, Trace

GRAIN_CYCLES = (1, 2)


class X86Comparison(Comparison):
    """Two x86 traces of one program."""

    def __init__(self, real: Trace, model: Trace, true_hz: int | None = None) -> None:
        super().__init__(real, model, true_hz)
        self.khz: int = real.meta["tsc_khz"]
        self.true_khz = self.counter.true_hz // 1000
        self.apart_ns: dict[int, int] = {}
        self.sleeps: list[int] = []
        self.offsets: dict[tuple[int | None, int | None], int] = {}
        self.kvmclock, self.raw = Unknown(), Unknown()
        clock = clocksource("tsc", tsc_khz=self.khz)
        self.mult, self.shift = clock.mult, clock.shift
        self.on_tsc: bool = real.meta.get("clocksource", "tsc") == "tsc"

    @property
    def slack_ns(self) -> int:
        """Two readings, each somewhere in its operation; 3 ns for the roundings of two snapshots (kvm-x86.md 7.1)."""
        true_ns = self.widest_ns * self.khz // self.true_khz
        return 2 * (true_ns if true_ns > self.widest_ns else self.widest_ns) + 3

    @property
    def slack_cycles(self) -> int:
        return (2 * self.widest_counter_ns + 3) * self.khz // 10**6 + 1

    # ---- operations

    def operation(self, real: Event, model: Event) -> None:
        if real.name in ("CreateVm", "SetClock", "SetClocksource", "HostSleep"):
            self.kvmclock = Unknown()
        if real.name == "HostSleep":
            self.raw = Unknown()
        if real.name == "SetClocksource" and "error" not in real.data:
            self.raw = Unknown()
            self.on_tsc = real.data["op"]["clocksource"] == "tsc"
        super().operation(real, model)

    def answer(self, real: Event, answered: Any, model: Any) -> None:
        name = real.name
        if name == "GetClock":
            self.same("flags", answered["flags"], model["flags"])
            self.near("clock", answered["clock_ns"], model["clock_ns"], self.slack_ns)
            if not answered["flags"] & KVM_CLOCK_TSC_STABLE and self.on_tsc:
                self.base_clock(real, answered["clock_ns"], model["clock_ns"])
        elif name in ("GetMsr", "GetTscOffset"):
            self.near("value", answered, model, self.slack_cycles)
        elif name == "Run":
            for one, other in zip(answered, model, strict=True):
                if isinstance(one, dict):
                    self.reading("guest's ", real, one, other)
        else:
            self.same("answer", answered, model)

    def reading(self, whose: str, event: Event, real: dict[str, Any], model: dict[str, Any]) -> None:
        self.near(f"{whose}TSC", real["tsc"], model["tsc"], self.slack_cycles)
        if real["page"] is None or model["page"] is None:
            self.same(f"{whose}page", real["page"], model["page"])
            return
        self.page(f"{whose}page ", real["page"], model["page"])
        if real["kvmclock_ns"] is not None and model["kvmclock_ns"] is not None:
            self.near(f"{whose}kvmclock", real["kvmclock_ns"], model["kvmclock_ns"], self.slack_ns)
        else:
            self.same(f"{whose}kvmclock", real["kvmclock_ns"], model["kvmclock_ns"])

    def page(self, whose: str, real: dict[str, Any], model: dict[str, Any]) -> None:
        for field in ("version", "tsc_to_system_mul", "tsc_shift", "flags"):
            self.same(whose + field, real[field], model[field])
        self.near(whose + "tsc_timestamp", real["tsc_timestamp"], model["tsc_timestamp"], self.slack_cycles)
        self.near(whose + "system_time", real["system_time"], model["system_time"], self.slack_ns)

    def host_clock(self, real: Event, model: Event) -> None:
        """MONOTONIC_RAW, which nothing steers; what NTP does to the others is the host's."""
        if real.name == "monotonic_raw" and self.on_tsc:
            self.on_raw_line("host's raw clock, ns", self.raw, real, real.data["value"] - model.data["value"])

    def base_clock(self, real: Event, clock_ns: int, model_ns: int) -> None:
        """Without a masterclock kvmclock is the host's raw clock and an offset, which nothing but KVM_SET_CLOCK moves.

        So real - model is one number for all such readings, each taken somewhere in its sandwich; 1 ns for the floors.
        """
        self.on_raw_line("kvmclock, ns", self.kvmclock, real, s64(clock_ns - model_ns))

    def on_raw_line(self, what: str, unknown: Unknown, real: Event, apart_ns: int) -> None:
        """The real reading was taken somewhere in its sandwich, the model's at one instant of it."""
        first, last = self.counter.at(real.start_ps), self.counter.at(real.end_ps)
        at = self.counter.at_true(self.model_event.start_ps)
        self.bounded(what, unknown, apart_ns - self.raw_ns(last - at) - 1, apart_ns + self.raw_ns(at - first) + 1)

    def raw_ns(self, cycles: int) -> int:
        """So many cycles of the host's TSC on its raw clock, rounded up."""
        return -(-cycles * self.mult >> self.shift)

    # ---- tracepoints

    def telling(self, groups: Iterator[Group]) -> Iterator[Group]:
        """Without an offset that moves by a cycle or two: some ns between two clock reads decide whether a TSC that is
        made up for gets one.
        """
        for operation, points in groups:
            yield operation, [p for p in points if p.name != "kvm_write_tsc_offset" or _moved(p) not in GRAIN_CYCLES]

    def told(self, event: Event) -> str:
        """kvm_update_master_clock is the VM's."""
        return event.name if event.name == "kvm_update_master_clock" else super().told(event)

    def more_exits(self) -> dict[int, int]:
        """By operation, how many more pages the kernel wrote than the model for a vCPU that must always catch up."""
        _, tolerated = tsc_khz_tolerance(self.khz, 250)
        changes = [e for e in operations(self.real) if e.name == "SetTscKhz"]
        catching_up = {e.vcpu for e in changes if e.data["op"]["khz"] > tolerated}
        found = {}
        pairs = zip(self.grouped_real(), self.grouped_model(), strict=True)
        for index, ((operation, real), (_, model)) in enumerate(pairs):
            if operation.name == "Run" and operation.vcpu in catching_up:
                pages = [sum(e.name == "kvm_pvclock_update" for e in points) for points in (real, model)]
                if pages[0] > pages[1]:
                    found[index] = pages[0] - pages[1]
        return found

    def before_tracepoints(self, operation: Event) -> None:
        if operation.name in ("CreateVm", "SetClock"):
            self.apart_ns = {}
        if operation.name == "HostSleep":
            self.sleeps.append(self.counter.at(operation.start_ps))

    def tracepoint(self, real: Event, model: Event) -> None:
        one, other = (parse_fields(e.name, e.data["text"]) for e in (real, model))
        if real.name == "kvm_pvclock_update":
            self.page(f"{real.name} ", one, other)
            self.line(real, one, other)
        elif real.name == "kvm_write_tsc_offset":
            self.offsets[real.data.get("vm"), real.vcpu] = int(one["next"])
            for field in ("prev", "next"):
                self.near(f"{real.name} {field}", int(one[field]), int(other[field]), self.slack_cycles)
        else:
            super().tracepoint(real, model)

    def line(self, event: Event, real: dict[str, Any], model: dict[str, Any]) -> None:
        """Snapshots at the same cycle lie on one raw clock: real - model is the same for all of them.

        Both floor the same line at another phase (1 ns). Creation and KVM_SET_CLOCK choose a new distance: when they
        read the clock inside their sandwich is not given away. So does a sleep of the host's, whose length is read by a
        clock in a sandwich; but for snapshots that were taken before it, and are written to pages after it.
        """
        if not real["flags"] & 1 or real["tsc_timestamp"] != model["tsc_timestamp"]:
            return
        apart_ns = s64(real["system_time"] - model["system_time"])
        taken = u64(real["tsc_timestamp"] - self.offsets.get((event.data.get("vm"), event.vcpu), 0))
        sleeps = bisect_left(self.sleeps, taken)
        if sleeps not in self.apart_ns:
            self.apart_ns[sleeps] = apart_ns
        elif abs(apart_ns - self.apart_ns[sleeps]) <= 1:
            self.result.on_line += 1
        else:
            self.same("masterclock snapshot off the raw clock's line, ns", apart_ns, self.apart_ns[sleeps])


def _moved(point: Event) -> int:
    fields = parse_fields(point.name, point.data["text"])
    return abs(s64(int(fields["next"]) - int(fields["prev"])))
