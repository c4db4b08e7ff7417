"""Real arm64 kernels tell the same stories: judged by relations, as how long a call takes is the machine's own."""

from __future__ import annotations

from dataclasses import replace

import pytest

from guestclock.check import errors, marks, story
from guestclock.runs import run
from guestclock.scenario import load
from tests.runs.story import Arm64Story

pytestmark = pytest.mark.lab

HOUR_NS = 3_600 * 10**9
CALLS_NS = 400_000_000
"""What the calls between two readings of a scenario may take in a lab, the start of a vCPU's thread among them."""


def found(trace):
    """What a trace's properties find: (name, step, counted from 1, vCPUs, what), with the amount, ns."""
    told = story(trace)
    return {(m.name, m.step + 1, m.vcpus, m.what): m.time_ns for m in marks(told)}


def traces(name, *on):
    return {trace.meta["on"]: trace for trace in run(load(name), on=on)}


def test_creation_resets_what_an_offset_would_have_kept():
    for on, trace in traces("bugs/arm64-vcpu-creation-resets", "lab:6.1", "lab:6.12").items():
        back = [m for m in marks(story(trace)) if m.name == "cntvct-never-back"]
        assert {m.step + 1 for m in back} == ({3, 9} if on == "lab:6.1" else {3})
        assert all(abs(m.time_ns.middle + HOUR_NS) < CALLS_NS for m in back)
        assert {v for m in back if m.step == 2 for v in m.vcpus} == {0, 1}
        refused = Arm64Story(trace).refused()
        assert ("CreateVcpu", "EBUSY") in refused
        assert (("SetCounterOffset", "EINVAL") in refused) == (on == "lab:6.1")


def test_writes_are_ignored_once_there_is_an_offset():
    (trace,) = run(load("bugs/arm64-writes-ignored"), on=["lab:6.12"])
    told = Arm64Story(trace)
    assert told.refused() == []
    assert {step for _, step, *_ in found(trace)} == {3, 5}
    for step in (5, 7, 8, 9):  # the offset is 0: the guest counts as its host
        for vcpu in (0, 1):
            shown = told.peek(step, vcpu)
            before, after = shown["host_counter"]
            assert before <= shown["cntvct"] <= shown["cntpct"] <= after


@pytest.mark.parametrize(("cpu", "moves"), [("neoverse-n1", True), ("neoverse-n1-nvhe", False)])
def test_a_loaded_timer_s_compare_value_moves_with_the_offset_where_it_is_loaded(cpu, moves):
    (trace,) = run(load("bugs/arm64-ptimer-cval"), on=[f"lab:6.12:{cpu}"])
    told = Arm64Story(trace)
    before, after = told.answer(2, "GetOneReg"), told.answer(7, "GetOneReg")
    assert before == told.hz
    if not moves:
        assert after == before
        return
    # It moved by the offset, which is what the host's counter was when the guest's was made 0.
    written = next(e for e in told.events[5] if e.kind == "op" and e.name == "SetOneReg")
    offset = (before - after) % 2**64
    lo, hi = ((ps * told.hz // 10**12) + trace.meta["counter_start"] for ps in (written.start_ps, written.end_ps))
    assert lo - 1 <= offset <= hi + 1


def test_a_running_vcpu_takes_a_new_offset_over_only_when_it_is_loaded_again():
    """When that is, is the host's scheduler's to say: never before the write, and not after the kick."""
    for on, trace in traces("bugs/arm64-stale-cntvoff", "lab:6.1", "lab:6.12").items():
        ahead = {key[1:3]: ns for key, ns in found(trace).items() if key[0] == "cntvct-runs"}
        steps = {vcpus: step for step, vcpus in ahead}
        assert steps[(0,)] == 5, on
        assert steps[(1,)] in (5, 6, 7, 8), on
        assert all(abs(ns.middle - HOUR_NS) < CALLS_NS for ns in ahead.values())
        told = story(trace)
        assert not [m for m in marks(told) if m.name == "cntvct-agrees" and m.step + 1 >= 8]


def test_of_2021_s_ways_only_the_offset_is_exact():
    scenario = load("threads/2021-idempotent-arm64")
    late = [v for v in scenario.variations if v.values["delay"] == "5 s"]
    (trace,) = run(replace(scenario, variations=tuple(late)), on=["lab:6.12"])
    ends = {key: points[-1].error_ns for key, points in errors(story(trace), "cntvct").items()}
    assert -CALLS_NS < ends[1, 0].middle + 5 * 10**9 < 0, "by value: behind, by the delay and what the calls take"
    assert ends[3, 0].meets(ends[0, 0]), "by the ioctl: as it was"
    assert ends[3, 0].width < 10_000
    assert set(Arm64Story(trace).refused()) == {("SetVcpuAttr", "EINVAL"), ("SetCounterOffset", "EBUSY")}
