"""The model in a lab's place: a host that has just booted, and plays one half of a migration."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from guestclock.kvm.api import Host, serve
from guestclock.kvm.model import lookup
from guestclock.kvm.model.arm64 import Arm64Kvm
from guestclock.kvm.model.x86 import X86Kvm
from guestclock.machine import Arm64Machine, Arm64Spec, HostSpec, X86Machine
from guestclock.sim import Scheduler, Timeline, Trace
from guestclock.sim.trace import TRACE_VERSION
from guestclock.vmm.clocks import X86_64
from guestclock.vmm.half import play_half

S = 10**9
READ_NS = 20
"""What a clock read takes, by the host's own clocks."""
STEP_PS = 1_000_000
WIDE_PS = 400_000
"""So much earlier and later a call seems to be than it is."""

TSC_KHZ, TSC_HZ = 2_596_122, 10**9
"""As a real lab's: what its kernel believes, and what it truly counts."""


class ModelLab:
    """Each is as old as the other when it has booted. profile: another kernel's KVM than the one it is called by."""

    profile = ""

    def __init__(
        self, kernel: str, *, arch: str = X86_64, cpu: str = "", progress: Callable[[str], None] = lambda line: None
    ) -> None:
        self.arch = arch
        self.kernel = self.profile or f"linux-{kernel}" + ("" if arch == X86_64 else "-arm64")

    def run(self, program: Mapping[str, Any]) -> list[dict[str, Any]]:
        num, den = self._believed
        timeline = Timeline(READ_NS * 1000 * num // den)
        scheduler = Scheduler(timeline, STEP_PS)
        trace = Trace({"on": "model", "kernel": self.kernel})
        kvm: X86Kvm | Arm64Kvm
        if self.arch == X86_64:
            spec = HostSpec(tsc_khz=TSC_KHZ, tsc_hz=TSC_HZ, uptime_ns=4 * S)
            machine = X86Machine(timeline, spec, scheduler=scheduler)
            trace.meta |= {"tsc_khz": machine.tsc_khz, "tsc_start": machine.tsc_at(0)}
            kvm = X86Kvm(machine, lookup(self.kernel), scheduler, trace.emit)
        else:
            arm = Arm64Machine(timeline, Arm64Spec(uptime_ns=4 * S), scheduler=scheduler)
            trace.meta |= {"arch": "arm64", "counter_hz": arm.counter_hz, "counter_start": arm.counter_at(0)}
            kvm = Arm64Kvm(arm, lookup(self.kernel), scheduler, trace.emit)
        saved: list[Any] = []

        async def course() -> None:
            saved.append(await play_half(Host(), dict(program)))

        scheduler.spawn("VMM", serve(course(), kvm.execute))
        scheduler.run()
        lines = [{"guestclock_trace": TRACE_VERSION, **trace.meta}]
        lines += [{**event, **self._by_its_counter(event)} for event in (event.as_json() for event in trace.events)]
        lines += [{"snapshot": saved[0]}] if saved[0] is not None else []
        return json.loads(json.dumps(lines))

    @property
    def _believed(self) -> tuple[int, int]:
        """How much faster its kernel believes the counter to count than it does."""
        return (TSC_KHZ * 1000, TSC_HZ) if self.arch == X86_64 else (1, 1)

    def _by_its_counter(self, event: dict[str, Any]) -> dict[str, int]:
        """A real trace tells time by the counter, at the rate that its kernel believes in; and less exactly."""
        true_hz = TSC_HZ if self.arch == X86_64 else Arm64Spec().counter_hz
        num, den = self._believed
        hz = true_hz * num // den
        wide = 0 if event["kind"] == "tracepoint" else WIDE_PS
        first = max(0, event["start_ps"] - wide) * true_hz // 10**12
        last = -(-(event["end_ps"] + wide) * true_hz // 10**12)
        return {"start_ps": first * 10**12 // hz, "end_ps": last * 10**12 // hz}
