"""The same answer from one process, from several, from a Dask cluster, and from a search that was interrupted."""

from __future__ import annotations

import json

import pytest

from guestclock.checks.spec import Spec
from guestclock.checks.verdict import HOLDS, UNDECIDED, VIOLATED, check
from guestclock.errors import UserError

SPEC = Spec(recipe="by-value-restore", properties=("tsc-agrees", "kvmclock-never-back"), delay_ns=2 * 10**9)


def told(result):
    """Everything a result says, costs aside."""
    verdicts = [
        (v.property, v.status, v.worst, v.bound, v.tolerance, v.asked, v.ask, v.who, v.trail) for v in result.verdicts
    ]
    return verdicts, result.tally.orders, result.tally.blocked, result.contracts, result.complete


@pytest.fixture(scope="module")
def alone():
    result = check(SPEC, stories=False)
    assert [v.status for v in result.verdicts] == [VIOLATED, VIOLATED]
    return result


@pytest.mark.parametrize("jobs", [2, 3])
def test_any_number_of_processes_says_the_same(alone, jobs):
    assert told(check(SPEC, stories=False, jobs=jobs)) == told(alone)


def test_a_dask_cluster_of_two_workers_says_the_same(alone):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True) as cluster:
        assert told(check(SPEC, stories=False, cluster=cluster.scheduler_address)) == told(alone)


def test_no_scheduler_is_one_clear_error():
    with pytest.raises(UserError, match=r"--cluster tcp://127\.0\.0\.1:9: no Dask scheduler answers"):
        check(SPEC, stories=False, cluster="tcp://127.0.0.1:9")


@pytest.mark.parametrize("after", [1, 7, 40])
def test_an_interrupted_search_goes_on_from_its_file_to_the_same_end(alone, after):
    asked = iter(range(10**6))
    first = check(SPEC, stories=False, stop=lambda: next(asked) >= after)
    assert not first.complete
    assert first.tally.orders <= after
    assert all(v.status in (UNDECIDED, VIOLATED) for v in first.verdicts)
    state = json.loads(json.dumps(first.state))
    second = check(SPEC, stories=False, resume=state)
    assert told(second) == told(alone)


def test_it_can_be_interrupted_again_and_again(alone):
    state, rounds = None, 0
    while True:
        asked = iter(range(10**6))
        result = check(SPEC, stories=False, resume=state, stop=lambda asked=asked: next(asked) >= 9)
        rounds += 1
        if result.complete:
            break
        state = json.loads(json.dumps(result.state))
    assert rounds > 3
    assert told(result) == told(alone)


def test_a_budget_ends_in_undecided_and_never_in_holds():
    result = check(SPEC.but(delay_ns=10**8), stories=False, budget_s=0.0)
    assert [v.status for v in result.verdicts] == [UNDECIDED, UNDECIDED]
    assert not result.complete
    assert check(SPEC.but(delay_ns=10**8, properties=("tsc-agrees",))).verdicts[0].status == HOLDS


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.update(guestclock_search=2), "version 2, this program reads 1"),
        (lambda s: s["spec"].update(vcpus=3), "of another check"),
        (lambda s: s.update(properties=["tsc-agrees"]), "of other properties"),
        (lambda s: s["search"].pop("path"), "not a search's file, or a damaged one"),
        (lambda s: s.pop("guestclock_search"), "not a search's file, or a damaged one"),
    ],
)
def test_a_file_that_is_not_this_search_s_is_refused(change, says):
    asked = iter(range(10**6))
    state = check(SPEC, stories=False, stop=lambda: next(asked) >= 2).state
    change(state)
    with pytest.raises(UserError, match=says):
        check(SPEC, stories=False, resume=state)
