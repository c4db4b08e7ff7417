"""The model run at the instants of a real run: each operation when the kernel did it, to the cycle where that shows.

A kernel's clock reads lie somewhere inside an operation's sandwich. Two tracepoints give them away: an offset that was
computed from a written value tells the TSC read behind it, and a page's tsc_timestamp tells the TSC of its snapshot.
Where one of these falls into an operation's sandwich, the model's reads in that operation happen at exactly that cycle;
elsewhere they happen at a chosen point of the sandwich.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from guestclock.arith import u64
from guestclock.kvm.api import Host, Op, Run, Wait, serve
from guestclock.kvm.device.tracefs import parse_fields
from guestclock.kvm.model import lookup
from guestclock.kvm.model.mutex import lock
from guestclock.kvm.model.x86 import KvmOptions, X86Kvm, guest
from guestclock.machine import HostSpec, X86Machine
from guestclock.sim import Event, Scheduler, Timeline, Trace
from guestclock.sim.checkpoint import cp
from guestclock.vmm.steps import play

OPERATIONS = ("op", "peek", "host", "step", "note")
NOT_OPERATIONS = ("no-tracepoints",)

EARLY, MIDDLE, LATE = 0, 1, 2


class NotAligned(Exception):
    """The recipe went another way on the model than on the real kernel: one of them refused an operation, say.

    index: how many operations they had in common. real, model: what each did next.
    """

    def __init__(self, index: int, real: str, model: str) -> None:
        super().__init__(f"operation {index}: real {real}, model {model}")
        self.index, self.real, self.model = index, real, model


def operations(trace: Trace) -> list[Event]:
    """The events that stand for one operation each, in the order in which the recipe awaited them."""
    return [e for e in trace.events if e.kind in OPERATIONS and e.name not in NOT_OPERATIONS]


def tsc_of(trace: Trace, ps: int) -> int:
    """Host TSC at a time of the trace: the smallest that is shown as `ps`."""
    return int(trace.meta["tsc_start"] - (-ps * trace.meta["tsc_khz"] // 10**9))


def revealed(trace: Trace) -> list[int]:
    """Host TSC values of clock reads that the tracepoints give away, ascending."""
    offsets: dict[tuple[Any, Any], int] = {}
    pinned_to_0 = _ignores_offsets(trace)
    values = set()
    written = _written_values(trace)
    for event in trace.of("tracepoint"):
        fields = parse_fields(event.name, event.data["text"])
        key = (event.data.get("vm"), event.vcpu)
        if event.name == "kvm_write_tsc_offset":
            offsets[key] = 0 if pinned_to_0 else int(fields["next"])
            values |= {u64(data - int(fields["next"])) for data in written}
        elif event.name == "kvm_pvclock_update":
            values.add(u64(int(fields["tsc_timestamp"]) - offsets.get(key, 0)))
    return sorted(values)


def _written_values(trace: Trace) -> set[int]:
    """TSC values that anything wrote: creation (0), KVM_SET_MSRS, the guest."""
    values = {0}
    for event in trace.of("op"):
        op = event.data["op"]
        if op["op"] == "SetMsr":
            values.add(op["data"])
        for action in op.get("actions", ()):
            if "data" in action:
                values.add(action["data"])
    return values


def _ignores_offsets(trace: Trace) -> bool:
    """Whether the host keeps every offset at 0: what was written was never read back."""
    readbacks = [
        e.data["readback"]["value"] for e in trace.of("op") if e.name == "SetTscOffset" and "readback" in e.data
    ]
    tscs = list(trace.of("peek"))
    if readbacks and any(readbacks):
        return False
    return all(
        abs(e.data["tsc"] - e.data["host_tsc"][0]) <= e.data["host_tsc"][1] - e.data["host_tsc"][0] for e in tscs
    )


@dataclass(frozen=True, kw_only=True)
class Circumstances:
    """What the model must be told of a real run because its trace does not say it.

    tsc_hz: what the host's TSC truly counts in a second (a lab's is another than its kernel believes); None: tsc_khz *
    1000. guest_has_master_clock: that global flag of KVM's, as VMs before this one left it. where: the point of an
    operation's sandwich at which clocks were read, if nothing gives that away. work_latency_ns: how late delayed works
    ran. exits: how often, in which operations, an interrupt of the host's threw the guest out; it matters only where
    each exit asks for a new page.
    """

    tsc_hz: int | None = None
    guest_has_master_clock: bool = False
    where: int = MIDDLE
    work_latency_ns: int = 0
    exits: Mapping[int, int] = field(default_factory=dict)


def run_aligned(
    real: Trace, program: dict[str, Any], profile: str, circumstances: Circumstances | None = None
) -> Trace:
    """The model's trace of `program` under `profile`, at the instants of `real`. Raises NotAligned.

    Its meta has `guest_has_master_clock` as this run leaves it to the next.
    """
    return _Aligned(real, program, profile, circumstances or Circumstances()).run()


class _Aligned:
    def __init__(self, real: Trace, program: dict[str, Any], profile: str, told: Circumstances) -> None:
        self.real, self.program, self.told = real, program, told
        self.entries = iter(operations(real))
        self.done = 0
        self.revealed = revealed(real)
        self.timeline = Timeline()
        self.scheduler = Scheduler(self.timeline)
        meta = real.meta
        self.tsc_hz = told.tsc_hz or meta["tsc_khz"] * 1000
        spec = HostSpec(
            tsc_khz=meta["tsc_khz"],
            tsc_hz=self.tsc_hz,
            tsc_at_start=meta["tsc_start"],
            clocksource=meta.get("clocksource", "tsc"),
            hz=meta.get("hz", 250),
            cpus=8,
        )
        self.machine = X86Machine(self.timeline, spec, scheduler=self.scheduler)
        self.trace = Trace({"on": "model", "kernel": profile, "tsc_khz": meta["tsc_khz"]})
        options = KvmOptions(work_latency_ns=told.work_latency_ns)
        self.kvm = X86Kvm(self.machine, lookup(profile), self.scheduler, self.trace.emit, options)
        self.kvm.host.state.guest_has_master_clock = told.guest_has_master_clock

    def run(self) -> Trace:
        program = {**self.program, "tsc_khz": self.machine.tsc_khz}
        self.scheduler.spawn("VMM", serve(play(Host(), program), self.execute))
        self.scheduler.run()
        self.trace.meta["guest_has_master_clock"] = self.kvm.host.state.guest_has_master_clock
        return self.trace

    async def execute(self, op: Op) -> Any:
        entry = next(self.entries, None)
        if entry is None or not _is(op, entry):
            raise NotAligned(self.done, "nothing" if entry is None else f"{entry.kind} {entry.name}", str(op))
        self.done += 1
        instants = self.instants_ps(entry, op)
        if isinstance(op, Run):
            for _ in range(self.told.exits.get(self.done - 1, 0)):
                await self.until(instants[0])
                instants = instants[1:] or instants
                vcpu = self.kvm.vcpu(op)
                await lock(vcpu, op.name)
                await guest.run(vcpu, ())
        await self.until(instants[0])
        return await self.kvm.execute(Wait(0) if isinstance(op, Wait) else op)

    async def until(self, at_ps: int) -> None:
        if at_ps > self.timeline.now_ps:
            await cp("aligned", delay_ps=at_ps - self.timeline.now_ps)

    def instants_ps(self, entry: Event, op: Op) -> list[int]:
        """True times, from the trace's start, at which the operation's clock reads happen: at least one."""
        first, last = tsc_of(self.real, entry.start_ps), tsc_of(self.real, entry.end_ps)
        given_away = self.revealed[bisect_left(self.revealed, first) : bisect_right(self.revealed, last)]
        tscs = given_away or [last if isinstance(op, Wait) else (first, (first + last) // 2, last)[self.told.where]]
        start: int = self.real.meta["tsc_start"]
        return [-(-(tsc - start) * 10**12 // self.tsc_hz) for tsc in tscs]


def _is(op: Op, entry: Event) -> bool:
    """Whether the event is this operation's."""
    name = getattr(op, "name_", None) or getattr(op, "clock", None) or op.name
    return entry.name == ("clocks" if op.name == "Peek" else name)


__all__ = ["EARLY", "LATE", "MIDDLE", "Circumstances", "NotAligned", "operations", "run_aligned", "tsc_of"]
