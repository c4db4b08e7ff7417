"""When a half of a migration read its guest's clocks, by the host's wall clock: as exactly as the trace tells.

x86: one KVM_GET_CLOCK ties the wall clock to the host's TSC, and an offset that was read the guest's TSC to that.
arm64: one hypercall of the guest ties its counter to the wall clock. Both to the ns; where neither is there, by
sandwiches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from guestclock.abi.arm64 import ARM_SMCCC_VENDOR_HYP_KVM_PTP_FUNC_ID, KVM_PTP_VIRT_COUNTER
from guestclock.abi.ioctl import KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME
from guestclock.arith import s64, u64
from guestclock.sim import Event, Trace

S = 10**9
EXACT = KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC
"""Flags of KVM_GET_CLOCK: both at the very same instant."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One clock of one vCPU.

    true_ns: when, by the host's wall clock; open_ns: what is open of that. counter: the host's own then, of rate hz;
    counter_ns: what is open of that.
    """

    value: int
    true_ns: Fraction
    open_ns: Fraction
    counter: Fraction
    counter_ns: Fraction
    hz: int

    def later_ns(self, other: Reading) -> tuple[Fraction, Fraction]:
        """By how much this was read later than another reading on the same host; what is open of that, either way."""
        return (self.counter - other.counter) * S / self.hz, (self.counter_ns + other.counter_ns) / 2


Readings = dict[int, dict[str, Reading]]
"""By vCPU and clock."""


def readings(trace: Trace) -> Readings:
    """Each vCPU's one reading of its clocks in that half."""
    tie, told = _Tie.of(trace), hypercalls(trace)
    found: Readings = {}
    offsets = {e.vcpu: e.data["result"] for e in trace.of("op") if e.name == "GetTscOffset" and "result" in e.data}
    given = [e.data["op"]["offset"] for e in trace.of("op") if e.name == "SetCounterOffset" and "error" not in e.data]
    for event in trace.of("guest"):
        assert event.vcpu is not None
        if event.vcpu in found:  # the model tells of it twice
            continue
        if "cntvct" in event.data:
            of = {c: told.get((event.vcpu, c)) for c in ("cntvct", "cntpct")}
            found[event.vcpu] = dict(_of_arm64(event.data, of, given[-1] if given else None, tie))
        else:
            found[event.vcpu] = dict(_of_x86(event.data, offsets.get(event.vcpu), tie))
    return found


def realtime_ns(trace: Trace) -> int:
    """The wall clock as the half left it, ns, by what tied it last."""
    return _Tie.of(trace).realtime_ns


@dataclass(frozen=True, slots=True)
class _Tie:
    """CLOCK_REALTIME at a value of the host's counter; open_ns: how long that reading took."""

    realtime_ns: int
    counter: int
    open_ns: Fraction
    hz: int

    @classmethod
    def of(cls, trace: Trace) -> _Tie:
        """The last one of a trace: by KVM_GET_CLOCK, if it told both at one instant; else read as a VMM can."""
        meta = trace.meta
        hz = meta["counter_hz"] if "counter_hz" in meta else meta["tsc_khz"] * 1000
        clocks = [e.data["result"] for e in trace.of("op") if e.name == "GetClock" and "result" in e.data]
        if clocks and clocks[-1]["flags"] & EXACT == EXACT:
            return cls(clocks[-1]["realtime_ns"], clocks[-1]["host_tsc"], Fraction(0), hz)
        event = [e for e in trace.of("host") if e.name == "realtime"][-1]
        start = meta["counter_start"] if "counter_start" in meta else meta["tsc_start"]
        middle = start + (event.start_ps + event.end_ps) // 2 * hz // 10**12
        return cls(event.data["value"], middle, Fraction(event.end_ps - event.start_ps, 1000), hz)

    def at(self, counter: Fraction) -> Fraction:
        """CLOCK_REALTIME when the counter was there, ns: it keeps the counter's time, as near as a tick of NTP's."""
        return self.realtime_ns + (counter - self.counter) * S / self.hz

    def when(self, realtime_ns: Fraction) -> tuple[Fraction, Fraction]:
        """The counter when CLOCK_REALTIME was there; and what is open of that, ns."""
        return self.counter + (realtime_ns - self.realtime_ns) * self.hz / S, self.open_ns


def _of_x86(data: dict[str, Any], offset: int | None, tie: _Tie) -> Iterator[tuple[str, Reading]]:
    first, final = data["host_tsc"]
    if offset is not None:
        first = final = u64(data["tsc"] - offset)
    for clock, value in (("tsc", data["tsc"]), ("kvmclock", data["kvmclock_ns"])):
        yield clock, _between(value, first, final, tie)


def _of_arm64(
    data: dict[str, Any], told: dict[str, tuple[int, int] | None], offset: int | None, tie: _Tie
) -> Iterator[tuple[str, Reading]]:
    """told: the wall clock and the counter of one instant, by counter."""
    first, final = data["host_counter"]
    for clock, pair in told.items():
        value = data[clock]
        if value is None:
            continue
        if offset is not None:
            first = final = u64(value + offset)
        if pair is None:
            yield clock, _between(value, first, final, tie)
            continue
        realtime, then = pair
        true_ns = realtime + Fraction(s64(value - then) * S, tie.hz)
        counter, counter_ns = (Fraction(first), Fraction(0)) if offset is not None else tie.when(true_ns)
        yield clock, Reading(value, true_ns, Fraction(0), counter, counter_ns, tie.hz)


def _between(value: int, first: int, final: int, tie: _Tie) -> Reading:
    """Of a reading that took place between two of the host's counter, which may be one."""
    width, middle = Fraction((final - first) * S, tie.hz), Fraction(first + final, 2)
    return Reading(value, tie.at(middle), width + tie.open_ns, middle, width, tie.hz)


def hypercalls(trace: Trace) -> dict[tuple[int, str], tuple[int, int]]:
    """(CLOCK_REALTIME in ns, the guest's counter) of one instant, by vCPU and counter: what KVM's PTP answered."""
    found = {}
    for event in trace.of("op"):
        for action, answer in _answered(event):
            if action.get("x0") == ARM_SMCCC_VENDOR_HYP_KVM_PTP_FUNC_ID and not answer[0] >> 63:
                clock = "cntvct" if action["x1"] == KVM_PTP_VIRT_COUNTER else "cntpct"
                assert event.vcpu is not None
                found[event.vcpu, clock] = answer[0] << 32 | answer[1], answer[2] << 32 | answer[3]
    return found


def _answered(event: Event) -> Iterator[tuple[dict[str, Any], Any]]:
    if event.name == "Run" and "result" in event.data:
        yield from zip(event.data["op"]["actions"], event.data["result"], strict=True)
