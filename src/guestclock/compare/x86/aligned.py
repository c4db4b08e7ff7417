"""x86: the model at the instants of a real run.

Two tracepoints give clock reads away: an offset that was computed from a written value tells the TSC read behind it,
and a page's tsc_timestamp tells the TSC of its snapshot.
"""

from __future__ import annotations

from typing import Any

from guestclock.arith import u64
from guestclock.compare.aligned import Aligned, Circumstances
from guestclock.kvm.api import HostSleep, Op, Run
from guestclock.kvm.device.x86.tracing import parse_fields
from guestclock.kvm.model import lookup
from guestclock.kvm.model.mutex import lock
from guestclock.kvm.model.x86 import KvmOptions, X86Kvm, guest
from guestclock.linux.clocksource import clocksource
from guestclock.machine import HostSpec, X86Machine
from guestclock.sim import Event, Trace

NS_PER_S = 10**9


def run_aligned(
    real: Trace, program: dict[str, Any], profile: str, circumstances: Circumstances | None = None
) -> Trace:
    """The model's trace of `program` under `profile`, at the instants of `real`. Raises NotAligned.

    Its meta has `guest_has_master_clock` as this run leaves it to the next.
    """
    return X86Aligned(real, program, profile, circumstances or Circumstances()).run()


class _Sleeper(X86Machine):
    """A machine that is told how long a sleep was: the real one's RTC has a grain of a second, and nobody's phase."""

    measured_ns = 0

    def _nonstop_ns(self, began: int, woke: int) -> int:
        return self.measured_ns or super()._nonstop_ns(began, woke)


class X86Aligned(Aligned):
    """A program on the model of x86."""

    kvm: X86Kvm
    machine: _Sleeper

    def __init__(self, real: Trace, program: dict[str, Any], profile: str, told: Circumstances) -> None:
        meta = real.meta
        super().__init__(real, {**program, "tsc_khz": meta["tsc_khz"]}, told)
        spec = HostSpec(
            tsc_khz=meta["tsc_khz"],
            tsc_hz=self.counter.true_hz,
            tsc_at_start=meta["tsc_start"],
            clocksource=meta.get("clocksource", "tsc"),
            tsc_unstable="tsc" not in meta.get("clocksources", ("tsc",)),
            hz=meta.get("hz", 250),
            cpus=8,
            uptime_ns=self.first_read("monotonic", 1_000 * NS_PER_S),
            realtime_ns=self.first_read("realtime", 1_760_000_000 * NS_PER_S),
        )
        self.machine = _Sleeper(self.timeline, spec, scheduler=self.scheduler)
        self.trace.meta |= {"kernel": profile, "tsc_khz": meta["tsc_khz"]}
        options = KvmOptions(work_latency_ns=told.work_latency_ns)
        self.kvm = X86Kvm(self.machine, lookup(profile), self.scheduler, self.trace.emit, options)
        self.kvm.host.state.guest_has_master_clock = told.guest_has_master_clock

    def run(self) -> Trace:
        trace = super().run()
        trace.meta["guest_has_master_clock"] = self.kvm.host.state.guest_has_master_clock
        return trace

    def slept(self, op: HostSleep, entry: Event) -> HostSleep:
        """What the real host's BOOTTIME says of the sleep, beyond what was not slept between two readings of it."""
        op = super().slept(op, entry)
        readings = [e for e in self.real.of("host") if e.name == "boottime"]
        before = [e for e in readings if e.end_ps <= entry.start_ps]
        after = [e for e in readings if e.start_ps >= entry.end_ps]
        if before and after:
            awake = [self._middle(e) for e in (before[-1], after[0])]
            cycles = awake[1] - awake[0] - (self.counter.at(entry.end_ps) - self.counter.at(entry.start_ps))
            gained_ns = after[0].data["value"] - before[-1].data["value"]
            self.machine.measured_ns = gained_ns - self._awake_ns(cycles)
        return op

    def _awake_ns(self, cycles: int) -> int:
        """What its clocks gain while its TSC counts so many: another clocksource keeps true time."""
        if self.machine.clocksource != "tsc":
            return cycles * NS_PER_S // self.counter.true_hz
        tsc = clocksource("tsc", tsc_khz=self.real.meta["tsc_khz"])
        return cycles * tsc.mult >> tsc.shift

    def _middle(self, event: Event) -> int:
        return (self.counter.at(event.start_ps) + self.counter.at(event.end_ps)) // 2

    async def before(self, op: Op, instants: list[int]) -> list[int]:
        """Exits that interrupts of the host's made."""
        if isinstance(op, Run):
            for _ in range(self.told.exits.get(self.done - 1, 0)):
                await self.until(instants[0])
                instants = instants[1:] or instants
                vcpu = self.kvm.vcpu(op)
                await lock(vcpu, op.name)
                await guest.run(vcpu, ())
        return instants

    def given_away(self) -> list[int]:
        offsets: dict[tuple[Any, Any], int] = {}
        pinned_to_0 = _ignores_offsets(self.real)
        values = set()
        written = _written_values(self.real)
        given = {e.data["op"]["offset"] for e in self.real.of("op") if e.name == "SetTscOffset"}
        for event in self.real.of("tracepoint"):
            fields = parse_fields(event.name, event.data["text"])
            key = (event.data.get("vm"), event.vcpu)
            if event.name == "kvm_write_tsc_offset":
                offsets[key] = 0 if pinned_to_0 else int(fields["next"])
                if int(fields["next"]) not in given:  # one that was computed, from a TSC that was read
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
