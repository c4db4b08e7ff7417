"""Two labs as source and destination of one migration, by the recipe of the kernel's documentation."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest

from guestclock.compare.aligned import Circumstances
from guestclock.compare.judge import judge
from guestclock.lab.setup import setup
from guestclock.runs.migrate import Migration, migrate
from guestclock.runs.on import On
from guestclock.vmm.half import RESTORE, SAVE, as_json

pytestmark = pytest.mark.lab

S, MS = 10**9, 10**6
TRUE_HZ = 10**9
PAIRS = [("6.12", "6.1"), ("6.1", "6.12")]
ROUNDING_NS = 6
"""Of two snapshots of a masterclock and of a TSC's cycles, there and back."""


@cache
def moved(source: str, destination: str, skew_ns: int) -> Migration:
    setup([source, destination])
    return migrate("kernel-doc-migrate", On("lab", source), On("lab", destination), skew_ns=skew_ns)


def set_clock_ns(done: Migration) -> int:
    """How long KVM_SET_CLOCK took, with all that is around it."""
    (event,) = [e for e in done.there.of("op") if e.name == "SetClock"]
    return (event.end_ps - event.start_ps) // 1000


@pytest.mark.parametrize("skew_ns", [0, 5 * MS])
@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_clocks_are_off_by_the_skew_and_by_what_passes_inside_set_clock(source, destination, skew_ns):
    """It takes its snapshot first and reads REALTIME later: what passes between is time that passed twice."""
    done = moved(source, destination, skew_ns)
    assert 2 * S < done.away_ns < 2 * S + 100 * MS
    assert {off.clock for off in done.off} == {"tsc", "kvmclock"}
    for off in done.off:
        assert off.within_ns == 0, "every instant is told by the guest's own TSC"
        assert 0 < off.off_ns - skew_ns < set_clock_ns(done), off
    # the recipe ties the two together: what one is off, the other is
    tsc_ns, kvmclock_ns = ({o.vcpu: o.off_ns for o in done.off if o.clock == c} for c in ("tsc", "kvmclock"))
    for vcpu in tsc_ns:
        assert tsc_ns[vcpu] == pytest.approx(kvmclock_ns[vcpu], abs=ROUNDING_NS)


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_a_wall_clock_that_is_wrong_is_all_that_a_wrong_wall_clock_does(source, destination):
    right, wrong = (moved(source, destination, skew_ns) for skew_ns in (0, 5 * MS))
    for one, other in zip(right.off, wrong.off, strict=True):
        assert other.off_ns - one.off_ns - 5 * MS == pytest.approx(0, abs=ROUNDING_NS + set_clock_ns(right) // 4)


@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_the_model_does_the_same_at_the_same_instants(source, destination):
    done = moved(source, destination, 5 * MS)
    common = {"program": "half", "recipe": "kernel-doc-migrate", "vcpus": 2}
    restored = {**common, "half": RESTORE, "snapshot": as_json(done.snapshot), "realtime_ns": asked_realtime_ns(done)}
    halves = [(source, done.here, {**common, "half": SAVE, "life_ns": 100 * S}), (destination, done.there, restored)]
    for kernel, trace, program in halves:
        verdict = judge(trace, program, f"linux-{kernel}", Circumstances(true_hz=TRUE_HZ))
        assert not verdict.differences, "\n".join(map(str, verdict.differences))
        assert verdict.tracepoints > 0
    # and another snapshot is no such guest
    other = as_json(done.snapshot)
    other["clock"]["clock_ns"] += S
    assert judge(
        done.there, {**restored, "snapshot": other}, f"linux-{destination}", Circumstances(true_hz=TRUE_HZ)
    ).differences


def asked_realtime_ns(done: Migration) -> int:
    (read,) = [e for e in done.there.of("host") if e.name == "realtime"][:1]
    (step,) = [e.data["op"]["ns"] for e in done.there.of("op") if e.name == "StepRealtime"]
    return int(read.data["value"] + step)


def test_the_check_s_bound_holds_for_what_was_measured(tmp_path):
    """Its question: with no delay inside a kernel's section longer than KVM_SET_CLOCK was, how far off can it be?"""
    done = moved("6.1", "6.12", 0)
    section_ns = set_clock_ns(done)
    command = [sys.executable, "-m", "guestclock", "check", "kernel-doc-migrate", "--kernel", "linux-6.12", "--json"]
    command += ["--max-section", f"{section_ns} ns", "--property", "tsc-policy", "--away", "3 s"]
    done_checking = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    (verdict,) = json.loads(done_checking.stdout)["checks"][0]["verdicts"]
    assert verdict["property"] == "tsc-policy"
    worst_ns = verdict["worst"] * 10**6 / 2_596_122
    for off in done.off:
        assert 0 < off.off_ns <= worst_ns <= section_ns + ROUNDING_NS


def test_downtime_that_a_recipe_loses_by_design_is_lost():
    setup(["6.12"])
    short, long = (migrate("qemu-migrate", On("lab", "6.12"), On("lab", "6.12"), away_ns=ns) for ns in (S, 61 * S))
    assert long.away_ns - short.away_ns == pytest.approx(60 * S, abs=MS)
    for one, other in zip(short.off, long.off, strict=True):
        assert one.meant == "freeze"
        assert 0 < one.off_ns < 100 * MS
        assert other.off_ns == pytest.approx(one.off_ns, abs=MS)
