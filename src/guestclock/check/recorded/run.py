"""A run's own trace (`guestclock run --save-trace`, or a sim.Trace) as the rows that recorded readings come in.

What a run looked at becomes readings of COUNTER and KVMCLOCK, and pages; a `note` named "row" is a row as it stands,
which is how a model of a whole protocol brings its stops, injections and clocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from guestclock.check.recorded.header import KEY_BY_NAME
from guestclock.errors import UserError
from guestclock.sim.trace import Event, Trace

ROW = "row"
STABLE = 1
FIRST_LINE = 2
"""Line 1 of a saved trace is its meta."""

Numbered = tuple[int, dict[str, Any]]


def header_of(trace: Trace) -> dict[str, Any]:
    """What the run says of itself; meta["recorded"], if there, are header keys as they stand."""
    meta = trace.meta
    told: dict[str, Any] = {}
    if meta.get("arch") == "arm64":
        told["counter_hz"] = meta["counter_hz"]
    elif "tsc_khz" in meta:
        told["tsc_khz"] = meta["tsc_khz"]
    own: dict[str, Any] = meta.get("recorded", {})
    unknown = [key for key in own if key not in KEY_BY_NAME]
    if unknown:
        raise UserError(f"trace: recorded: unknown key {unknown[0]!r}")
    return told | own


def rows_of(trace: Trace) -> Iterator[Numbered]:
    """(line in the saved trace, row). Of several VMs in one trace, the first: vCPUs of others are other guests'."""
    vm = next((event.data["vm"] for event in trace.of("peek", "guest") if "vm" in event.data), None)
    for line, event in enumerate(trace.events, FIRST_LINE):
        if event.kind == "note" and event.name == ROW:
            yield line, event.data
        elif event.kind in ("peek", "guest") and event.data.get("vm", vm) == vm and "vm" in event.data:
            for row in _looked(event):
                yield line, row


def _looked(event: Event) -> Iterator[dict[str, Any]]:
    data, vcpu = event.data, event.vcpu
    if "cntvct" in data:
        host = _times(data["host_counter"])
        yield {"vcpu": vcpu, "c0": data["cntvct"], "c1": data["cntvct_after"], **host, "clock": "COUNTER",
               "value": data["cntvct"]}  # fmt: skip
        return
    tsc, page = data["tsc"], data.get("page")
    taken = {"vcpu": vcpu, "c0": tsc, "c1": tsc, **_times(data["host_tsc"])}
    yield {**taken, "clock": "COUNTER", "value": _signed(tsc)}
    if page is None:
        return
    yield {"event": "page", "vcpu": vcpu, "id": f"vcpu{vcpu}", "version": page["version"],
           "text": "/".join(str(page[key]) for key in sorted(page) if key != "version")}  # fmt: skip
    if data.get("kvmclock_ns") is not None and page["flags"] & STABLE:
        # Without STABLE a guest keeps the greatest value that it has seen, and this is not yet that.
        yield {**taken, "clock": "KVMCLOCK", "value": _signed(data["kvmclock_ns"])}


def _times(pair: list[int]) -> dict[str, int]:
    return {"h0": pair[0], "h1": pair[1]}


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value
