"""x86: the values of the host's TSC at which a real kernel read its clocks, as far as a trace gives them away.

Two tracepoints do: an offset that was computed from a written value tells the TSC read behind it, and a page's
tsc_timestamp that of its snapshot. Answers do: KVM_GET_CLOCK says its own instant, and by the line that it is on when
the VM was made, and what KVM_SET_CLOCK did before it; a guest's TSC that was read is the host's and an offset.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestclock.abi.ioctl import KVM_CLOCK_HOST_TSC, KVM_CLOCK_REALTIME, KVM_CLOCK_TSC_STABLE
from guestclock.abi.msr import MSR_IA32_TSC
from guestclock.arith import s64, u64
from guestclock.compare.aligned import HostCounter, operations
from guestclock.kvm.device.x86.tracing import parse_fields
from guestclock.sim import Event, Trace

EXACT = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME | KVM_CLOCK_HOST_TSC
NEAR_PS = 10**10
"""A wall clock and a TSC, tied at one instant, go by one line for 10 ms: NTP's part in that is less than a ns."""

MOVES_A_CLOCK = ("Wait", "SetClock", "SetClocksource", "HostSleep", "StepRealtime", "AdjustFrequency")


def values(real: Trace, counter: HostCounter) -> list[int]:
    """All of them, ascending; one that lies in no operation's sandwich means nothing."""
    told = {*_by_tracepoints(real), *_by_reads(real), *_by_the_wall_clock(real), *_creations(real, counter)}
    told |= {first for _, first, _ in _set_clocks(real, counter) if first is not None}
    return sorted(told)


def inside_set_clock(real: Trace, counter: HostCounter) -> dict[int, int]:
    """By when it began: cycles of the host's TSC from its snapshot to its reading of the wall clock."""
    return {event.start_ps: gap for event, _, gap in _set_clocks(real, counter) if gap is not None}


def _by_tracepoints(real: Trace) -> Iterator[int]:
    offsets: dict[tuple[Any, Any], int] = {}
    pinned_to_0 = _ignores_offsets(real)
    written = _written_values(real)
    given = {e.data["op"]["offset"] for e in real.of("op") if e.name == "SetTscOffset"}
    for event in real.of("tracepoint"):
        fields = parse_fields(event.name, event.data["text"])
        key = (event.data.get("vm"), event.vcpu)
        if event.name == "kvm_write_tsc_offset":
            offsets[key] = 0 if pinned_to_0 else int(fields["next"])
            if int(fields["next"]) not in given:  # one that was computed, from a TSC that was read
                yield from (u64(data - int(fields["next"])) for data in written)
        elif event.name == "kvm_pvclock_update":
            yield u64(int(fields["tsc_timestamp"]) - offsets.get(key, 0))


def _by_reads(real: Trace) -> Iterator[int]:
    """KVM_GET_CLOCK, and whatever read a TSC whose offset the kernel has told."""
    offsets: dict[tuple[Any, Any], int] = {}
    for event in real.events:
        if event.kind == "tracepoint" and event.name == "kvm_write_tsc_offset":
            offset = int(parse_fields(event.name, event.data["text"])["next"])
            offsets[event.data.get("vm"), event.vcpu] = offset
        elif event.kind == "peek" and (event.data["vm"], event.vcpu) in offsets:
            yield u64(event.data["tsc"] - offsets[event.data["vm"], event.vcpu])
        elif event.kind == "op" and "result" in event.data:
            op, result = event.data["op"], event.data["result"]
            key = (op.get("vm"), event.vcpu)
            if event.name == "GetClock" and result["flags"] & KVM_CLOCK_HOST_TSC:
                yield result["host_tsc"]
            elif event.name == "GetMsr" and op["index"] == MSR_IA32_TSC and key in offsets:
                yield u64(result - offsets[key])


