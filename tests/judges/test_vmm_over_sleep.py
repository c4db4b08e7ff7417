"""A VMM takes its host's sleep out of its guest's clocks: on kernels that really sleep, by the model, and by check."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from guestclock.check import errors, story
from guestclock.checks.verdict import VIOLATED
from guestclock.judges.scenario import Judged
from guestclock.judges.shown import AWAKE_NS
from guestclock.lab.arch import arch_of
from guestclock.lab.setup import setup
from guestclock.runs import run
from guestclock.scenario import load
from tests.judges.test_in_the_lab import agreed

pytestmark = pytest.mark.lab
S = 10**9
HOUR_NS = 3600 * S
RTC_NS = S
"""An x86 machine in S3 is woken by its RTC: up to a second early, and up to one late."""

OPEN_NS = 50_000
"""How far a counter can seem off its line: two sandwiches, of which CNTPCT's has a trap in it (6.1 us to 69 us)."""


class Way(NamedTuple):
    """How it is done on one architecture. entered: a tracepoint of each vCPU's first entry after a sleep."""

    arch: str
    clocks: tuple[str, ...]
    adjusts: tuple[str, ...]
    entered: str


# KVM tells every vCPU after a sleep that it was stopped, and so writes its page anew before it enters.
X86 = Way("x86", ("tsc", "kvmclock"), ("SetClock", "SetTscOffset"), "kvm_pvclock_update")
ARM64 = Way("arm64", ("cntvct", "cntpct"), ("SetCounterOffset",), "kvm_timer_restore_state")
WAYS = pytest.mark.parametrize("way", [X86, ARM64], ids=["x86", "arm64"])


def down_ns(found: Judged) -> int:
    """How long the host's MONOTONIC stood still, true time."""
    (row,) = [row for row in found.shown if row.clock == "host's monotonic"]
    return -row.kernel.middle


@WAYS
def test_the_guest_misses_the_sleep_and_what_the_host_was_awake_between_two_readings_of_the_vmm(way: Way) -> None:
    (found,) = agreed(f"threads/2021-suspend-vmm-{way.arch}", "6.12")
    down = down_ns(found)
    assert abs(down - HOUR_NS) < RTC_NS + AWAKE_NS
    told = {row.clock: row.kernel.middle for row in found.shown}
    for clock in way.clocks:
        for vcpu in (0, 1):
            assert 0 < -told[f"{clock} of vcpu{vcpu}"] - down < AWAKE_NS, clock
    assert {f"{clock}-never-back" for clock in way.clocks} <= set(found.holds)


@WAYS
def test_nothing_is_in_the_guest_between_the_sleep_and_the_last_adjustment(way: Way) -> None:
    """By the kernel's own tracepoints; and no vCPU's clock has gained more than what the host was awake."""
    setup(["6.12"], arch=arch_of(way.arch))
    scenario = load(f"threads/2021-suspend-vmm-{way.arch}")
    _, trace = run(scenario, on=["model", "lab:6.12"], kernels=list(scenario.kernels[-1:]))
    (slept,) = [event for event in trace.of("op") if event.name == "HostSleep"]
    adjusted = max(
        event.end_ps for event in trace.of("op") if event.name in way.adjusts and event.start_ps > slept.end_ps
    )
    entries = [event.start_ps for event in trace.of("tracepoint") if event.name == way.entered]
    assert any(at < slept.start_ps for at in entries)
    assert any(at > adjusted for at in entries)
    assert not [at for at in entries if slept.start_ps < at < adjusted]
    assert not [event for event in trace.of("guest") if slept.start_ps < event.end_ps and event.start_ps < adjusted]
    told = story(trace)
    for clock in way.clocks:
        for points in errors(told, clock).values():
            read = [point for point in points if point.reading.source == "guest"]
            last = max(point.at_ps for point in read if point.at_ps < slept.start_ps)
            before, after = (next(p for p in read if at(p.at_ps)) for at in (last.__eq__, adjusted.__lt__))
            apart_ns = (after.at_ps - before.at_ps) // 1000
            assert apart_ns > HOUR_NS - RTC_NS
            assert 0 < apart_ns + after.error_ns.middle - before.error_ns.middle < AWAKE_NS, clock


@WAYS
def test_a_vcpu_that_is_in_the_guest_too_early_reads_the_sleep_and_then_steps_back_by_it(way: Way) -> None:
    (found,) = agreed(f"threads/2021-suspend-race-{way.arch}", "6.12")
    down = down_ns(found)
    rows = {row.property: row for row in found.rows}
    for clock in way.clocks:
        early, late = [row.kernel.middle for row in found.shown if row.clock == f"{clock} of vcpu1"]
        assert abs(early) < OPEN_NS
        assert 0 < early - late - down < AWAKE_NS
        back = rows[f"{clock}-never-back"]
        assert (back.steps, back.check) == ((8,), VIOLATED)
        assert back.kernel is not None
        assert back.bound is not None
        assert back.bound >= -back.kernel.hi
