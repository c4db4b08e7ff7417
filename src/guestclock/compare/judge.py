"""Where the model and a real kernel differ, event by event."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from guestclock.arith import s64, tsc_khz_tolerance
from guestclock.compare.aligned import EARLY, LATE, MIDDLE, Circumstances, NotAligned, operations, run_aligned
from guestclock.kvm.device.x86.tracing import parse_fields
from guestclock.sim import Event, Trace

NO_TSC = ("Wait", "CreateVm", "GetClock", "SetClock")
"""Operations on which no guest's TSC depends, however long they take: creating a VM takes milliseconds."""

ATTEMPTS = 5
"""How often exits are added: those of one operation can hide how many the next one needs."""


@dataclass(frozen=True)
class Difference:
    """One thing that is not the same: in which operation (counted from 0), what, and both values."""

    index: int
    operation: str
    what: str
    real: Any
    model: Any

    def __str__(self) -> str:
        return f"operation {self.index} ({self.operation}): {self.what}: real {self.real}, model {self.model}"


@dataclass
class Verdict:
    """What comparing one run gave. exact, close: values equal to the last bit, and within the sandwich only.
    on_line: masterclock pages whose system_time lies on the model's raw clock to 1 ns, from the first page on.

    open_outcome: the sandwich of some operation, or when a delayed work ran, leaves open which way the kernel decides,
    and the model agrees with it one way. exits: of vCPUs that must always catch up, for interrupts of the host's.
    guest_has_master_clock: KVM's global flag as this run left it.
    """

    differences: list[Difference]
    exact: int = 0
    close: int = 0
    on_line: int = 0
    tracepoints: int = 0
    open_outcome: bool = False
    exits: int = 0
    guest_has_master_clock: bool = False


LATENCIES_NS = (0, 2_000_000, 8_000_000, 30_000_000, 120_000_000, 500_000_000)
"""On a busy host a delayed work runs late: a page is asked for after an operation instead of before it."""


def judge(real: Trace, program: dict[str, Any], profile: str, circumstances: Circumstances | None = None) -> Verdict:
    """Runs the model at the real run's instants and compares.

    Where they disagree, clocks may have been read at an end of a sandwich, or delayed works have run late: the outcome
    was open if the model agrees then. Otherwise the verdict is the first one's.
    """
    told = circumstances or Circumstances()
    first: Verdict | None = None
    for latency_ns in LATENCIES_NS:
        for where in (MIDDLE, EARLY, LATE):
            verdict = verdict_at(real, program, profile, replace(told, where=where, work_latency_ns=latency_ns))
            if not verdict.differences:
                verdict.open_outcome = first is not None
                return verdict
            first = first or verdict
    assert first is not None
    return first


def verdict_at(real: Trace, program: dict[str, Any], profile: str, told: Circumstances) -> Verdict:
    """What comparing gives under these circumstances.

    Where a vCPU must always catch up, every exit gives it a new page, and interrupts of the host's make exits of their
    own: the trace tells how many, and the model is run again with as many.
    """
    exits: dict[int, int] = {}
    for attempt in range(ATTEMPTS):
        try:
            model = run_aligned(real, program, profile, replace(told, exits=exits))
        except NotAligned as parted:
            next_one = Difference(parted.index, parted.real, "what the recipe does next", parted.real, parted.model)
            return Verdict([next_one])
        comparison = Comparison(real, model, told.tsc_hz)
        verdict = comparison.verdict()
        verdict.exits = sum(exits.values())
        verdict.guest_has_master_clock = model.meta["guest_has_master_clock"]
        more = comparison.more_exits() if attempt < ATTEMPTS - 1 else {}
        if not more:
            break
        for index, count in more.items():
            exits[index] = exits.get(index, 0) + count
    return verdict


def told(event: Event) -> str:
    """A tracepoint and the vCPU that its text names; kvm_update_master_clock is the VM's."""
    return event.name if event.name == "kvm_update_master_clock" else f"{event.name} of vCPU {event.vcpu}"


