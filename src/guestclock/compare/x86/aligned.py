"""x86: the model at the instants of a real run, as tracepoints and answers give them away."""

from __future__ import annotations

from typing import Any

from guestclock.compare.aligned import Aligned, Circumstances
from guestclock.compare.x86 import given_away
from guestclock.kvm.api import HostSleep, Op, Run
from guestclock.kvm.model import lookup
from guestclock.kvm.model.mutex import lock
from guestclock.kvm.model.x86 import KvmOptions, X86Kvm, guest
from guestclock.linux.clocksource import clocksource
from guestclock.machine import HostSpec, X86Machine
from guestclock.sim import Event, Trace

NS_PER_S = 10**9
PS_PER_S = 10**12


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
        self.set_clocks = given_away.inside_set_clock(self.real, self.counter)
        return given_away.values(self.real, self.counter)

    def gaps(self, entry: Event) -> list[int]:
        gap = self.set_clocks.get(entry.start_ps)
        return [] if gap is None else [gap * PS_PER_S // self.counter.true_hz]
