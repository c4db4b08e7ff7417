"""Two labs as source and destination of one migration: what the kernels did, the model does, and check proves."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from guestclock.judges.migration import judge_migration
from guestclock.lab.arch import arch_of
from guestclock.lab.setup import setup
from guestclock.runs.migrate import Migration, migrate
from guestclock.runs.on import On
from guestclock.vmm.half import as_json

pytestmark = pytest.mark.lab

S, MS = 10**9, 10**6
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


@pytest.mark.parametrize("skew_ns", [0, 5 * MS])
@pytest.mark.parametrize(("source", "destination"), PAIRS)
def test_kernel_model_and_check_agree_to_a_few_ns(source, destination, skew_ns):
    """Check is asked with as much between two clock reads in a section as this kernel's own answers give away."""
    judged = judge_migration(moved(source, destination, skew_ns))
    assert judged.agree, [*judged.differences, *(row.why for row in judged.rows)]
    for row in judged.rows:
        assert row.model.within_ns == 0
        assert row.model.off_ns == pytest.approx(row.kernel.off_ns, abs=ROUNDING_NS)
        assert 0 <= row.bound_ns - row.kernel.off_ns < 2 * ROUNDING_NS


def test_what_does_not_agree_is_told():
    """Another snapshot is no such guest; and a bound for wall clocks that agree holds for no skew."""
    done = moved("6.1", "6.12", 5 * MS)
    other = as_json(done.snapshot)
    other["clock"]["clock_ns"] += S
    altered = replace(done, programs=(done.programs[0], {**done.programs[1], "snapshot": other}))
    assert judge_migration(altered).differences
    told = [row.why for row in judge_migration(done, skew_ns=0).rows]
    assert all("check proved at most" in why for why in told)


ARM64 = [("arm64-by-offset-migrate", "6.12", "6.12", 0), ("arm64-by-offset-migrate", "6.12", "6.12", 5 * MS),
         ("arm64-by-value", "6.12", "6.12", 0), ("arm64-by-value", "6.1", "6.12", 0)]  # fmt: skip


@pytest.mark.parametrize(("recipe", "source", "destination", "skew_ns"), ARM64)
def test_arm64_kernel_model_and_check_agree_on_both_counters(recipe, source, destination, skew_ns):
    setup([source, destination], arch=arch_of("arm64"))
    done = migrate(recipe, On("lab", source), On("lab", destination), skew_ns=skew_ns, life_ns=10 * S)
    judged = judge_migration(done)
    assert judged.agree, [*judged.differences, *(row.why for row in judged.rows)]
    assert len(judged.rows) == 4
    for row in judged.rows:
        assert row.kernel.within_ns == 0, "the hypercall ties the counters to the wall clock"
        if recipe == "arm64-by-offset-migrate":
            assert row.model.within_ns == 0
            assert row.kernel.off_ns == pytest.approx(skew_ns, abs=20_000)
        elif (row.kernel.clock, source) == ("cntpct", "6.1"):
            assert row.kernel.off_ns < -9 * S, "6.1 has no physical counter to save: it is the new host's"
        else:
            assert MS < row.kernel.off_ns <= row.bound_ns < 50 * MS
            assert row.model.within_ns < 20_000


def test_downtime_that_a_recipe_loses_by_design_is_lost():
    setup(["6.12"])
    short, long = (migrate("qemu-migrate", On("lab", "6.12"), On("lab", "6.12"), away_ns=ns) for ns in (S, 61 * S))
    assert long.away_ns - short.away_ns == pytest.approx(60 * S, abs=MS)
    for one, other in zip(short.off, long.off, strict=True):
        assert one.meant == "freeze"
        assert 0 < one.off_ns < 100 * MS
        assert other.off_ns == pytest.approx(one.off_ns, abs=MS)