class Comparison:
    """Two traces of one program, operation by operation."""

    def __init__(self, real: Trace, model: Trace, tsc_hz: int | None = None) -> None:
        self.real, self.model = real, model
        self.khz: int = real.meta["tsc_khz"]
        self.true_khz = (tsc_hz or self.khz * 1000) // 1000
        self.widest_ns = self.widest_tsc_ns = 0
        self.apart_ns: int | None = None
        self.result = Verdict([])

    def verdict(self) -> Verdict:
        traced = not any(e.name == "no-tracepoints" for e in self.real.events)
        pairs = zip(operations(self.real), operations(self.model), strict=True)
        for index, (real, model) in enumerate(pairs):
            self.index, self.name = index, real.name
            took_ns = (real.end_ps - real.start_ps) // 1000 + 1
            if real.name != "Wait":  # nothing is read in it
                self.widest_ns = max(self.widest_ns, took_ns)
            if real.name not in NO_TSC:
                self.widest_tsc_ns = max(self.widest_tsc_ns, took_ns)
            self.operation(real, model)
        if traced:
            self.tracepoints()
        return self.result

    # ---- comparing values

    def same(self, what: str, real: Any, model: Any) -> None:
        if real == model:
            self.result.exact += 1
        else:
            self.result.differences.append(Difference(self.index, self.name, what, real, model))

    def near(self, what: str, real: int, model: int, slack: int) -> None:
        """Equal up to `slack`, as u64 values."""
        distance = abs(s64(real - model))
        if distance == 0:
            self.result.exact += 1
        elif distance <= slack:
            self.result.close += 1
        else:
            self.result.differences.append(Difference(self.index, self.name, f"{what} (±{slack})", real, model))

    @property
    def slack_ns(self) -> int:
        """Two readings, each somewhere in its operation; 3 ns for the roundings of two snapshots (kvm-x86.md 7.1)."""
        true_ns = self.widest_ns * self.khz // self.true_khz
        return 2 * (true_ns if true_ns > self.widest_ns else self.widest_ns) + 3

    @property
    def slack_cycles(self) -> int:
        return (2 * self.widest_tsc_ns + 3) * self.khz // 10**6 + 1

    # ---- operations

    def operation(self, real: Event, model: Event) -> None:
        self.same("refusal", real.data.get("error"), model.data.get("error"))
        if real.kind == "peek":
            self.reading("", real.data, model.data)
        elif real.kind == "op" and "result" in real.data:
            self.answer(real.name, real.data["result"], model.data["result"])

    def answer(self, name: str, real: Any, model: Any) -> None:
        if name == "GetClock":
            self.same("flags", real["flags"], model["flags"])
            self.near("clock", real["clock_ns"], model["clock_ns"], self.slack_ns)
        elif name in ("GetMsr", "GetTscOffset"):
            self.near("value", real, model, self.slack_cycles)
        elif name == "Run":
            for one, other in zip(real, model, strict=True):
                if isinstance(one, dict):
                    self.reading("guest's ", one, other)
        else:
            self.same("answer", real, model)

    def reading(self, whose: str, real: dict[str, Any], model: dict[str, Any]) -> None:
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

    # ---- tracepoints

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

    def tracepoints(self) -> None:
        pairs = zip(self.grouped_real(), self.grouped_model(), strict=True)
        for index, ((operation, real), (_, model)) in enumerate(pairs):
            self.index, self.name = index, operation.name
            if operation.name in ("CreateVm", "SetClock"):
                self.apart_ns = None
            names = [told(e) for e in real], [told(e) for e in model]
            self.same("tracepoints", *names)
            if names[0] == names[1]:
                for one, other in zip(real, model, strict=True):
                    self.result.tracepoints += 1
                    self.tracepoint(one, other)

    def tracepoint(self, real: Event, model: Event) -> None:
        one, other = (parse_fields(e.name, e.data["text"]) for e in (real, model))
        if real.name == "kvm_pvclock_update":
            self.page(f"{real.name} ", one, other)
            self.line(one, other)
        elif real.name == "kvm_write_tsc_offset":
            for field in ("prev", "next"):
                self.near(f"{real.name} {field}", int(one[field]), int(other[field]), self.slack_cycles)
        else:
            self.same(f"{real.name}", real.data["text"], model.data["text"])

    def line(self, real: dict[str, Any], model: dict[str, Any]) -> None:
        """Snapshots at the same cycle lie on one raw clock: real - model is the same for all of them.

        Both floor the same line at another phase (1 ns). Creation and KVM_SET_CLOCK choose a new distance: when they
        read the clock inside their sandwich is not given away.
        """
        if not real["flags"] & 1 or real["tsc_timestamp"] != model["tsc_timestamp"]:
            return
        apart_ns = s64(real["system_time"] - model["system_time"])
        if self.apart_ns is None:
            self.apart_ns = apart_ns
        elif abs(apart_ns - self.apart_ns) <= 1:
            self.result.on_line += 1
        else:
            self.same("masterclock snapshot off the raw clock's line, ns", apart_ns, self.apart_ns)

    def grouped_real(self) -> Iterator[tuple[Event, list[Event]]]:
        """Each operation with the tracepoints that came after its start and before the next one's."""
        points = sorted(self.real.of("tracepoint"), key=lambda e: e.start_ps)
        entries = operations(self.real)
        at = 0
        for entry, following in zip(entries, [*entries[1:], None], strict=True):
            group = []
            while at < len(points) and (following is None or points[at].start_ps < following.start_ps):
                group.append(points[at])
                at += 1
            yield entry, group

    def grouped_model(self) -> Iterator[tuple[Event, list[Event]]]:
        """Each operation with the tracepoints emitted before it: the model emits an operation at its end."""
        group: list[Event] = []
        for event in self.model.events:
            if event.kind == "tracepoint":
                group.append(event)
            elif event.kind != "guest":
                yield event, group
                group = []