def _by_the_wall_clock(real: Trace) -> Iterator[int]:
    """CLOCK_REALTIME as the VMM read it, near a KVM_GET_CLOCK that says what it was at one TSC."""
    ties = [e for e in real.of("op") if e.name == "GetClock" and _exact(e)]
    for event in real.of("host"):
        near = [tie for tie in ties if abs(tie.start_ps - event.start_ps) < NEAR_PS]
        if event.name == "realtime" and near:
            tie = min(near, key=lambda tie: abs(tie.start_ps - event.start_ps)).data["result"]
            yield u64(tie["host_tsc"] + (event.data["value"] - tie["realtime_ns"]) * real.meta["tsc_khz"] // 10**6)


def _set_clocks(real: Trace, counter: HostCounter) -> Iterator[tuple[Event, int | None, int | None]]:
    """Each KVM_SET_CLOCK whose line a KVM_GET_CLOCK shows soon after: its snapshot's TSC, or None; and the cycles until
    it read the wall clock, or None if it did not, or that does not show.
    """
    khz = real.meta["tsc_khz"]
    entries = operations(real)
    for index, event in enumerate(entries):
        if event.name != "SetClock" or "error" in event.data:
            continue
        shown = _next_get_clock(entries[index + 1 :], event.data["op"]["vm"])
        if shown is None or not _exact(shown):
            continue
        asked, told = event.data["op"], shown.data["result"]
        first, last = counter.at(event.start_ps), counter.at(event.end_ps)
        moved_ns = s64(told["clock_ns"] - asked["clock_ns"])
        passed_ns = told["realtime_ns"] - asked["realtime_ns"]
        if asked["flags"] & KVM_CLOCK_REALTIME and passed_ns * khz // 10**6 > told["host_tsc"] - first:
            # The snapshot is at the value asked for and what REALTIME has moved on since then, read later.
            gap = max(0, (moved_ns - passed_ns) * khz // 10**6)
            if gap <= last - first:
                yield event, first + (last - first - gap) // 2, gap
        elif first <= (snapshot := told["host_tsc"] - moved_ns * khz // 10**6) <= last:
            yield event, snapshot, None


def _creations(real: Trace, counter: HostCounter) -> Iterator[int]:
    """When a VM's kvmclock was 0, by its first KVM_GET_CLOCK, soon after; as near as that tells its own instant."""
    entries = operations(real)
    for index, event in enumerate(entries):
        if event.name == "CreateVm" and "result" in event.data:
            shown = _next_get_clock(entries[index + 1 :], event.data["result"])
            if shown is not None:
                told = shown.data["result"]
                middle = (counter.at(shown.start_ps) + counter.at(shown.end_ps)) // 2
                at = told["host_tsc"] if _exact(shown) else middle
                yield u64(at - told["clock_ns"] * real.meta["tsc_khz"] // 10**6)


def _next_get_clock(entries: list[Event], vm: int) -> Event | None:
    """The next one on this VM, while nothing has moved its clock since."""
    for event in entries:
        if event.name in MOVES_A_CLOCK:
            return None
        if event.name == "GetClock" and event.data["op"]["vm"] == vm:
            return event if "result" in event.data else None
    return None


def _exact(event: Event) -> bool:
    return "result" in event.data and event.data["result"]["flags"] & EXACT == EXACT


def _written_values(trace: Trace) -> set[int]:
    """TSC values that anything wrote: creation (0), KVM_SET_MSRS, the guest."""
    written = {0}
    for event in trace.of("op"):
        op = event.data["op"]
        if op["op"] == "SetMsr":
            written.add(op["data"])
        for action in op.get("actions", ()):
            if "data" in action:
                written.add(action["data"])
    return written


def _ignores_offsets(trace: Trace) -> bool:
    """Whether the host keeps every offset at 0: what was written was never read back."""
    readbacks = [
        e.data["readback"]["value"] for e in trace.of("op") if e.name == "SetTscOffset" and "readback" in e.data
    ]
    tscs = [*trace.of("peek"), *trace.of("guest")]
    if not tscs or (readbacks and any(readbacks)):
        return False
    return all(
        abs(e.data["tsc"] - e.data["host_tsc"][0]) <= e.data["host_tsc"][1] - e.data["host_tsc"][0] for e in tscs
    )
