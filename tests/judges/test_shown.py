"""What clocks show after a sleep and in several VMs, told of two traces; with the model in the kernel's place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from guestclock.judges.shown import AWAKE_NS, refusals, shown
from guestclock.runs.model import run_model
from guestclock.scenario import load
from guestclock.sim import Event, Trace

S = 10**9


def played(name: str, kernel: str, number: int = 0) -> Trace:
    return run_model(load(name).variations[number], kernel=kernel)


def altered(trace: Trace, change: Any) -> Trace:
    other = Trace(dict(trace.meta))
    for event in trace.events:
        other.emit(change(event))
    return other


def test_after_a_sleep_each_clock_is_told() -> None:
    trace = played("bugs/suspend-running-tsc", "linux-6.1")
    found = {row.clock: row for row in shown(trace, trace, 1_000)}
    assert not any(row.why for row in found.values())
    assert found["host's monotonic"].kernel.middle == pytest.approx(-3600.5 * S, abs=S // 1000)
    assert abs(found["host's boottime"].kernel.middle) < S
    for clock in ("tsc of vcpu0", "tsc of vcpu1", "kvmclock of vcpu0", "GET_CLOCK"):
        assert abs(found[clock].kernel.middle) < 2_000, "they go on through it by the TSC"


@pytest.mark.parametrize(
    ("clock", "by_ns", "seen"),
    [("boottime", 5_000, True), ("boottime", 500, False), ("monotonic", 2 * AWAKE_NS, True),
     ("monotonic", AWAKE_NS // 2, False)],
)  # fmt: skip
def test_a_host_whose_clock_gained_something_else_is_told(clock: str, by_ns: int, seen: bool) -> None:
    trace = played("bugs/suspend-running-tsc", "linux-6.1")
    slept = next(event.start_ps for event in trace.of("op") if event.name == "HostSleep")

    def change(event: Event) -> Event:
        if event.kind == "host" and event.name == clock and event.start_ps > slept:
            return replace(event, data={"value": event.data["value"] + by_ns})
        return event

    told = [row.clock for row in shown(altered(trace, change), trace, 1_000) if row.why]
    assert told == ([f"host's {clock}"] if seen else [])


def test_by_value_a_delay_is_lost_and_by_offset_it_is_not() -> None:
    trace = played("threads/2021-idempotent-arm64", "linux-6.12-arm64", 1)  # 0.3 s
    first, by_value, _, by_offset = (
        next(row.kernel.middle for row in shown(trace, trace, 0) if (row.clock, row.step) == ("cntvct of vcpu0", step))
        for step in (4, 12, 19, 27)
    )
    assert first == by_offset == 0
    assert by_value == pytest.approx(-0.3 * S, abs=S // 1000)
    assert refusals(trace)[-1] == "step 25: SetCounterOffset refused: EBUSY"


def test_a_model_that_keeps_another_offset_is_told() -> None:
    trace = played("threads/2021-idempotent-arm64", "linux-6.12-arm64", 1)

    def change(event: Event) -> Event:
        if event.kind in ("peek", "guest") and event.data["vm"] == 3:
            return replace(event, data={**event.data, **{k: event.data[k] + 500 for k in ("cntvct", "cntvct_after")}})
        return event

    wrong = [row for row in shown(trace, altered(trace, change), 1_000) if row.why]
    assert {(row.clock, row.step) for row in wrong} == {("cntvct of vcpu0", 27), ("cntvct of vcpu1", 27)}


def test_a_scenario_of_one_vm_that_nobody_sleeps_in_has_nothing_to_show() -> None:
    trace = played("threads/2023-masterclock", "linux-6.1")
    assert shown(trace, trace, 0) == []


OVER_SLEEP = [("x86", "linux-6.12", "tsc"), ("arm64", "linux-6.12-arm64", "cntvct")]


@pytest.mark.parametrize(("arch", "kernel", "counter"), OVER_SLEEP)
def test_a_sleep_at_whose_end_nobody_looks_is_told_by_the_guest_s_next_readings(
    arch: str, kernel: str, counter: str
) -> None:
    trace = played(f"threads/2021-suspend-vmm-{arch}", kernel)
    rows = shown(trace, trace, 1_000)
    found = {row.clock: row.kernel.middle for row in rows}
    assert {row.step for row in rows} == {8}
    for clock in ("host's monotonic", f"{counter} of vcpu0", f"{counter} of vcpu1"):
        assert found[clock] == pytest.approx(-3600 * S, abs=100_000)
    assert abs(found["host's boottime"]) < S // 1000


@pytest.mark.parametrize(("arch", "kernel", "counter"), OVER_SLEEP)
def test_a_model_whose_guest_counted_some_of_the_sleep_is_told(arch: str, kernel: str, counter: str) -> None:
    trace = played(f"threads/2021-suspend-vmm-{arch}", kernel)
    slept = next(event.end_ps for event in trace.of("op") if event.name == "HostSleep")

    def change(event: Event) -> Event:
        if event.kind in ("peek", "guest") and event.start_ps > slept and event.vcpu == 1:
            also = {key: event.data[key] + 10_000 for key in (counter, f"{counter}_after") if key in event.data}
            return replace(event, data={**event.data, **also})
        return event

    assert f"{counter} of vcpu1" in {row.clock for row in shown(trace, altered(trace, change), 1_000) if row.why}
